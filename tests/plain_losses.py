"""The losses in ordinary operations, for autograd to differentiate any number of times; slow, and large in memory."""

import torch
import torch.nn.functional as F

from imbdet.losses import CrossEntropy, Focal, FocalStar


def of_margin(loss, x_t):
    """-log p_t, q_t^gamma (-log p_t) or FL*, with q_t^gamma as exp(gamma log q_t)."""
    match loss:
        case CrossEntropy():
            return F.softplus(-x_t, threshold=40)
        case Focal(gamma):
            return torch.exp(-gamma * F.softplus(x_t, threshold=40)) * F.softplus(-x_t, threshold=40)
        case FocalStar(gamma, beta):
            return F.softplus(-(gamma * x_t + beta), threshold=40) / gamma


def elementwise(loss, logits, targets, alpha):
    """[N, C] losses of ``loss(x_t)``."""
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    return positive * targets * of_margin(loss, logits) + negative * (1 - targets) * of_margin(loss, -logits)


def sigmoid_focal_loss(logits, targets, alpha, gamma):
    """The same arguments and result as :func:`imbdet.sigmoid_focal_loss`."""
    return elementwise(Focal(gamma), logits, targets, alpha)


def sum_over_classes(loss, logits, label, alpha, compiled=False):
    """The same arguments and result as :func:`imbdet.losses.sum_over_classes`."""
    kept, classes = label >= 0, torch.arange(logits.shape[1])
    logits = torch.where(kept[:, None], logits, 0.0)
    rows = elementwise(loss, logits, (classes == label[:, None]).to(logits.dtype), alpha).sum(1)
    return torch.where(kept, rows, 0.0)
