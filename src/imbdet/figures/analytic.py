"""Cross entropy, focal loss and FL* as functions of one number, for the figures: float64, no alpha.

``x_t = y x`` is the logit counted towards the true side and ``p_t = sigmoid(x_t)``. Source: Lin et al. 2017 (arXiv
1708.02002), equations 1 to 5 and appendices A and B. Everything is written with softplus and the logistic of the
smaller side, so that nothing overflows or cancels for any finite ``x_t``.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)) = -log(sigmoid(-x))."""
    return np.logaddexp(0.0, x)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    return np.exp(-softplus(-x))


def cross_entropy(x_t: Array) -> Array:
    """Return CE = -log p_t."""
    return softplus(-x_t)


def cross_entropy_slope(x_t: Array) -> Array:
    """Return dCE/dx_t = p_t - 1."""
    return -sigmoid(-x_t)


def focal_loss_of_probability(p_t: Array, gamma: float) -> Array:
    """Return FL = -(1 - p_t)^gamma log p_t for ``p_t`` in (0, 1]."""
    return -((1.0 - p_t) ** gamma) * np.log(p_t)


def focal_loss(x_t: Array, gamma: float) -> Array:
    """Return FL = -(1 - p_t)^gamma log p_t."""
    return np.exp(-gamma * softplus(x_t)) * softplus(-x_t)


def focal_loss_slope(x_t: Array, gamma: float) -> Array:
    """Return dFL/dx_t = (1 - p_t)^gamma (gamma p_t log p_t + p_t - 1)."""
    return -np.exp(-gamma * softplus(x_t)) * (gamma * sigmoid(x_t) * softplus(-x_t) + sigmoid(-x_t))


def focal_star(x_t: Array, gamma: float, beta: float) -> Array:
    """Return FL* = -log sigmoid(gamma x_t + beta) / gamma for ``gamma`` above 0."""
    return softplus(-(gamma * x_t + beta)) / gamma


def focal_star_slope(x_t: Array, gamma: float, beta: float) -> Array:
    """Return dFL*/dx_t = sigmoid(gamma x_t + beta) - 1; gamma cancels."""
    return -sigmoid(-(gamma * x_t + beta))
