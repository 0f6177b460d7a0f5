"""The assignment of the RetinaNet paper, one anchor and one box at a time, from its text."""

import math


def anchors_of(settings, height, width, strides):
    """``(level, box)`` of every anchor of a padded image."""
    for level, (stride, sizes) in enumerate(zip(strides, settings.sizes, strict=True)):
        for row in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                for ratio in settings.ratios:
                    for size in sizes:
                        # torchvision rounds the half sides to whole pixels; halves go to the even neighbour.
                        w, h = round(size / math.sqrt(ratio) / 2), round(size * math.sqrt(ratio) / 2)
                        x, y = column * stride, row * stride
                        yield level, (x - w, y - h, x + w, y + h)


def area(box):
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def common(a, b):
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a, b):
    shared = common(a, b)
    return shared / (area(a) + area(b) - shared)


def assign(anchors, boxes, labels, crowds, rule, num_classes):
    """The label of each anchor: a class, ``num_classes`` for background, -1 for ignored."""
    best = [max((iou(anchor, box) for anchor in anchors), default=0) for box in boxes]
    result = []
    for anchor in anchors:
        overlaps = [iou(anchor, box) for box in boxes]
        highest = max(overlaps, default=0)
        forced = any(o > 0 and math.isclose(o, b, rel_tol=1e-6) for o, b in zip(overlaps, best, strict=True))
        if highest >= rule.foreground_iou or forced:
            result.append(labels[overlaps.index(highest)])
        elif highest >= rule.background_iou or any(common(anchor, crowd) > 0.5 * area(anchor) for crowd in crowds):
            result.append(-1)
        else:
            result.append(num_classes)
    return result
