"""Elementwise losses of one logit, and their sum over the classes of each candidate without temporaries.

Half-precision logits are promoted to fp32, fp32 and fp64 stay as they are. Every loss can be differentiated twice and
more, also by ``torch.func``.
"""

from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from imbdet.class_sums import class_sums, refused_labels
from imbdet.domains import ALPHA, BOX_BETA, check_word
from imbdet.heads import Activation
from imbdet.margins import CrossEntropy, Focal, FocalStar, MarginLoss, derivative, promote
from imbdet.tensor_shapes import check_floats, check_same_shape, check_shapes

__all__ = [
    "ClassificationLoss",
    "CrossEntropy",
    "Focal",
    "FocalStar",
    "MarginLoss",
    "sigmoid_cross_entropy",
    "sigmoid_focal_loss",
    "sigmoid_focal_star_loss",
    "smooth_l1",
    "softmax_cross_entropy",
    "sum_over_classes",
]

ONE_HOT = ", one target for each logit (torch.nn.functional.one_hot makes targets of class indices)"


def sigmoid_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of each logit.

    Args:
        logits: [N, C], any float dtype.
        targets: [N, C], 1 for the target class and 0 otherwise, or soft labels between.

    Returns:
        [N, C], not reduced; fp32 for half-precision logits.

    Raises:
        ValueError: logits and targets of different shapes, or logits that are no floats.
    """
    return _elementwise(CrossEntropy(), logits, targets, None)


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float | None, gamma: float) -> Tensor:
    """Focal loss of each logit, Lin et al. 2017 equation 5.

    Args:
        logits: [N, C], any float dtype.
        targets: [N, C], 1 for the target class and 0 otherwise, or soft labels t: t times the loss of a target plus
            1 - t times that of a non-target.
        alpha: weight of targets, 1 - alpha of the others; None for none.
        gamma: focusing parameter, at least 0; 0 is (alpha-balanced) cross entropy.

    Returns:
        [N, C], not reduced; fp32 for half-precision logits.

    Raises:
        ValueError: gamma below 0, alpha outside 0..1 (None is for no weighing, not -1), or one that is not finite;
            logits and targets of different shapes, or logits that are no floats. Values of targets are not checked.
    """
    return _elementwise(Focal(gamma), logits, targets, alpha)


def sigmoid_focal_star_loss(logits: Tensor, targets: Tensor, alpha: float | None, gamma: float, beta: float) -> Tensor:
    """FL* of each logit, Lin et al. 2017 appendix A; arguments as :func:`sigmoid_focal_loss`, gamma above 0.

    Raises:
        ValueError: as there, for gamma of 0 and for a beta that is not finite as well.
    """
    return _elementwise(FocalStar(gamma, beta), logits, targets, alpha)


def sum_over_classes(
    loss: MarginLoss, logits: Tensor, label: Tensor, alpha: float | None, compiled: bool = False
) -> Tensor:
    """Loss of each candidate, summed over its classes, in the memory of one gradient.

    The same numbers as ``sigmoid_*_loss(logits, one_hot(label)).sum(1)`` with ignored rows zero, but nothing of size
    [N, K] is kept for backward, which computes the gradient from the logits again, a block of rows at a time, or in
    one kernel fused by ``torch.compile``.

    Args:
        loss: what each logit costs.
        logits: [N, K], any float dtype. Rows that are ignored may hold anything, NaN included.
        label: [N] int64; 0..K-1 foreground, K background, -1 ignored.
        alpha: weight of targets, 1 - alpha of the others; None for none.
        compiled: use a fused kernel. It takes some seconds to compile once a process and needs a compiler.

    Returns:
        [N] fp32 (fp64 for fp64 logits), 0 where ignored; its gradient is 0 there too.

    Raises:
        ValueError: alpha outside 0..1, other shapes or dtypes, or a label outside -1..K. On a GPU such a label fails an
            assertion of the device, as in PyTorch's own losses: looking for it would make the host wait.
    """
    ALPHA.check("alpha", alpha)
    _check_rows(logits, label)
    return class_sums(logits, label, loss, alpha, compiled)


@dataclass(frozen=True)
class ClassificationLoss:
    """What each candidate's logits cost, summed over its classes: sigmoid columns or softmax.

    activation: "softmax" is the cross entropy of K + 1 columns, the background's last; it takes neither another loss
        nor alpha.
    margin: the loss of each sigmoid column.
    alpha: weight of target columns, 1 - alpha of the others; None for none.

    Raises ValueError for softmax with another loss or with alpha, and for values outside their domain.
    """

    activation: Activation
    margin: MarginLoss
    alpha: float | None

    def __post_init__(self) -> None:
        check_word("activation", self.activation, get_args(Activation))
        ALPHA.check("alpha", self.alpha)
        if self.activation == "softmax" and (self.margin not in (CrossEntropy(), Focal(0.0)) or self.alpha is not None):
            raise ValueError(
                f"a softmax head has plain cross entropy (alpha null, gamma 0), got alpha {self.alpha}, {self.margin}"
            )

    def __call__(self, logits: Tensor, label: Tensor, compiled: bool = False) -> Tensor:
        """[N, C] logits and [N] labels (0..K-1, background K, ignored -1) to [N] losses, 0 where ignored."""
        if self.activation == "sigmoid":
            return sum_over_classes(self.margin, logits, label, self.alpha, compiled)
        return softmax_cross_entropy(logits, label)


def softmax_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """[N, K + 1] logits, the background's last, and [N] labels to [N] cross entropies in fp32 (fp64 kept).

    Rows with label -1 cost nothing and get no gradient, whatever they hold. Raises ValueError for other shapes or
    dtypes, and for a label outside -1..K (on a GPU see :func:`sum_over_classes`).
    """
    _check_rows(logits, label)
    kept = torch.where((label >= 0)[:, None], promote(logits), 0.0)  # NaN times a gradient of 0 would be NaN
    with refused_labels(label, logits.shape[1] - 1):
        return F.cross_entropy(kept, label, ignore_index=-1, reduction="none")


def smooth_l1(deltas: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Smooth L1 loss, unreduced: ``d^2 / (2 beta)`` for ``|d| < beta``, else ``|d| - beta / 2``; L1 for beta 0.

    Args:
        deltas: [..., 4] predicted box offsets; half precision is promoted to fp32.
        targets: [..., 4] offsets of the ground truth.
        beta: where the parabola meets the line, at least 0.

    Raises:
        ValueError: beta below 0 or not finite, shapes that differ, or deltas that are no floats.
    """
    BOX_BETA.check("beta", beta)
    check_floats("deltas", deltas)
    check_same_shape("deltas", deltas, "targets", targets)
    return F.smooth_l1_loss(promote(deltas), targets, reduction="none", beta=beta)


def _check_rows(logits: Tensor, label: Tensor) -> None:
    check_floats("logits", logits)
    check_shapes({"logits": "N C", "label": "N"}, {"logits": logits, "label": label})
    if not logits.shape[1]:
        raise ValueError(f"logits of shape {list(logits.shape)} have no column; expected at least one class")
    if label.dtype != torch.int64:
        raise ValueError(f"label is of {label.dtype}; expected torch.int64")


def _elementwise(loss: MarginLoss, logits: Tensor, targets: Tensor, alpha: float | None) -> Tensor:
    ALPHA.check("alpha", alpha)
    check_floats("logits", logits)
    check_same_shape("logits", logits, "targets", targets, ONE_HOT)
    x = promote(logits)
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    as_target, as_other = derivative(0, loss, x), derivative(0, loss, -x)
    targets = targets.to(x.dtype)
    return positive * targets * as_target + negative * (1 - targets) * as_other
