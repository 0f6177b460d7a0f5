"""The tail of the class distribution, and the logits that the Equalization Loss leaves out for its sake.

J. Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from imbdet.samples import Samples

Share = Annotated[float, Field(ge=0, le=1)]
ROUNDING = 1 + 1e-9  # frequencies are rounded quotients; a tail of exactly the ratio must not exceed it by a last digit


def tail_classes(frequency: Sequence[float], threshold: float | None, tail_ratio: float | None) -> Tensor:
    """Classes of the tail, T_lambda of equation 7, chosen in one of two ways.

    Args:
        frequency: K shares f_j of the training images that hold class j, each 0..1.
        threshold: lambda; the tail is every class with f_j < lambda, strictly.
        tail_ratio: the largest tail ratio TR (equation 8), the share of the image counts that the tail's classes hold.
            The tail is the largest set of the rarest classes that keeps to it; classes of equal frequency are all in
            it or all out.

    Returns:
        [K] bool.

    Raises:
        ValueError: both or none of threshold and tail_ratio, no frequency, or one that is no share.
    """
    if not len(frequency):
        raise ValueError("frequency is empty; expected a share of the training images for each class")
    for share in frequency:
        if not 0 <= share <= 1:
            raise ValueError(f"frequency is the share of training images that hold a class, 0 to 1, got {share}")
    f = torch.tensor(list(frequency), dtype=torch.float64)
    if threshold is not None and tail_ratio is None:
        return f < threshold
    if tail_ratio is not None and threshold is None:
        # Every f_j is an image count over the same number of images, so their sums are in the ratio of the counts'.
        up_to_own = torch.where(f <= f[:, None], f, 0.0).sum(1)
        return up_to_own <= tail_ratio * f.sum() * ROUNDING
    raise ValueError(f"give either threshold or tail_ratio, got threshold {threshold} and tail_ratio {tail_ratio}")


def left_out(tail: Tensor, samples: Samples) -> Tensor:
    """E(r) T_lambda(f_j) (1 - y_j) of equation 7: the other classes of the tail, in foreground rows.

    Args:
        tail: [K] bool.
        samples: of K classes.

    Returns:
        [N, K] bool. A logit of minus infinity there costs exactly nothing and gets no gradient, in binary cross entropy
        as a class that is no target, in softmax as a term of the sum over the classes.

    Raises:
        ValueError: another number of classes.
    """
    if len(tail) != samples.num_classes:
        raise ValueError(f"frequency is of {len(tail)} classes, but the samples have {samples.num_classes}")
    own = samples.label[:, None] == torch.arange(len(tail), device=tail.device)
    return samples.foreground[:, None] & tail & ~own
