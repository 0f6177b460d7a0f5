"""The unified sample weighting network of Cai et al. (CVPR 2020) in plain loops: slow, to read.

A sample is a dict: logits, deltas (of its own class), prior, label (K background, -1 ignored), gt (corners, None where
not foreground). Layers are (weight, bias) pairs; a network is a dict of the layers of four embeddings ("iou", "score",
"class_loss", "box_loss") and of the predictor that reads them joined.
"""

import math

import numpy as np

EMBEDDINGS = ("iou", "score", "class_loss", "box_loss")


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def focal_loss(logits, label, alpha, gamma):
    """Lin et al. 2017, equation 5, summed over the classes."""
    total = 0.0
    for k, x in enumerate(logits):
        x_t, alpha_t = (x, alpha) if k == label else (-x, 1 - alpha)
        total += alpha_t * sigmoid(-x_t) ** gamma * softplus(-x_t)
    return total


def softmax_loss(logits, label):
    largest = max(logits)
    return largest + math.log(sum(math.exp(x - largest) for x in logits)) - logits[label]


def class_loss(sample, base):
    if sample["label"] < 0:
        return 0.0
    if base["activation"] == "softmax":
        return softmax_loss(sample["logits"], sample["label"])
    return focal_loss(sample["logits"], sample["label"], base["alpha"], base["gamma"])


def box_losses(sample, base):
    """Smooth L1 of the four offsets, whose targets are those of R-CNN's appendix C times the coder's weights."""
    if sample["gt"] is None:
        return [0.0] * 4
    (x, y, w, h), (gx, gy, gw, gh) = centred(sample["prior"]), centred(sample["gt"])
    targets = [(gx - x) / w, (gy - y) / h, math.log(gw / w), math.log(gh / h)]
    losses = []
    for delta, target, weight in zip(sample["deltas"], targets, base["coder_weights"], strict=True):
        d, beta = abs(delta - weight * target), base["box_beta"]
        losses.append(d * d / (2 * beta) if d < beta else d - beta / 2)
    return losses


def centred(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def iou(sample, base):
    """Of the predicted box and the ground truth; 0 for what is not foreground."""
    if sample["gt"] is None:
        return 0.0
    x, y, w, h = centred(sample["prior"])
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(sample["deltas"], base["coder_weights"], strict=True))
    x, y, w, h = x + dx * w, y + dy * h, w * math.exp(dw), h * math.exp(dh)
    box, gt = (x - w / 2, y - h / 2, x + w / 2, y + h / 2), sample["gt"]
    inside = max(0.0, min(box[2], gt[2]) - max(box[0], gt[0])) * max(0.0, min(box[3], gt[3]) - max(box[1], gt[1]))
    return inside / (w * h + (gt[2] - gt[0]) * (gt[3] - gt[1]) - inside)


def score(sample, base):
    """Probability of the sample's own class; 0 for what is not foreground."""
    if sample["gt"] is None:
        return 0.0
    if base["activation"] == "softmax":
        return math.exp(-softmax_loss(sample["logits"], sample["label"]))
    return sigmoid(sample["logits"][sample["label"]])


def inputs(samples, base):
    """The four inputs of every sample: what the network judges it by."""
    return [(iou(s, base), score(s, base), class_loss(s, base), box_losses(s, base)) for s in samples]


def layer(x, weight_and_bias, rectify=True):
    weight, bias = weight_and_bias
    y = weight @ x + bias
    return np.maximum(y, 0) if rectify else y


def predict(network, of_sample):
    """s_cls and s_reg of one sample, not clamped."""
    joined = []
    for name, x in zip(EMBEDDINGS, of_sample, strict=True):
        first, second = network[name]
        joined.append(layer(layer(np.atleast_1d(np.array(x)), first), second))
    first, second = network["predictor"]
    return layer(layer(np.concatenate(joined), first), second, rectify=False)


def losses(samples, network, known, base, options):
    """The three terms.

    known: inputs of the network, by sample. base: activation, alpha, gamma, box_beta, coder_weights, num_classes and
    the divisor of both losses. options: clamp, averaging, strengths (of all; or of foreground and background; then of
    the boxes), ignored_too (whether ignored samples enter the mean of s_cls).
    """
    s = [np.clip(predict(network, x), -options["clamp"], options["clamp"]) for x in known]
    classes = base["num_classes"]
    foreground = [i for i, sample in enumerate(samples) if 0 <= sample["label"] < classes]
    background = [i for i, sample in enumerate(samples) if sample["label"] == classes]
    everything = range(len(samples)) if options["ignored_too"] else [*foreground, *background]
    *class_strengths, box_strength = options["strengths"]
    groups = [foreground, background] if len(class_strengths) == 2 else [everything]
    s_class, s_box = [x[0] for x in s], [x[1] for x in s]
    regularizer = 0.0
    for strength, group in zip(class_strengths, groups, strict=True):
        mean = sum(s_class[i] for i in group) / max(len(group), 1)
        regularizer += strength * mean
        if options["averaging"] == "group":
            for i in group:
                s_class[i] = mean
    regularizer += box_strength * sum(s_box[i] for i in foreground) / max(len(foreground), 1)
    by_class = sum(math.exp(-s_class[i]) * class_loss(sample, base) for i, sample in enumerate(samples))
    by_box = sum(math.exp(-s_box[i]) * sum(box_losses(sample, base)) for i, sample in enumerate(samples))
    return {
        "classification": by_class / base["divisor"],
        "box_regression": by_box / base["divisor"],
        "regularizer": regularizer,
    }
