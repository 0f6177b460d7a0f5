"""Random draws as functions of what they are for, so that a resume, a reorder or more workers change nothing."""

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return NumPy's generator for one purpose, e.g. ``generator(seed, "flip", epoch, image_id)``."""
    words = ":".join([str(seed), purpose, *map(str, ids)])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(words.encode()).digest()[:16], "little"))


def number(seed: int, purpose: str, *ids: int) -> int:
    """Return a seed for PyTorch's generators, 0 to 2**63 - 1, for one purpose."""
    return int(generator(seed, purpose, *ids).integers(2**63))
