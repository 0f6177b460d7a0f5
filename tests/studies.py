"""Changes of a study for tests: other values, or a Faster R-CNN of a few thousand weights as a second detector."""

from copy import deepcopy

MATCHING = {"foreground_iou": 0.5, "background_iou": 0.5, "low_quality": "off"}
DETECTOR = {
    "name": "faster_rcnn",
    "backbone": {"name": "tiny", "weights": "none", "frozen": "none"},
    "levels": [2, 6],
    "fpn_channels": 8,
    "p6_source": "pool",
    "short_side": 64,
    "long_side": 64,
    "anchors": {"sizes": [[8], [16], [32], [64], [128]], "ratios": [0.5, 1.0, 2.0]},
    "crowd": "ignore",
    "rpn": {
        "assigner": {"foreground_iou": 0.7, "background_iou": 0.3, "low_quality": "argmax"},
        "sampled": 32,
        "foreground_share": 0.5,
        "nms_iou": 0.7,
        "training": {"candidates_per_level": 60, "kept": 60},
        "inference": {"candidates_per_level": 30, "kept": 30},
    },
    "roi": {
        "assigner": MATCHING,
        "sampled": 16,
        "foreground_share": 0.25,
        "pool_size": 3,
        "sampling_ratio": 2,
        "canonical_size": 64.0,
        "head_channels": 16,
    },
}
PLAIN = {"name": "cross_entropy", "alpha": None, "prior_prob": None, "normalizer": "sampled", "box_beta": 0.0}
RPN = PLAIN | {"activation": "sigmoid"}
ROI = PLAIN | {"activation": "softmax"}
EXPERIMENT = {"label": "two stages", "detector": "faster_rcnn", "methods": {"rpn": RPN, "roi": ROI}}
ADDED = {"detectors": {"faster_rcnn": DETECTOR}, "experiments": {"two-stage": EXPERIMENT}}


def with_two_stages(raw):
    """A study's mapping with this detector as ``faster_rcnn`` and an experiment ``two-stage`` on it."""
    return merged(raw, deepcopy(ADDED))


def merged(raw, changes):
    """A nested mapping with some of its values changed; a value with a ``name`` replaces the whole mapping."""
    nested = {
        key: merged(raw[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and "name" not in value and key in raw
    }
    return raw | changes | nested
