"""Losses of the margin alone, with their derivatives.

Every classification loss here is a function of the margin ``x_t = y x`` alone (y = +1 for the target class, -1
otherwise), so each is one small class with the loss ``value(x_t)`` and its derivatives ``slope(x_t)`` and
``curvature(x_t)``. The elementwise losses and the fused path for dense heads share these formulas.

Source of the equations: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (section 3, appendices A and B).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from imbdet.domains import GAMMA, SHIFT, STEEPNESS

LOG2_E = math.log2(math.e)
EXACT_SOFTPLUS = 40.0  # above it softplus(x) is x in fp64 too


class MarginLoss(ABC):
    """A loss of the margin x_t and its derivatives with respect to x_t, all elementwise."""

    @abstractmethod
    def value(self, x_t: Tensor) -> Tensor: ...

    @abstractmethod
    def slope(self, x_t: Tensor) -> Tensor: ...

    @abstractmethod
    def curvature(self, x_t: Tensor) -> Tensor:
        """Second derivative, in operations whose own derivatives autograd has finite everywhere."""

    def both(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope, for a kernel that computes what they share once."""
        return self.value(x_t), self.slope(x_t)


@dataclass(frozen=True)
class CrossEntropy(MarginLoss):
    """CE = -log p_t with p_t = sigmoid(x_t); dCE/dx_t = p_t - 1; d2CE/dx_t^2 = p_t (1 - p_t)."""

    def value(self, x_t: Tensor) -> Tensor:
        return -F.logsigmoid(x_t)

    def slope(self, x_t: Tensor) -> Tensor:
        return -torch.sigmoid(-x_t)

    def curvature(self, x_t: Tensor) -> Tensor:
        return torch.sigmoid(x_t) * torch.sigmoid(-x_t)


@dataclass(frozen=True)
class Focal(MarginLoss):
    """FL = (1 - p_t)^gamma (-log p_t), equation 4; dFL/dx_t = (1 - p_t)^gamma (gamma p_t log p_t + p_t - 1).

    d2FL/dx_t^2 = p_t (1 - p_t)^gamma (gamma (gamma p_t - q_t) (-log p_t) + (2 gamma + 1) q_t) with q_t = 1 - p_t.
    """

    gamma: float

    def __post_init__(self) -> None:
        GAMMA.check("gamma", self.gamma)

    def value(self, x_t: Tensor) -> Tensor:
        q, loss = _probability_and_loss(x_t)
        return _power(q, self.gamma) * loss

    def slope(self, x_t: Tensor) -> Tensor:
        return self._slope(*_probability_and_loss(x_t))

    def curvature(self, x_t: Tensor) -> Tensor:
        p, q, loss = torch.sigmoid(x_t), torch.sigmoid(-x_t), _softplus(-x_t)
        factor = p * torch.exp(-self.gamma * _softplus(x_t))  # q^gamma, whose slope would be infinite at q = 0
        return factor * (self.gamma * (self.gamma * p - q) * loss + (2 * self.gamma + 1) * q)

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
        STEEPNESS.check("gamma", self.gamma)
        SHIFT.check("beta", self.beta)

    def value(self, x_t: Tensor) -> Tensor:
        return -F.logsigmoid(self.gamma * x_t + self.beta) / self.gamma

    def slope(self, x_t: Tensor) -> Tensor:
        return -torch.sigmoid(-(self.gamma * x_t + self.beta))

    def curvature(self, x_t: Tensor) -> Tensor:
        return self.gamma * CrossEntropy().curvature(self.gamma * x_t + self.beta)


def derivative(order: int, loss: MarginLoss, x_t: Tensor) -> Tensor:
    """Compute value, slope or curvature (order 0, 1, 2) of the margins, to be differentiated any number of times."""
    if order > 1:
        return loss.curvature(x_t)
    function = _Derivative if torch.compiler.is_compiling() else _ForwardModeToo
    result: Tensor = function.apply(x_t, loss, order)
    return result


@contextmanager
def forward_mode(ctx: Any) -> Iterator[list[Tensor]]:
    """The saved tensors of a ``jvp``, for forward mode within forward mode.

    PyTorch switches forward mode off inside ``jvp``: ``jacfwd(jacfwd(...))`` would be 0 without a word.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        yield [forward_ad.unpack_dual(saved).primal for saved in ctx.saved_tensors]


def promote(x: Tensor) -> Tensor:
    """Half precision to fp32; fp32 and fp64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _Derivative(torch.autograd.Function):
    """A derivative of which the next is the formula's own: autograd through q**gamma gives 0 * inf where saturated."""

    @staticmethod
    def forward(x_t: Tensor, loss: MarginLoss, order: int) -> Tensor:
        return loss.slope(x_t) if order else loss.value(x_t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, MarginLoss, int], output: Tensor) -> None:
        x_t, ctx.loss, ctx.order = inputs
        ctx.save_for_backward(x_t)
        ctx.save_for_forward(x_t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x_t,) = ctx.saved_tensors
        return grad * derivative(ctx.order + 1, ctx.loss, x_t), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], x_t: Tensor, loss: MarginLoss, order: int) -> Any:
        return derivative(order, loss, x_t), in_dims[0]


class _ForwardModeToo(_Derivative):
    """The same with forward-mode derivatives; torch.compile refuses a function that has its own."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        with forward_mode(ctx) as (x_t,):
            return tangent * derivative(ctx.order + 1, ctx.loss, x_t)


def _probability_and_loss(x_t: Tensor) -> tuple[Tensor, Tensor]:
    """1 - p_t and -log p_t."""
    if not torch.compiler.is_compiling():  # the fewest passes over memory
        x = -x_t
        return torch.sigmoid(x), _softplus(x)
    # The fewest instructions: both from one exponential. The compiler would keep the result of exp, which is used
    # more than once, in memory; that of exp2 it keeps in registers.
    e = torch.exp2(-LOG2_E * x_t.abs())
    return torch.where(x_t >= 0, e, 1.0) / (1 + e), torch.log1p(e) + (-x_t).relu()


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=EXACT_SOFTPLUS)


def _power(q: Tensor, gamma: float) -> Tensor:
    """``q ** gamma``; a product where one is enough, as pow costs more than the rest of the loss."""
    if gamma == 0:
        return torch.ones_like(q)
    if gamma == 1:
        return q
    return q * q if gamma == 2 else q**gamma
