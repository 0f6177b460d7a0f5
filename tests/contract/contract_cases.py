"""Every method at every stage that its paper defines, and small detectors for them."""

import pytest
import torch
from batches import NUM_CLASSES

from imbdet.assigners import MaxIoUAssigner
from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import build_backbone
from imbdet.detectors.faster_rcnn import FasterRCNN
from imbdet.detectors.retinanet import RetinaNet
from imbdet.methods import build_method
from imbdet.settings import RPN, Backbone, RoI

TINY = Backbone(name="tiny", weights="none", frozen="none")
SIDE = 64  # pixels
BOX = {"box_beta": 0.11}
SIGMOID = {"activation": "sigmoid", "alpha": None, "prior_prob": 0.01}
SOFTMAX = {"activation": "softmax", "alpha": None, "prior_prob": None}
FOCAL = {"alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01}
SAMPLED, BATCH = {"normalizer": "sampled"}, {"normalizer": "batch"}
PISA = {"positive_power": 2.0, "positive_bias": 0.0, "carl_power": 1.0, "carl_bias": 0.2}
NO_SCORE_HLR = dict.fromkeys(
    ("sampled", "foreground_share", "negative_power", "negative_bias", "score_floor", "cluster_iou")
)
SCORE_HLR = {"sampled": 16, "foreground_share": 0.25, "negative_power": 0.5, "negative_bias": 0.0}
SWN = {"variant": "paper", "clamp": 2.0, "class_regularizer": 0.5, "box_regularizer": 0.5}
SWN |= {"learning_rate": 0.001, "weight_decay": 0.0001}
OHEM = {"per_image": 8, "nms_iou": 0.7, "activation": "softmax", "prior_prob": None}
NOISY = {"top_n": 4, "localization_share": 0.75, "alpha": 0.5, "gamma": 2.0, "prior_prob": 0.01}
TAIL = {"frequency": (0.5, 0.4, 0.1), "threshold": 0.2, "tail_ratio": None}

# Name of the case: stage and spec. A new method adds a line here; a test compares them with imbdet/methods.
CASES = {
    "cross_entropy-dense": ("dense", {"name": "cross_entropy", **SIGMOID, **BATCH}),
    "cross_entropy-rpn": ("rpn", {"name": "cross_entropy", **SIGMOID, **SAMPLED}),
    "cross_entropy-roi": ("roi", {"name": "cross_entropy", **SOFTMAX, **SAMPLED}),
    "cross_entropy-roi-sigmoid": ("roi", {"name": "cross_entropy", **SIGMOID, **SAMPLED}),
    "focal-dense-per_image": ("dense", {"name": "focal", **FOCAL, "normalizer": "per_image"}),
    "focal-dense-batch": ("dense", {"name": "focal", **FOCAL, **BATCH}),
    "focal-dense-ema": ("dense", {"name": "focal", **FOCAL, "normalizer": "ema"}),
    "focal-rpn": ("rpn", {"name": "focal", **FOCAL, **BATCH}),
    "focal-roi": ("roi", {"name": "focal", **FOCAL, **BATCH}),
    "focal_star-dense": ("dense", {"name": "focal_star", **FOCAL, "beta": 1.0, **BATCH}),
    "noisy_anchors-paper": ("dense", {"name": "noisy_anchors", "variant": "paper", **NOISY, "normalizer": "ema"}),
    "noisy_anchors-code": ("dense", {"name": "noisy_anchors", "variant": "code", **NOISY, "normalizer": "ema"}),
    "ohem-paper": ("roi", {"name": "ohem", "variant": "paper", **OHEM, **SAMPLED}),
    "ohem-code": ("roi", {"name": "ohem", "variant": "code", **OHEM, **SAMPLED}),
    "ohem_dense": (
        "dense",
        {"name": "ohem_dense", "per_image": 8, "nms_iou": 0.5, "one_to_three": False, "prior_prob": 0.01, **SAMPLED},
    ),
    "ohem_dense-1:3": (
        "dense",
        {"name": "ohem_dense", "per_image": 8, "nms_iou": 0.5, "one_to_three": True, "prior_prob": 0.01, **SAMPLED},
    ),
    "ssd_hard_negatives": ("dense", {"name": "ssd_hard_negatives", "negatives_per_positive": 3.0, **BATCH}),
    "sample_weighting-dense": (
        "dense",
        {
            "name": "sample_weighting",
            **SWN,
            "averaging": "group",
            "activation": "sigmoid",
            **FOCAL,
            **BATCH,
            "background_regularizer": None,
        },
    ),
    "sample_weighting-roi": (
        "roi",
        {
            "name": "sample_weighting",
            **SWN,
            "averaging": "group",
            **SOFTMAX,
            "gamma": 0.0,
            **SAMPLED,
            "background_regularizer": 0.5,
        },
    ),
    "sample_weighting-roi-by-sample": (
        "roi",
        {
            "name": "sample_weighting",
            **SWN,
            "averaging": "sample",
            **SOFTMAX,
            "gamma": 0.0,
            **SAMPLED,
            "background_regularizer": 0.5,
        },
    ),
    "pisa-dense": ("dense", {"name": "pisa", "activation": "sigmoid", **FOCAL, **BATCH, **PISA, **NO_SCORE_HLR}),
    "pisa-roi": (
        "roi",
        {
            "name": "pisa",
            **SOFTMAX,
            "gamma": 0.0,
            **SAMPLED,
            **PISA,
            **SCORE_HLR,
            "score_floor": 0.05,
            "cluster_iou": 0.5,
        },
    ),
    "equalization": (
        "roi",
        {"name": "equalization", **TAIL, "prior_prob": 0.001, "score_threshold": 1e-4, **SAMPLED},
    ),
    # Always left out: then the draws, which depend on the order of the rows, do not matter.
    "equalization_softmax": ("roi", {"name": "equalization_softmax", **TAIL, "gamma": 1.0, **SAMPLED}),
}
PAIRS_OF_METHOD_AND_STAGE = [
    ("cross_entropy", "dense"),
    ("cross_entropy", "roi"),
    ("cross_entropy", "rpn"),
    ("equalization", "roi"),
    ("equalization_softmax", "roi"),
    ("focal", "dense"),
    ("focal", "roi"),
    ("focal", "rpn"),
    ("focal_star", "dense"),
    ("noisy_anchors", "dense"),
    ("ohem", "roi"),
    ("ohem_dense", "dense"),
    ("pisa", "dense"),
    ("pisa", "roi"),
    ("sample_weighting", "dense"),
    ("sample_weighting", "roi"),
    ("ssd_hard_negatives", "dense"),
]
ALL = pytest.mark.parametrize("case", CASES)
SEVERAL_CLASSES = pytest.mark.parametrize("case", [case for case, (stage, _) in CASES.items() if stage != "rpn"])


def stage_of(case):
    return CASES[case][0]


def method_of(case, num_classes=NUM_CLASSES):
    """A new method; a tail has as many classes as there are."""
    spec = dict(CASES[case][1], **BOX)
    if "frequency" in spec:
        spec["frequency"] = spec["frequency"][:num_classes]
    torch.manual_seed(11)  # of the weights that a method learns
    return build_method(spec)


def activation_of(case):
    return method_of(case).head.activation


def detector_with(case, num_classes=NUM_CLASSES):
    """A detector of a few thousand weights with the method at its stage, the same at every call."""
    stage, method = stage_of(case), method_of(case, num_classes)
    torch.manual_seed(3)
    if stage == "dense":
        backbone = build_backbone(TINY, (3, 5), "none", fpn_channels=8)
        anchors = Anchors([[16.0], [32.0], [64.0]], [0.5, 1.0, 2.0], (8, 16, 32))
        return RetinaNet(backbone, num_classes, anchors, MaxIoUAssigner(0.5, 0.4, "argmax"), method)
    rest = {"rpn": "cross_entropy-rpn", "roi": "cross_entropy-roi"}
    methods = {s: method if s == stage else method_of(rest[s]) for s in rest}
    backbone = build_backbone(TINY, (2, 5), "none", fpn_channels=8)
    anchors = Anchors([[8.0], [16.0], [32.0], [64.0]], [0.5, 1.0, 2.0], (4, 8, 16, 32))
    return FasterRCNN(backbone, num_classes, anchors, methods, _rpn(), _roi())


def _rpn():
    return RPN(
        assigner={"foreground_iou": 0.7, "background_iou": 0.3, "low_quality": "argmax"},
        sampled=32,
        foreground_share=0.5,
        nms_iou=0.7,
        training={"candidates_per_level": 50, "kept": 30},
        inference={"candidates_per_level": 50, "kept": 20},
    )


def _roi():
    return RoI(
        assigner={"foreground_iou": 0.5, "background_iou": 0.5, "low_quality": "off"},
        sampled=16,
        foreground_share=0.25,
        pool_size=3,
        sampling_ratio=2,
        canonical_size=32,
        head_channels=16,
    )


def make_batch(boxes, label=0, seed=4):
    """A batch of noise images; ``boxes`` lists each image's xyxy boxes."""
    random = torch.Generator().manual_seed(5)
    flat = [box for of_image in boxes for box in of_image]
    images = [i for i, of_image in enumerate(boxes) for _ in of_image]
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        images=torch.randint(0, 256, (len(boxes), 3, SIDE, SIDE), dtype=torch.uint8, generator=random),
        sizes=torch.full((len(boxes), 2), SIDE),
        scales=torch.ones(len(boxes), 2),
        image_ids=torch.arange(len(boxes)),
        gt_boxes=torch.tensor(flat, dtype=torch.float32).reshape(-1, 4),
        gt_labels=torch.full((len(flat),), label),
        gt_images=torch.tensor(images, dtype=torch.int64),
        ignore_boxes=torch.zeros(0, 4),
        ignore_images=none,
        seed=seed,
    )
