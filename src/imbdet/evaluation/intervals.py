"""How sure a measured AP, or a difference between two, is: paired bootstrap over images, and over seeds and images.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16. Two methods are resampled together:
the same images, and the same seeds, in both, so that what is hard for both does not blur their difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from imbdet.errors import UserError
from imbdet.evaluation.matching import Floats, Ints
from imbdet.evaluation.resampling import ClassMatches, resampled_ap
from imbdet.seeding import generator

LEVEL, POWER = 0.95, 0.8
METRICS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}


@dataclass(frozen=True)
class Resamples:
    """What is resampled, R times: images [R, I] and seeds [R, S], how often each is drawn; the same for all methods."""

    images: Ints
    seeds: Ints


def draw(resamples: int, images: int, seeds: int, seed: int) -> Resamples:
    """Draw as many images as there are, with replacement, and likewise seeds.

    With one seed the intervals are of the images alone. Raises UserError for no resamples or no images.
    """
    for name, value in (("resamples", resamples), ("images", images), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"a bootstrap needs at least one of each: {name} is {value}; 1,000 resamples are usual")
    rng = generator(seed, "bootstrap")
    even = (np.full(number, 1 / number) for number in (images, seeds))
    return Resamples(*(rng.multinomial(len(shares), shares, resamples) for shares in even))


@dataclass(frozen=True)
class Measured:
    """A metric of one method.

    value: on all images, the mean over the seeds. resampled: [R] float64, the same of each resample.
    """

    value: float
    resampled: Floats

    def __sub__(self, other: "Measured") -> "Measured":
        """The paired difference."""
        return Measured(self.value - other.value, self.resampled - other.resampled)

    @property
    def interval(self) -> tuple[float, float]:
        """The central 95 % of the resamples (percentile interval)."""
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(self.resampled, [tail, 1 - tail])
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference: how often resamples stray from the value as far as the value is from 0."""
        strays = np.abs(self.resampled - self.value) >= abs(self.value)
        return float((1 + strays.sum()) / (1 + len(strays)))

    @property
    def smallest_effect(self) -> float:
        """The smallest difference that a study with this spread would find (at 5 %) four times of five."""
        normal = NormalDist()
        factor = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
        return factor * float(np.std(self.resampled, ddof=1))


def measure(runs: Sequence[list[ClassMatches]], resamples: Resamples) -> dict[str, Measured]:
    """AP, AP50 and AP75 of a method.

    Args:
        runs: the matches of each seed's run, in the order of the seeds; of the same images.
        resamples: as :func:`draw` made them.

    Raises:
        UserError: another number of runs than of seeds, or so few boxes that a resample has none.
    """
    if len(runs) != resamples.seeds.shape[1]:
        raise UserError(f"{len(runs)} runs of a method, but {resamples.seeds.shape[1]} seeds; each seed needs one run")
    once = np.ones((1, resamples.images.shape[1]), np.int64)
    values = np.stack([resampled_ap(run, once)[0] for run in runs])  # [S, T]
    drawn = np.stack([resampled_ap(run, resamples.images) for run in runs])  # [S, R, T]
    if np.isnan(drawn).any():
        raise UserError("a resample holds no box at all: too few images have boxes for an interval to mean anything")
    mean = np.einsum("rs,srt->rt", resamples.seeds / len(runs), drawn)
    return {name: Measured(float(values[:, rows].mean()), mean[:, rows].mean(axis=1)) for name, rows in METRICS.items()}


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """p values adjusted for being several (Holm, Scandinavian Journal of Statistics 6, 1979), in the same order."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted
