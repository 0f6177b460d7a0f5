"""Li et al., Learning from Noisy Anchors, CVPR 2020, one row at a time, as the official code computes it.

A batch is a dict of arrays: logits [N, K], deltas, priors [N, 4], label, gt_id, image_id, weight, multiplicity [N] and
gt_boxes [G, 4]; label is 0..K-1, background K, ignored -1. ``settings``: variant, share (the paper's alpha), alpha and
gamma (those of focal loss), box_beta.
"""

import math

import numpy as np

EPS = 1e-6


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union > 0 else 0.0


def top_n(anchors, gt_boxes, number):
    """One image: how many boxes picked each anchor, and the index of the box that it overlaps most."""
    times = [0] * len(anchors)
    for box in gt_boxes:
        overlaps = [iou(anchor, box) for anchor in anchors]
        best = sorted(range(len(anchors)), key=lambda a: (overlaps[a], a))[-number:]
        for a in best:
            times[a] += overlaps[a] > 0
    own = []
    for anchor in anchors:
        overlaps = [iou(anchor, box) for box in gt_boxes]
        own.append(overlaps.index(max(overlaps)) if overlaps else -1)
    return times, own


def decode(delta, prior):
    size = prior[2:] - prior[:2]
    centre = prior[:2] + size / 2 + delta[:2] * size
    size = size * np.exp(np.minimum(delta[2:], math.log(1000 / 16)))
    return np.concatenate([centre - size / 2, centre + size / 2])


def encode(box, prior):
    size, prior_size = box[2:] - box[:2], prior[2:] - prior[:2]
    centre, prior_centre = box[:2] + size / 2, prior[:2] + prior_size / 2
    return np.concatenate([(centre - prior_centre) / prior_size, np.log(size / prior_size)])


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def f(u):
    """Of the re-weighting: 1 / (1 - u)."""
    return 1 / (1 - min(u, 1 - EPS))


def quality(batch, settings):
    """Steps 3 to 6: cleanliness, soft labels and weights of the positives of each image."""
    n, classes = batch["logits"].shape
    names = ("localization", "score", "cleanliness", "soft_label")
    out = {name: np.zeros(n) for name in names} | {"reweight": np.ones(n)}
    for image in set(batch["image_id"].tolist()):
        rows = [i for i in range(n) if batch["image_id"][i] == image and 0 <= batch["label"][i] < classes]
        if rows:
            of_image(batch, settings, rows, out)
    return out


def of_image(batch, settings, rows, out):
    loc, cls = {}, {}
    for i in rows:
        loc[i] = iou(decode(batch["deltas"][i], batch["priors"][i]), batch["gt_boxes"][batch["gt_id"][i]])
        cls[i] = sigmoid(batch["logits"][i][batch["label"][i]])
    picked = [i for i in rows for _ in range(int(batch["multiplicity"][i]))]  # once for each box that picked it
    a = settings["share"]

    def mean(values):
        return max(sum(values[i] for i in picked) / len(picked), EPS)

    f_loc, f_cls = {i: f(loc[i]) for i in rows}, {i: f(cls[i]) for i in rows}
    if settings["variant"] == "paper":
        clean = {i: a * loc[i] + (1 - a) * cls[i] for i in rows}
        soft = clean
        raw = {i: a * f_loc[i] + (1 - a) * f_cls[i] for i in rows}
        weight = {i: raw[i] / mean(raw) for i in rows}
    else:
        clean = {i: a * loc[i] / mean(loc) + (1 - a) * cls[i] / mean(cls) for i in rows}
        low, high = min(clean.values()), max(clean.values())
        soft = {i: mean(loc) + (clean[i] - low) * (1 - mean(loc)) / max(high - low, EPS) for i in rows}
        weight = {i: a * f_loc[i] / mean(f_loc) + (1 - a) * f_cls[i] / mean(f_cls) for i in rows}
    for i in rows:
        out["localization"][i], out["score"][i] = loc[i], cls[i]
        out["cleanliness"][i], out["soft_label"][i], out["reweight"][i] = clean[i], soft[i], weight[i]


def class_row(logits, label, soft_label, settings):
    """Step 7: soft focal loss of one row; the modulators use p, not its distance to the label."""
    if label < 0:
        return 0.0
    positive, negative = (1, 1) if settings["alpha"] is None else (settings["alpha"], 1 - settings["alpha"])
    loss = 0.0
    for k, x in enumerate(logits):
        target = soft_label if k == label else 0.0
        loss += positive * target * sigmoid(-x) ** settings["gamma"] * softplus(-x)
        loss += negative * (1 - target) * sigmoid(x) ** settings["gamma"] * softplus(x)
    return loss


def box_row(delta, label, target, classes, settings):
    if not 0 <= label < classes:
        return 0.0
    beta, loss = settings["box_beta"], 0.0
    for d in np.abs(delta - target):
        loss += d * d / (2 * beta) if d < beta else d - beta / 2
    return loss


def rows(batch, soft_labels, settings):
    """Losses of all rows: classification and boxes, times the sampler's weights."""
    n, classes = batch["logits"].shape
    class_rows, box_rows = np.zeros(n), np.zeros(n)
    for i, label in enumerate(batch["label"]):
        class_rows[i] = batch["weight"][i] * class_row(batch["logits"][i], label, soft_labels[i], settings)
        if 0 <= label < classes:
            target = encode(batch["gt_boxes"][batch["gt_id"][i]], batch["priors"][i])
            box_rows[i] = batch["weight"][i] * box_row(batch["deltas"][i], label, target, classes, settings)
    return class_rows, box_rows


def scaled(weights, losses):
    """Step 8: weights whose sum of losses is that without weights."""
    after = float(np.sum(weights * losses))
    return weights * (float(np.sum(losses)) / after) if after > 0 else weights


def constants(batch, settings):
    """All that has no gradient: soft labels and the final weights of both losses."""
    anchors = quality(batch, settings)
    class_rows, box_rows = rows(batch, anchors["soft_label"], settings)
    return anchors["soft_label"], scaled(anchors["reweight"], class_rows), scaled(anchors["reweight"], box_rows)


def losses(batch, settings, divisor, fixed):
    """Classification and box loss with soft labels and weights ``fixed``."""
    soft_labels, class_weight, box_weight = fixed
    class_rows, box_rows = rows(batch, soft_labels, settings)
    return float(np.sum(class_weight * class_rows)) / divisor, float(np.sum(box_weight * box_rows)) / divisor


def gradients(batch, settings, divisor, step=1e-5):
    """Central differences of the summed losses with the constants fixed: [N, K] and [N, 4]."""
    fixed = constants(batch, settings)
    out = []
    for name in ("logits", "deltas"):
        slopes = np.zeros_like(batch[name])
        for i in np.ndindex(slopes.shape):
            up, down = batch[name].copy(), batch[name].copy()
            up[i] += step
            down[i] -= step
            rise = sum(losses({**one_row(batch, i[0]), name: up[i[0]][None]}, settings, divisor, only(fixed, i[0])))
            fall = sum(losses({**one_row(batch, i[0]), name: down[i[0]][None]}, settings, divisor, only(fixed, i[0])))
            slopes[i] = (rise - fall) / (2 * step)
        out.append(slopes)
    return out


def one_row(batch, i):
    """A fixed row's losses depend on itself alone."""
    return {name: values if name == "gt_boxes" else values[i : i + 1] for name, values in batch.items()}


def only(fixed, i):
    return [values[i : i + 1] for values in fixed]
