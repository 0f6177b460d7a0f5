"""How the focal loss of a set of samples is spread: figure 4 of the focal-loss paper, in NumPy alone.

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 5.1: the losses of one set (foreground or
background) are divided by their sum, sorted from the smallest up and summed. alpha is constant within a set and
cancels. FL falls as x_t grows, for every gamma, so one order of the samples serves all.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from imbdet.errors import UserError

GAMMAS = (0.0, 0.5, 1.0, 2.0)
Floats = NDArray[np.floating]


def fraction_grid() -> NDArray[np.float64]:
    """About 200 fractions of the samples in [0, 1], both ends included.

    Even steps of 0.01, then 1 - 10^-k up to one sample in a million: there the background keeps most of its loss.
    """
    return np.unique(np.concatenate([np.linspace(0, 1, 101), 1 - np.logspace(-2, -6, 101)[1:]]))


def cumulative_share(x_t: Floats, gamma: float, fractions: Floats) -> NDArray[np.float64]:
    """Return the share of the focal loss that the easiest ``fractions`` of the samples carry.

    x_t: [N] margins, y times the logit, fp32 or fp64, any order. gamma: at least 0. fractions: [F] in [0, 1].
    Returns [F] fp64. At k/N it is the sum of the k smallest losses over the sum of all; in between it is linear.
    Raises UserError if there are no samples, one is not finite, or all losses are zero in fp64 (x_t above 700).
    """
    return _share(_easiest_first(x_t), gamma, np.asarray(fractions, np.float64))


def cumulative_table(foreground: Floats, background: Floats, gammas: Sequence[float] = GAMMAS) -> pd.DataFrame:
    """Build ``cumulative_loss.csv``: columns set, gamma, fraction, cumulative, samples.

    foreground: [P] x_t of the true class at foreground anchors. background: [Q] x_t = -x at background anchors.
    Raises UserError as :func:`cumulative_share` does.
    """
    fractions = fraction_grid()
    parts = []
    for name, x_t in (("foreground", foreground), ("background", background)):
        try:
            ordered = _easiest_first(x_t)
            shares = {gamma: _share(ordered, gamma, fractions) for gamma in gammas}
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        parts += [
            pd.DataFrame(
                {"set": name, "gamma": gamma, "fraction": fractions, "cumulative": share, "samples": len(ordered)}
            )
            for gamma, share in shares.items()
        ]
    return pd.concat(parts, ignore_index=True)


def cumulative(losses: Floats) -> pd.DataFrame:
    """The share of any losses, [N] at least 0 in any order, that their smallest fractions carry.

    Columns fraction, cumulative, samples, as :func:`cumulative_table` has them; all zero where no loss is above 0.
    """
    fractions = fraction_grid()
    ordered = np.sort(losses.astype(np.float64))
    shares = _share_of_sorted(ordered, fractions) if ordered[-1] > 0 else np.zeros_like(fractions)
    return pd.DataFrame({"fraction": fractions, "cumulative": shares, "samples": len(ordered)})


def _easiest_first(x_t: Floats) -> NDArray[np.float64]:
    """Samples from the smallest loss up, which is from the largest x_t down."""
    if x_t.size == 0:
        raise UserError("no samples, so no loss to divide; expected at least one anchor of this kind")
    if not np.isfinite(x_t).all():
        raise UserError(f"{np.sum(~np.isfinite(x_t))} of {x_t.size} logits are not finite; the training diverged")
    return np.sort(x_t)[::-1].astype(np.float64)


def _share(x_t: NDArray[np.float64], gamma: float, fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    if not 0 <= gamma < np.inf:
        raise UserError(f"focal loss needs gamma of at least 0, got {gamma}")
    cross_entropy = np.logaddexp(0, -x_t)
    # log(1 - p_t) = -softplus(x_t) = -(x_t + CE): no 1 - p_t, which is 0 where p_t rounds to 1.
    losses = np.exp(-gamma * (x_t + cross_entropy)) * cross_entropy
    if losses.sum() == 0:
        raise UserError("every loss is zero in double precision; the logits are too large to compare")
    return _share_of_sorted(losses, fractions)


def _share_of_sorted(losses: NDArray[np.float64], fractions: Floats) -> NDArray[np.float64]:
    """Share of the sum of [N] ascending losses that the first ``fractions`` of them have."""
    position = np.clip(fractions, 0, 1) * len(losses)
    whole = np.minimum(position.astype(np.int64), len(losses) - 1)
    # Few long sums, each pairwise, instead of one running sum over 1e7 samples that grows its rounding error.
    cuts = np.unique(np.concatenate([[0], whole, [len(losses)]]))
    segments = [losses[a:b].sum() for a, b in itertools.pairwise(cuts)]
    sums = np.concatenate([[0.0], np.cumsum(segments)])
    reached = sums[np.searchsorted(cuts, whole)] + (position - whole) * losses[whole]
    shares: NDArray[np.float64] = reached / sums[-1]
    return shares
