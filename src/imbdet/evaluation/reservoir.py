"""A random sample of a stream of rows, of fixed size, every row equally likely."""

import numpy as np
from numpy.typing import NDArray


class Reservoir:
    """Keeps the rows with the lowest of their random keys, without copying what was kept for each batch that comes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._keys: list[NDArray[np.float32]] = []
        self._values: list[NDArray[np.float32]] = []
        self._held = 0
        self._limit = np.float32(np.inf)  # no row with a key above it can still be kept

    def add(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Offer n rows: [n] keys, drawn from [0, 1) for this purpose, and [n, ...] values."""
        below = keys < self._limit
        self._keys.append(keys[below])
        self._values.append(values[below])
        self._held += int(below.sum())
        if self._held >= 2 * self.size:
            self._trim()

    @property
    def values(self) -> NDArray[np.float32]:
        """[min(size, rows offered), ...], in the order in which they came."""
        self._trim()
        return self._values[0]

    def _trim(self) -> None:
        keys, values = np.concatenate(self._keys), np.concatenate(self._values)
        if len(keys) > self.size:
            chosen = np.sort(np.argpartition(keys, self.size)[: self.size])
            keys, values = keys[chosen], values[chosen]
            self._limit = keys.max()
        self._keys, self._values, self._held = [keys], [values], len(keys)
