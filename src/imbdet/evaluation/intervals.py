"""How sure a measured AP, or a difference between two, is: paired bootstrap over images, and over seeds and images.

Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16. Two methods are resampled together:
the same images, and runs of the same seed, in both, so that what is hard for both does not blur their difference.

Images are many, and are drawn with replacement. Seeds are few, and to draw those as well would give intervals that are
far too narrow: the spread of S values drawn from S is (S - 1) / S of the true one on average, and is itself uncertain.
With three seeds, such an interval of 95 % holds the truth 75 times of 100 where seeds alone matter. So the error of the
seeds' mean is drawn from Student's t with S - 1 degrees of freedom instead, and added to that of the images. This is
Behrens and Fisher's solution for a sum of two errors, which is a little too wide rather than too narrow (Robinson,
Annals of Statistics 4, 1976): simulated normal errors are covered 95 to 98 times of 100 with 3 seeds and 95 to 96.5
with 5, depending on how much of the error is the seeds'. What images do to single runs is taken out of the images'
part, since it is in the spread between the seeds already (the variance components of Obuchowski and Rockette,
Communications in Statistics, Simulation and Computation 24, 1995, with seeds as readers and images as cases).

Resamples hold images twice and leave others out, which raises AP: of many rare classes, by as much as the interval is
wide. So what is resampled is set off from its own mean, and an interval is about the AP that as many other images give
on average.

Three seeds remain coarse: where they alone matter, an interval is 2.2 times as wide as if their true spread were known.
With two seeds it is 6.5 times as wide, with five 1.4 times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Literal

import numpy as np

from imbdet.errors import UserError
from imbdet.evaluation.matching import Floats, Ints
from imbdet.evaluation.resampling import ClassMatches, resampled_ap
from imbdet.seeding import generator

Over = Literal["images", "seeds_and_images"]
LEVEL, POWER = 0.95, 0.8
METRICS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
DRAWS = 100  # of the seeds' error for each resample of the images: the tails of Student's t want many


@dataclass(frozen=True)
class Resamples:
    """What is resampled, R times, the same for all methods.

    images: [R, I] int64, how often each image is drawn. seeds: number of runs of each method. seed_errors:
    [R, DRAWS] float64 from Student's t, or None where the seeds are kept as they are.
    """

    images: Ints
    seeds: int
    seed_errors: Floats | None

    @property
    def least_p(self) -> float:
        """The smallest p value that so many resamples can give."""
        return 1 / (1 + (len(self.images) if self.seed_errors is None else self.seed_errors.size))


def draw(resamples: int, images: int, seeds: int, over: Over, seed: int) -> Resamples:
    """Draw as many images as there are, with replacement, and where ``over`` says so the seeds' errors.

    Over images alone the result speaks of these very runs. Raises UserError for no resamples, images or seeds, and for
    one seed where seeds are to be resampled.
    """
    for name, value in (("resamples", resamples), ("images", images), ("seeds", seeds)):
        if value < 1:
            raise UserError(f"a bootstrap needs at least one of each: {name} is {value}; 1,000 resamples are usual")
    if over == "seeds_and_images" and seeds < 2:
        raise UserError(
            "one seed says nothing of other seeds; give at least two, better five, or resample over images alone"
        )
    rng = generator(seed, "bootstrap")
    drawn = rng.multinomial(images, np.full(images, 1 / images), resamples)
    errors = rng.standard_t(seeds - 1, (resamples, DRAWS)) if over == "seeds_and_images" else None
    return Resamples(drawn, seeds, errors)


@dataclass(frozen=True)
class Measured:
    """A metric of one method, or the difference between two.

    by_seed: [S] float64, of each run on all images. resampled: [S, R] float64, of each run on each resample of the
    images. seed_errors: as in :class:`Resamples`.
    """

    by_seed: Floats
    resampled: Floats
    seed_errors: Floats | None

    def __sub__(self, other: "Measured") -> "Measured":
        """The paired difference."""
        return Measured(self.by_seed - other.by_seed, self.resampled - other.resampled, self.seed_errors)

    @property
    def value(self) -> float:
        """The mean over the seeds, on all images."""
        return float(self.by_seed.mean())

    @cached_property
    def strays(self) -> Floats:
        """[R], or [R * DRAWS] with seeds: by how much the value would be another with other images, and seeds."""
        own = self.resampled - self.resampled.mean(axis=1, keepdims=True)  # about the mean: see above
        shared: Floats = own.mean(axis=0)
        if self.seed_errors is None:
            return shared
        seeds, variance = len(own), shared.var()
        of_single_runs = own.var(axis=0, ddof=1).mean() / seeds
        if variance > 0:
            shared = shared * np.sqrt(max(0.0, 1 - of_single_runs / variance))
        error = self.by_seed.std(ddof=1) / np.sqrt(seeds)
        strays: Floats = (shared[:, None] + error * self.seed_errors).ravel()
        return strays

    @property
    def interval(self) -> tuple[float, float]:
        """The central 95 % (percentile interval about the value)."""
        tail = (1 - LEVEL) / 2
        low, high = self.value + np.quantile(self.strays, [tail, 1 - tail])
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference: how often the value would stray as far as it is from 0."""
        as_far = np.abs(self.strays) >= abs(self.value)
        return float((1 + as_far.sum()) / (1 + len(as_far)))

    @property
    def smallest_effect(self) -> float:
        """The smallest difference that a study with this spread would find four times of five, at 5 % by itself.

        Several comparisons with Holm's correction find less.
        2.8 standard errors, where half of the interval is 1.96. Of three seeds it is 4 % too small for their part.
        """
        normal = NormalDist()
        half, power = normal.inv_cdf((1 + LEVEL) / 2), normal.inv_cdf(POWER)
        return float(np.quantile(np.abs(self.strays), LEVEL)) * (half + power) / half


def measure(runs: Sequence[list[ClassMatches]], resamples: Resamples) -> dict[str, Measured]:
    """AP, AP50 and AP75 of a method.

    Args:
        runs: the matches of each seed's run, in the order of the seeds; of the same images.
        resamples: as :func:`draw` made them.

    Raises:
        UserError: another number of runs than of seeds, or so few boxes that a resample has none.
    """
    if len(runs) != resamples.seeds:
        raise UserError(f"{len(runs)} runs of a method, but {resamples.seeds} seeds; each seed needs one run")
    once = np.ones((1, resamples.images.shape[1]), np.int64)
    ap = np.stack([resampled_ap(run, np.concatenate([once, resamples.images])) for run in runs])  # [S, 1 + R, T]
    if np.isnan(ap).any():
        raise UserError("a resample holds no box at all: too few images have boxes for an interval to mean anything")
    return {
        name: Measured(own[:, 0], own[:, 1:], resamples.seed_errors)
        for name, own in ((name, ap[..., rows].mean(axis=2)) for name, rows in METRICS.items())
    }
