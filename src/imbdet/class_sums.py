"""Sum of a loss over the classes of each candidate, without temporaries of the logits' size.

Nothing of size [N, K] is kept for backward, which computes the gradient from the logits again: a block of rows at a
time, or in one kernel fused by ``torch.compile``. Only a gradient that will be differentiated itself
(``create_graph=True``, ``torch.func``), or is one of a batch (``is_grads_batched=True``), is computed in ordinary
operations on all rows, which autograd records.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from imbdet.margins import MarginLoss, derivative, forward_mode, promote

# Logits of a block of the eager path on a CPU: PyTorch runs an operation on fewer than 32,768 elements in one thread,
# without the barriers that on a busy machine cost more than a second thread gains, and the block stays in cache.
BLOCK_ELEMENTS = 1 << 15
BLOCKS_ON_GPU = 16  # taken at once there, where each operation has to be launched; more would need more memory


def class_sums(logits: Tensor, label: Tensor, loss: MarginLoss, alpha: float | None, compiled: bool) -> Tensor:
    """[N, K] logits and [N] labels to [N] losses; see :func:`imbdet.losses.sum_over_classes`."""
    ahead = logits.requires_grad and torch.is_grad_enabled()
    rows: Tensor
    rows, _ = _function().apply(logits, label, loss, alpha, compiled, ahead)
    return rows


class _SumOverClasses(torch.autograd.Function):
    """Nearly all rows are background: every class is computed as a non-target, then the target's column replaced.

    The second output is the rows' derivatives where the fused kernel has computed them beside the rows, or None.
    """

    @staticmethod
    def forward(
        logits: Tensor, label: Tensor, loss: MarginLoss, alpha: float | None, compiled: bool, ahead: bool
    ) -> tuple[Tensor, Tensor | None]:
        at_target = _at_target(logits, label)
        # Half-precision slopes would be rounded twice, here and where backward scales them.
        if compiled and ahead and promote(logits) is logits:
            kernel = _compiled(_values_and_slopes)
            both: tuple[Tensor, Tensor] = kernel(logits, label, *loss.both(at_target), loss, alpha)
            return both
        kernel = _compiled(_values) if compiled else _values_by_block
        return kernel(logits, label, loss.value(at_target), loss, alpha), None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor | None]) -> None:
        logits, label, *rest, _ = inputs
        ctx.save_for_backward(logits, label)
        ctx.save_for_forward(logits, label)
        ctx.rest = rest
        _, ctx.slopes = output
        if ctx.slopes is not None:
            ctx.mark_non_differentiable(ctx.slopes)
        ctx.set_materialize_grads(False)  # zeros for the slopes would have the logits' size

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None, None, None, None, None]:
        if grad is None:
            return None, None, None, None, None, None
        logits, label = ctx.saved_tensors
        loss, alpha, compiled = ctx.rest
        # Slopes computed ahead have lost the tangent of the logits.
        if _transformed(grad) or forward_ad.unpack_dual(logits).tangent is not None:
            slopes = _differentiable_slopes(logits, label, grad, loss, alpha).to(logits.dtype)
        elif ctx.slopes is None:
            kernel = _compiled(_slopes) if compiled else _slopes_by_block
            slopes = kernel(logits, label, loss.slope(_at_target(logits, label)), grad, loss, alpha)
        else:  # scaled in place, so of use once: a second backward through a graph that is kept computes them again
            slopes, ctx.slopes = ctx.slopes.mul_(torch.where(label >= 0, grad, 0.0)[:, None]), None
        return slopes, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], logits: Tensor, label: Tensor, *rest: Any) -> Any:
        """Rows do not depend on one another: those of all samples are rows of one call."""
        both = zip((logits, label), in_dims[:2], strict=True)
        logits, label = (x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0) for x, dim in both)
        outputs = _function().apply(logits.flatten(0, 1), label.flatten(), *rest)
        outputs = tuple(None if x is None else x.unflatten(0, label.shape) for x in outputs)
        return outputs, tuple(None if x is None else 0 for x in outputs)


class _ForwardModeToo(_SumOverClasses):
    """The same with forward-mode derivatives; torch.compile refuses a function that has its own."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> tuple[Tensor, None]:
        loss, alpha, *_ = ctx.rest
        with forward_mode(ctx) as (logits, label):
            ones = torch.ones_like(label, dtype=promote(logits).dtype)
            slopes = _differentiable_slopes(logits, label, ones, loss, alpha)
            return torch.where((label >= 0)[:, None], slopes * tangent, 0.0).sum(1), None


def _function() -> type[_SumOverClasses]:
    return _SumOverClasses if torch.compiler.is_compiling() else _ForwardModeToo


def _at_target(logits: Tensor, label: Tensor) -> Tensor:
    """[N] logits of the target classes, promoted; of the first class where there is no target."""
    classes = logits.shape[1]
    index = torch.where((label == -1) | (label == classes), 0, label)
    with refused_labels(label, classes):
        return promote(logits.gather(1, index[:, None])[:, 0])


@contextmanager
def refused_labels(label: Tensor, background: int) -> Iterator[None]:
    """Say which labels are allowed where an operation on a CPU has met another; nothing waits for the device."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        wrong = label[(label < -1) | (label > background)]
        if not len(wrong):
            raise
        raise ValueError(
            f"label {int(wrong[0])} does not exist; expected 0 to {background - 1} for foreground, {background} for "
            "background, -1 for ignored"
        ) from error


def _differentiable_slopes(
    logits: Tensor, label: Tensor, grad: Tensor, loss: MarginLoss, alpha: float | None
) -> Tensor:
    """:func:`_slopes` of all rows at once, promoted, in operations that autograd differentiates."""
    kept = label >= 0
    # What ignored rows hold is taken out first: NaN times a gradient of 0 would be NaN.
    x, grad = torch.where(kept[:, None], promote(logits), 0.0), torch.where(kept, grad, 0.0)
    others, target = (derivative(1, loss, x_t) for x_t in (-x, _at_target(x, label)))
    return _scaled(others, target, label, grad, alpha)


def _values(logits: Tensor, label: Tensor, target: Tensor, loss: MarginLoss, alpha: float | None) -> Tensor:
    """[n, K] logits, [n] labels and [n] values at the targets to [n] losses."""
    return _summed(loss.value(-promote(logits)), target, label, alpha)


def _slopes(
    logits: Tensor, label: Tensor, target: Tensor, grad: Tensor, loss: MarginLoss, alpha: float | None
) -> Tensor:
    """[n, K] logits, [n] labels, slopes at the targets and gradients of the losses to [n, K] gradients."""
    return _scaled(loss.slope(-promote(logits)), target, label, grad, alpha).to(logits.dtype)


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
    if torch.compiler.is_compiling() or _transformed(target):  # torch.func has no scatter in place
        # Compared as int32: as wide as fp32, so that the fused kernel compares as many classes as it computes.
        column = torch.arange(classes, dtype=torch.int32, device=others.device)
        return torch.where(column == label.to(torch.int32)[:, None], target[:, None], others)
    index = label.clamp(0, classes - 1)[:, None]
    foreground = ((label >= 0) & (label < classes))[:, None]
    return others.scatter_(1, index, torch.where(foreground, target[:, None], others.gather(1, index)))


def _transformed(x: Tensor) -> bool:
    """Whether autograd may record what becomes of a tensor, or the tensor stands for a batch, as under vmap."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():  # which traces neither of the questions below
        return torch.is_grad_enabled()
    # Of torch.func.vmap, and of is_grads_batched.
    return torch._C._functorch.is_batchedtensor(x) or torch._C._functorch.is_legacy_batchedtensor(x)


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
