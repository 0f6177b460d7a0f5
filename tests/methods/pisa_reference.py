"""PISA as its paper and official code describe it (see imbdet.methods.pisa), one candidate at a time in numpy.

``batch`` is a dict of arrays with the names of Samples' fields, ``box_weights`` those of the box coder; ``spec`` has
the method's parameters.
"""

import math

import numpy as np


def area(box):
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def iou(a, b):
    inside = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area(a) + area(b) - inside
    return inside / union if union > 0 else 0.0


def decode(delta, prior, weights):
    dx, dy, dw, dh = (d / w for d, w in zip(delta, weights, strict=True))
    width, height = prior[2] - prior[0], prior[3] - prior[1]
    x, y = prior[0] + width / 2 + dx * width, prior[1] + height / 2 + dy * height
    width, height = width * math.exp(dw), height * math.exp(dh)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def encode(box, prior, weights):
    width, height = prior[2] - prior[0], prior[3] - prior[1]
    dx = (box[0] + box[2] - prior[0] - prior[2]) / 2 / width
    dy = (box[1] + box[3] - prior[1] - prior[3]) / 2 / height
    dw, dh = math.log((box[2] - box[0]) / width), math.log((box[3] - box[1]) / height)
    return [d * w for d, w in zip([dx, dy, dw, dh], weights, strict=True)]


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


def class_loss(logits, label, spec):
    """Softmax cross entropy, or focal loss summed over the classes."""
    if spec["activation"] == "softmax":
        return -math.log(softmax(logits)[label])
    rows = 0.0
    for k, x in enumerate(logits):
        x_t, alpha_t = (x, spec["alpha"]) if k == label else (-x, 1 - spec["alpha"])
        rows += alpha_t * math.exp(-spec["gamma"] * softplus(x_t)) * softplus(-x_t)
    return rows


def own_delta(batch, i):
    deltas = batch["deltas"][i]
    return deltas[0] if len(deltas) == 1 else deltas[batch["label"][i]]


def box_loss(batch, i, beta):
    target = encode(batch["gt_boxes"][batch["gt_id"][i]], batch["priors"][i], batch["box_weights"])
    loss = 0.0
    for difference in np.abs(own_delta(batch, i) - target):
        loss += difference**2 / (2 * beta) if difference < beta else difference - beta / 2
    return loss


def positives_of(batch):
    return [i for i, label in enumerate(batch["label"]) if 0 <= label < batch["num_classes"]]


def predicted_iou(batch, i):
    box = decode(own_delta(batch, i), batch["priors"][i], batch["box_weights"])
    return iou(box, batch["gt_boxes"][batch["gt_id"][i]])


def hierarchical_ranks(value, subgroup, group):
    """Local rank in the subgroup; then, in the group, by the sum of (a bound - local rank) and the value."""
    n = len(value)
    local, ranks = [0] * n, [0] * n
    for s in set(subgroup):
        members = [i for i in range(n) if subgroup[i] == s]
        for place, i in enumerate(sorted(members, key=lambda i: -value[i])):
            local[i] = place
    for g in set(group):
        members = [i for i in range(n) if group[i] == g]
        for place, i in enumerate(sorted(members, key=lambda i: (local[i], -value[i]))):
            ranks[i] = place
    return ranks


def importance(rank, number, bias, power):
    return (bias + (1 - bias) * (number - rank) / number) ** power


def iou_ranks(batch):
    """IoU-HLR of each positive, and the number of positives of the most frequent class."""
    positives = positives_of(batch)
    labels = [batch["label"][i] for i in positives]
    ious = [predicted_iou(batch, i) for i in positives]
    ranks = hierarchical_ranks(ious, [batch["gt_id"][i] for i in positives], labels)
    return dict(zip(positives, ranks, strict=True)), max((labels.count(k) for k in labels), default=1)


def positive_weights(batch, spec):
    """ISR-P: weights of the positives' classification losses, that keep the sum of these."""
    ranks, number = iou_ranks(batch)
    weights = {i: importance(r, number, spec["positive_bias"], spec["positive_power"]) for i, r in ranks.items()}
    losses = {i: batch["weight"][i] * class_loss(batch["logits"][i], batch["label"][i], spec) for i in weights}
    weighed = sum(weights[i] * losses[i] for i in weights)
    return {i: w * sum(losses.values()) / weighed for i, w in weights.items()}


def carl_weights(batch, spec):
    scores = {}
    for i in positives_of(batch):
        x = batch["logits"][i]
        softmaxed = spec["activation"] == "softmax"
        p = softmax(x)[batch["label"][i]] if softmaxed else math.exp(-softplus(-x[batch["label"][i]]))
        scores[i] = (spec["carl_bias"] + (1 - spec["carl_bias"]) * p) ** spec["carl_power"]
    return {i: v * len(scores) / sum(scores.values()) for i, v in scores.items()}


def losses(batch, spec, weights=None):
    """The three terms; ``weights`` of the positives, which are constants, may come from another point."""
    weights = positive_weights(batch, spec) if weights is None else weights
    carl = carl_weights(batch, spec)
    rows = [i for i, label in enumerate(batch["label"]) if label >= 0]
    divisor = max(len(rows) if spec["normalizer"] == "sampled" else len(weights), 1)
    terms = {"classification": 0.0, "box_regression": 0.0, "carl": 0.0}
    for i in rows:
        loss = class_loss(batch["logits"][i], batch["label"][i], spec)
        terms["classification"] += batch["weight"][i] * weights.get(i, 1.0) * loss / divisor
        if i in weights:
            loss = batch["weight"][i] * box_loss(batch, i, spec["box_beta"]) / divisor
            terms["box_regression"] += loss
            terms["carl"] += carl[i] * loss
    return terms


def nms_match(boxes, scores, least_iou):
    """Greedy NMS; leader of each box, itself where it is kept."""
    leader = {}
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if i not in leader:
            leader[i] = i
            for j in range(len(boxes)):
                if j not in leader and iou(boxes[i], boxes[j]) >= least_iou:
                    leader[j] = i
    return [leader[i] for i in range(len(boxes))]


def score_hlr(batch, image, spec):
    """Negatives of an image by score-HLR, best first, and those at or below the floor."""
    background = batch["num_classes"]
    negatives = [i for i, label in enumerate(batch["label"]) if label == background and batch["image_id"][i] == image]
    probabilities = {i: softmax(batch["logits"][i])[:-1] for i in negatives}
    ranked = [i for i in negatives if probabilities[i].max() > spec["score_floor"]]
    boxes = []
    for i in ranked:
        deltas = batch["deltas"][i]
        delta = deltas[probabilities[i].argmax()] if len(deltas) > 1 else deltas[0]
        boxes.append(decode(delta, batch["priors"][i], batch["box_weights"]))
    scores = [probabilities[i].max() for i in ranked]
    ranks = hierarchical_ranks(scores, nms_match(boxes, scores, spec["cluster_iou"]), [0] * len(ranked))
    return [i for _, i in sorted(zip(ranks, ranked, strict=True))], [i for i in negatives if i not in ranked]


def negative_weights(batch, selected, num_ranked, spec):
    """ISR-N of the selected negatives, the ranked ones first in their order."""
    if num_ranked == 0:
        return [1.0] * len(selected)
    number = max(len(selected), num_ranked)
    ranks = [min(r, num_ranked - 1) for r in range(len(selected))]
    weights = [importance(r, number, spec["negative_bias"], spec["negative_power"]) for r in ranks]
    losses = [class_loss(batch["logits"][i], batch["num_classes"], spec) for i in selected]
    scale = sum(losses) / sum(w * loss for w, loss in zip(weights, losses, strict=True))
    return [scale * w for w in weights]
