"""The losses as the focal-loss paper writes them, one logit at a time in double precision: slow, and plain to read."""

import math

import numpy as np


def minus_log_sigmoid(x):
    return math.log1p(math.exp(-abs(x))) + max(-x, 0.0)


def sigmoid(x):
    return math.exp(-minus_log_sigmoid(x))


def focal(x_t, gamma):
    """FL and dFL/dx_t."""
    p_t, q_t, loss = sigmoid(x_t), sigmoid(-x_t), minus_log_sigmoid(x_t)
    return q_t**gamma * loss, -(q_t**gamma) * (gamma * p_t * loss + q_t)


def focal_star(x_t, gamma, beta):
    """FL* and dFL*/dx_t."""
    return minus_log_sigmoid(gamma * x_t + beta) / gamma, -sigmoid(-(gamma * x_t + beta))


def cross_entropy(x_t):
    """CE and dCE/dx_t."""
    return minus_log_sigmoid(x_t), -sigmoid(-x_t)


def loop(loss, logits, targets, alpha):
    """Values and gradients [N, C] of ``loss(x_t)``, with targets 0 or 1."""
    values, grads = np.zeros(logits.shape), np.zeros(logits.shape)
    for index, x in np.ndenumerate(logits):
        y = 1 if targets[index] == 1 else -1
        alpha_t = 1.0 if alpha is None else alpha if y == 1 else 1 - alpha
        value, slope = loss(y * float(x))
        values[index], grads[index] = alpha_t * value, alpha_t * y * slope
    return values, grads
