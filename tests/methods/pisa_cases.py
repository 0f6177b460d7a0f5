"""Specifications of PISA for its two stages, and its batches as arrays for the loops."""

import numpy as np
from batches import ROWS

ISR_AND_CARL = {"positive_power": 2.0, "positive_bias": 0.0, "carl_power": 1.0, "carl_bias": 0.2, "prior_prob": None}
SAMPLING = {
    "sampled": 8,
    "foreground_share": 0.25,
    "negative_power": 0.5,
    "negative_bias": 0.0,
    "score_floor": 0.4,
    "cluster_iou": 0.5,
}
SPECS = {
    "dense": {
        "name": "pisa",
        "activation": "sigmoid",
        "alpha": 0.25,
        "gamma": 2.0,
        "normalizer": "batch",
        "box_beta": 0.11,
        **ISR_AND_CARL,
        **dict.fromkeys(SAMPLING),
    },
    "roi": {
        "name": "pisa",
        "activation": "softmax",
        "alpha": None,
        "gamma": 0.0,
        "normalizer": "sampled",
        "box_beta": 1.0,
        **ISR_AND_CARL,
        **SAMPLING,
    },
}
K = 3


def spec_of(stage, **changed):
    return {**SPECS[stage], **changed}


def arrays(samples):
    batch = {name: np.asarray(getattr(samples, name)) for name in (*ROWS, "gt_boxes")}
    return {**batch, "box_weights": samples.box_coder.weights, "num_classes": samples.num_classes}
