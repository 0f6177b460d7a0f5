"""Cross entropy, focal loss, FL*, the box loss and the four normalisers as loops over rows, classes and images.

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (sections 3 and 4.1, appendix A); Girshick, Fast R-CNN,
ICCV 2015 (equation 3), with the offsets of R-CNN's appendix C. ``batch`` holds numpy arrays by the names of Samples.
"""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cross_entropy(x_t):
    """Equation 1."""
    return -math.log(sigmoid(x_t))


def focal(x_t, gamma):
    """Equation 4."""
    return -((1 - sigmoid(x_t)) ** gamma) * math.log(sigmoid(x_t))


def focal_star(x_t, gamma, beta):
    """Appendix A."""
    return -math.log(sigmoid(gamma * x_t + beta)) / gamma


def sigmoid_rows(batch, loss, alpha):
    """The loss of each row's classes, alpha-balanced as in equation 5; nothing for ignored rows."""
    rows = np.zeros(len(batch["label"]))
    for i, label in enumerate(batch["label"]):
        for j in range(batch["num_classes"] if label >= 0 else 0):
            y = 1 if j == label else -1
            alpha_t = 1 if alpha is None else alpha if y == 1 else 1 - alpha
            rows[i] += alpha_t * loss(y * batch["logits"][i, j])
    return rows


def softmax_rows(batch):
    """-log of the softmax of each row's class, the background's column last; nothing for ignored rows."""
    rows = np.zeros(len(batch["label"]))
    for i, label in enumerate(batch["label"]):
        if label >= 0:
            exponentials = [math.exp(z) for z in batch["logits"][i]]
            rows[i] = -math.log(exponentials[label] / sum(exponentials))
    return rows


def offsets(box, prior, weights):
    """How an xyxy box differs from a prior: centres over sizes, logarithms of ratios of sizes."""
    result = []
    for axis in (0, 1):
        length = prior[axis + 2] - prior[axis]
        shift = (box[axis] + box[axis + 2]) / 2 - (prior[axis] + prior[axis + 2]) / 2
        result.append((shift / length, math.log((box[axis + 2] - box[axis]) / length)))
    (x, w), (y, h) = result
    return [value * weight for value, weight in zip((x, y, w, h), weights, strict=True)]


def smooth_l1(difference, beta):
    size = abs(difference)
    return size**2 / (2 * beta) if size < beta else size - beta / 2


def box_rows(batch, beta):
    """Smooth L1 of each foreground row's four offsets, from the set of its class where there is one for each."""
    rows = np.zeros(len(batch["label"]))
    for i, label in enumerate(batch["label"]):
        if 0 <= label < batch["num_classes"]:
            predicted = batch["deltas"][i][label if len(batch["deltas"][i]) > 1 else 0]
            wanted = offsets(batch["gt_boxes"][batch["gt_id"][i]], batch["priors"][i], batch["coder_weights"])
            rows[i] = sum(smooth_l1(p - w, beta) for p, w in zip(predicted, wanted, strict=True))
    return rows


def count(batch, image=None):
    """Foreground rows, of one image or of all."""
    rows = zip(batch["label"], batch["image_id"], strict=True)
    return sum(1 for label, i in rows if 0 <= label < batch["num_classes"] and image in (None, i))


def divisors(batch, normalizer, mean=100.0):
    """What each row is divided by; ``mean`` is the running mean so far."""
    if normalizer == "per_image":
        return [max(1, count(batch, image)) * batch["num_images"] for image in batch["image_id"]]
    if normalizer == "batch":
        divisor = max(1, count(batch))
    elif normalizer == "sampled":
        divisor = max(1, sum(1 for label in batch["label"] if label != -1))
    else:
        divisor = 0.9 * mean + 0.1 * max(1, count(batch))
    return [divisor] * len(batch["label"])


def weighted_sum(batch, rows, by):
    return sum(w * row / d for w, row, d in zip(batch["weight"], rows, by, strict=True))


def losses(batch, class_rows, box_beta, normalizer, mean=100.0):
    """Both terms by name."""
    by = divisors(batch, normalizer, mean)
    terms = {"classification": class_rows, "box_regression": box_rows(batch, box_beta)}
    return {name: weighted_sum(batch, rows, by) for name, rows in terms.items()}
