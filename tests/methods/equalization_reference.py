"""The Equalization Loss as loops over rows and classes, and its tail by trying every cut.

Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020. Rows of label -1 are ignored, label K is
background; the softmax form has the background's column last.
"""

import math

import numpy as np


def tail_below(frequency, threshold):
    """T_lambda of equation 7."""
    return [f < threshold for f in frequency]


def tail_ratio(counts, tail):
    """Equation 8."""
    return sum(n for n, t in zip(counts, tail, strict=True) if t) / sum(counts)


def tail_within(counts, ratio):
    """The largest tail of the rarest classes whose tail ratio is at most ``ratio``."""
    tails = [[n <= largest for n in counts] for largest in (-1, *counts)]
    return max((tail for tail in tails if tail_ratio(counts, tail) <= ratio), key=sum)


def weight(tail, label, j):
    """Equation 7."""
    excluded = label < len(tail)  # E(r)
    return 1 - excluded * tail[j] * (j != label)


def sigmoid_form(logits, label, tail):
    """[N] losses of equation 6 and their [N, K] gradients."""
    rows, gradients = np.zeros(len(label)), np.zeros(logits.shape)
    for i, own in enumerate(label):
        for j in range(len(tail) if own >= 0 else 0):
            p, y = 1 / (1 + math.exp(-logits[i, j])), j == own
            rows[i] -= weight(tail, own, j) * math.log(p if y else 1 - p)
            gradients[i, j] = weight(tail, own, j) * (p - y)
    return rows, gradients


def softmax_form(logits, label, tail, beta):
    """[N] losses of equations 9 to 11 and their [N, K + 1] gradients, with E(r); the background is never tail."""
    rows, gradients = np.zeros(len(label)), np.zeros(logits.shape)
    classes = len(tail)
    for i, own in enumerate(label):
        if own < 0:
            continue
        kept = [1 - beta[i, k] * (1 - weight(tail, own, k)) for k in range(classes)] + [1]
        terms = [w * math.exp(z) for w, z in zip(kept, logits[i], strict=True)]
        rows[i] = -math.log(math.exp(logits[i, own]) / sum(terms))
        for k, term in enumerate(terms):
            gradients[i, k] = term / sum(terms) - (k == own)
    return rows, gradients
