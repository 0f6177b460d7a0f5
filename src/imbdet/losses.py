"""Elementwise losses of one logit, and their sum over the classes of each candidate without temporaries.

Every classification loss here is a function of the margin ``x_t = y x`` alone (y = +1 for the target class, -1
otherwise), so each is one small class with the loss ``value(x_t)`` and its derivative ``slope(x_t)``. The public
elementwise functions and the fused path for dense heads share these two formulas. Half-precision logits are promoted
to fp32, fp32 and fp64 stay as they are.

Source of the equations: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (section 3, appendices A and B).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imbdet.heads import Activation

# Logits of a block of the eager path on a CPU: PyTorch runs an operation on fewer than 32,768 elements in one thread,
# without the barriers that on a busy machine cost more than a second thread gains, and the block stays in cache.
BLOCK_ELEMENTS = 1 << 15
BLOCKS_ON_GPU = 16  # taken at once there, where each operation has to be launched; more would need more memory
LOG2_E = math.log2(math.e)
EXACT_SOFTPLUS = 40.0  # above it softplus(x) is x in fp64 too


class MarginLoss(ABC):
    """A loss of the margin x_t and its derivative with respect to x_t, both elementwise."""

    @abstractmethod
    def value(self, x_t: Tensor) -> Tensor: ...

    @abstractmethod
    def slope(self, x_t: Tensor) -> Tensor: ...

    def both(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope, for a kernel that computes what they share once."""
        return self.value(x_t), self.slope(x_t)


@dataclass(frozen=True)
class CrossEntropy(MarginLoss):
    """CE = -log p_t with p_t = sigmoid(x_t); dCE/dx_t = p_t - 1."""

    def value(self, x_t: Tensor) -> Tensor:
        return -F.logsigmoid(x_t)

    def slope(self, x_t: Tensor) -> Tensor:
        return -torch.sigmoid(-x_t)


@dataclass(frozen=True)
class Focal(MarginLoss):
    """FL = (1 - p_t)^gamma (-log p_t), equation 4; dFL/dx_t = (1 - p_t)^gamma (gamma p_t log p_t + p_t - 1)."""

    gamma: float

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"focal loss needs gamma >= 0, got {self.gamma}")

    def value(self, x_t: Tensor) -> Tensor:
        q, loss = _probability_and_loss(x_t)
        return _power(q, self.gamma) * loss

    def slope(self, x_t: Tensor) -> Tensor:
        return self._slope(*_probability_and_loss(x_t))

    def both(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        q, loss = _probability_and_loss(x_t)
        return _power(q, self.gamma) * loss, self._slope(q, loss)

    def _slope(self, q: Tensor, loss: Tensor) -> Tensor:
        # In terms of q = 1 - p_t: the paper's form takes 1 - p_t after rounding and loses q where p_t is near 1.
        return -_power(q, self.gamma) * torch.addcmul(q, 1 - q, loss, value=self.gamma)


@dataclass(frozen=True)
class FocalStar(MarginLoss):
    """FL* = -log(sigmoid(gamma x_t + beta)) / gamma, appendix A; dFL*/dx_t = sigmoid(gamma x_t + beta) - 1."""

    gamma: float
    beta: float

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"FL* divides by gamma and needs gamma > 0, got {self.gamma}")

    def value(self, x_t: Tensor) -> Tensor:
        return -F.logsigmoid(self.gamma * x_t + self.beta) / self.gamma

    def slope(self, x_t: Tensor) -> Tensor:
        return -torch.sigmoid(-(self.gamma * x_t + self.beta))


def sigmoid_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of each logit.

    Args:
        logits: [N, C], any float dtype.
        targets: [N, C], 1 for the target class and 0 otherwise, or soft labels between.

    Returns:
        [N, C], not reduced; fp32 for half-precision logits.
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
        ValueError: gamma below 0.
    """
    return _elementwise(Focal(gamma), logits, targets, alpha)


def sigmoid_focal_star_loss(logits: Tensor, targets: Tensor, alpha: float | None, gamma: float, beta: float) -> Tensor:
    """FL* of each logit, Lin et al. 2017 appendix A; arguments as :func:`sigmoid_focal_loss`, gamma above 0.

    Raises:
        ValueError: gamma not above 0.
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
    """
    result: Tensor = _SumOverClasses.apply(logits, label, loss, alpha, compiled)
    return result


@dataclass(frozen=True)
class ClassificationLoss:
    """What each candidate's logits cost, summed over its classes: sigmoid columns or softmax.

    activation: "softmax" is the cross entropy of K + 1 columns, the background's last; it takes neither another loss
        nor alpha.
    margin: the loss of each sigmoid column.
    alpha: weight of target columns, 1 - alpha of the others; None for none.

    Raises ValueError for softmax with another loss or with alpha.
    """

    activation: Activation
    margin: MarginLoss
    alpha: float | None

    def __post_init__(self) -> None:
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

    Rows with label -1 cost nothing and get no gradient, whatever they hold.
    """
    kept = torch.where((label >= 0)[:, None], _promote(logits), 0.0)  # NaN times a gradient of 0 would be NaN
    return F.cross_entropy(kept, label, ignore_index=-1, reduction="none")


def smooth_l1(deltas: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Smooth L1 loss, unreduced: ``d^2 / (2 beta)`` for ``|d| < beta``, else ``|d| - beta / 2``; L1 for beta 0.

    Args:
        deltas: [..., 4] predicted box offsets; half precision is promoted to fp32.
        targets: [..., 4] offsets of the ground truth.
        beta: where the parabola meets the line, at least 0.
    """
    return F.smooth_l1_loss(_promote(deltas), targets, reduction="none", beta=beta)


def _promote(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _probability_and_loss(x_t: Tensor) -> tuple[Tensor, Tensor]:
    """1 - p_t and -log p_t."""
    if not torch.compiler.is_compiling():  # the fewest passes over memory
        x = -x_t
        return torch.sigmoid(x), F.softplus(x, threshold=EXACT_SOFTPLUS)
    # The fewest instructions: both from one exponential. The compiler would keep the result of exp, which is used
    # more than once, in memory; that of exp2 it keeps in registers.
    e = torch.exp2(-LOG2_E * x_t.abs())
    return torch.where(x_t >= 0, e, 1.0) / (1 + e), torch.log1p(e) + (-x_t).relu()


def _power(q: Tensor, gamma: float) -> Tensor:
    """``q ** gamma``; a product where one is enough, as pow costs more than the rest of the loss."""
    if gamma == 0:
        return torch.ones_like(q)
    if gamma == 1:
        return q
    return q * q if gamma == 2 else q**gamma


def _elementwise(loss: MarginLoss, logits: Tensor, targets: Tensor, alpha: float | None) -> Tensor:
    x = _promote(logits)
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    as_target: Tensor = _Margin.apply(x, loss)
    as_other: Tensor = _Margin.apply(-x, loss)
    targets = targets.to(x.dtype)
    return positive * targets * as_target + negative * (1 - targets) * as_other


class _Margin(torch.autograd.Function):
    """value(x_t) with slope(x_t) as its derivative: autograd through q**gamma gives 0 * inf at saturated logits."""

    @staticmethod
    def forward(ctx: Any, x_t: Tensor, loss: MarginLoss) -> Tensor:
        ctx.save_for_backward(x_t)
        ctx.loss = loss
        return loss.value(x_t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x_t,) = ctx.saved_tensors
        return grad * ctx.loss.slope(x_t), None


class _SumOverClasses(torch.autograd.Function):
    """Nearly all rows are background: every class is computed as a non-target, then the target's column replaced."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, loss: MarginLoss, alpha: float | None, compiled: bool
    ) -> Tensor:
        ctx.save_for_backward(logits, label)
        ctx.rest = loss, alpha, compiled
        ctx.slopes = None
        at_target = _at_target(logits, label)
        # Half-precision slopes would be rounded twice, here and where backward scales them.
        if compiled and ctx.needs_input_grad[0] and _promote(logits) is logits:
            kernel = _compiled(_values_and_slopes)
            both: tuple[Tensor, Tensor] = kernel(logits, label, *loss.both(at_target), loss, alpha)
            rows, ctx.slopes = both
            return rows
        kernel = _compiled(_values) if compiled else _values_by_block
        rows = kernel(logits, label, loss.value(at_target), loss, alpha)
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, label = ctx.saved_tensors
        loss, alpha, compiled = ctx.rest
        if ctx.slopes is None or torch.is_grad_enabled():
            kernel = _compiled(_slopes) if compiled else _slopes_by_block
            slopes = kernel(logits, label, loss.slope(_at_target(logits, label)), grad, loss, alpha)
        else:  # scaled in place, so of use once: a second backward through a graph that is kept computes them again
            slopes, ctx.slopes = ctx.slopes.mul_(torch.where(label >= 0, grad, 0.0)[:, None]), None
        return slopes, None, None, None, None


def _at_target(logits: Tensor, label: Tensor) -> Tensor:
    """[N] logits of the target classes, promoted; of any class where there is no target."""
    return _promote(logits.gather(1, label.clamp(0, logits.shape[1] - 1)[:, None])[:, 0])


def _values(logits: Tensor, label: Tensor, target: Tensor, loss: MarginLoss, alpha: float | None) -> Tensor:
    """[n, K] logits, [n] labels and [n] values at the targets to [n] losses."""
    return _summed(loss.value(-_promote(logits)), target, label, alpha)


def _slopes(
    logits: Tensor, label: Tensor, target: Tensor, grad: Tensor, loss: MarginLoss, alpha: float | None
) -> Tensor:
    """[n, K] logits, [n] labels, slopes at the targets and gradients of the losses to [n, K] gradients."""
    return _scaled(loss.slope(-_promote(logits)), target, label, grad, alpha).to(logits.dtype)


def _values_and_slopes(
    logits: Tensor, label: Tensor, value: Tensor, slope: Tensor, loss: MarginLoss, alpha: float | None
) -> tuple[Tensor, Tensor]:
    """[n, K] logits, [n] labels, values and slopes at the targets to [n] losses and their [n, K] derivatives."""
    values, slopes = loss.both(-logits)
    return _summed(values, value, label, alpha), _scaled(slopes, slope, label, torch.ones_like(slope), alpha)


def _summed(others: Tensor, target: Tensor, label: Tensor, alpha: float | None) -> Tensor:
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    rows = _with_target(negative * others, positive * target, label).sum(1)
    return torch.where(label >= 0, rows, 0.0)


def _scaled(others: Tensor, target: Tensor, label: Tensor, grad: Tensor, alpha: float | None) -> Tensor:
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    rows = _with_target((-negative * grad)[:, None] * others, positive * grad * target, label)
    return rows.masked_fill_((label < 0)[:, None], 0.0)


def _with_target(others: Tensor, target: Tensor, label: Tensor) -> Tensor:
    """[n, K] with the column of each foreground row's class replaced by [n]."""
    classes = others.shape[1]
    if torch.compiler.is_compiling():
        # Compared as int32: as wide as fp32, so that the fused kernel compares as many classes as it computes.
        column = torch.arange(classes, dtype=torch.int32, device=others.device)
        return torch.where(column == label.to(torch.int32)[:, None], target[:, None], others)
    index = label.clamp(0, classes - 1)[:, None]
    foreground = ((label >= 0) & (label < classes))[:, None]
    return others.scatter_(1, index, torch.where(foreground, target[:, None], others.gather(1, index)))


def _values_by_block(logits: Tensor, label: Tensor, target: Tensor, loss: MarginLoss, alpha: float | None) -> Tensor:
    return torch.cat([_values(x, y, t, loss, alpha) for x, y, t in _blocks(logits, label, target)])


def _slopes_by_block(
    logits: Tensor, label: Tensor, target: Tensor, grad: Tensor, loss: MarginLoss, alpha: float | None
) -> Tensor:
    out = torch.empty_like(logits)
    for part, x, y, t, g in _blocks(out, logits, label, target, grad):
        part.copy_(_slopes(x, y, t, g, loss, alpha))
    return out


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The rows of all tensors, as many at a time as fit a block of the first, which is [N, K]."""
    elements = BLOCK_ELEMENTS * (BLOCKS_ON_GPU if tensors[0].is_cuda else 1)
    rows = max(1, elements // tensors[0].shape[1])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


@cache
def _compiled(function: Callable[..., Any]) -> Any:
    return torch.compile(function)
