"""Every method at every stage that its paper defines, and small inputs for them."""

from dataclasses import replace

import pytest
import torch

from imbdet.assigners import MaxIoUAssigner
from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import build_backbone, strides
from imbdet.detectors.boxes import BoxCoder
from imbdet.detectors.retinanet import RetinaNet
from imbdet.methods import build_method
from imbdet.samples import Samples

SHARED = {"prior_prob": 0.01, "box_beta": 0.11}
NORMALIZERS = ("per_image", "batch", "ema")
# A new method adds a line here; a test compares the names with the files of imbdet/methods.
PARAMETERS = {
    "cross_entropy": {"alpha": None},
    "focal": {"alpha": 0.25, "gamma": 2.0},
    "focal_star": {"alpha": 0.25, "gamma": 2.0, "beta": 1.0},
}
SPECS = [
    {"name": name, **parameters, **SHARED, "normalizer": normalizer}
    for name, parameters in PARAMETERS.items()
    for normalizer in NORMALIZERS
]
PAIRS = [(spec, stage) for spec in SPECS for stage in sorted(build_method(spec).stages)]
METHODS_AND_STAGES = pytest.mark.parametrize(
    ("spec", "stage"), PAIRS, ids=[f"{spec['name']}-{spec['normalizer']}-{stage}" for spec, stage in PAIRS]
)
METHODS = pytest.mark.parametrize("spec", SPECS, ids=[f"{spec['name']}-{spec['normalizer']}" for spec in SPECS])

ROW_FIELDS = ("logits", "deltas", "priors", "label", "gt_id", "image_id", "level", "prior_iou", "weight")
NUM_CLASSES = 3
SIDE = 64  # pixels


def make_samples(stage, label=None, num_classes=NUM_CLASSES, dtype=torch.float64, images=2):
    """Samples with ``label``, by default every kind of row, cut evenly into ``images``; the rest is random, seeded."""
    random = torch.Generator().manual_seed(7)
    if label is None:
        label = [-1, 0, num_classes, num_classes - 1, num_classes, -1, 0, num_classes] * 3
    label = torch.tensor(label)
    n = len(label)
    foreground = (label >= 0) & (label < num_classes)
    corners = 40 * torch.rand(n, 2, generator=random)
    priors = torch.cat([corners, corners + 8 + 20 * torch.rand(n, 2, generator=random)], 1)
    gt_boxes = priors[foreground] + torch.tensor([-2.0, 1.0, 3.0, 2.0])
    return Samples(
        logits=2 * torch.randn(n, num_classes, dtype=dtype, generator=random),
        deltas=torch.randn(n, 4, dtype=dtype, generator=random),
        priors=priors,
        label=label,
        gt_id=torch.where(foreground, foreground.cumsum(0) - 1, -1),
        image_id=torch.arange(n) * images // max(n, 1),
        level=torch.zeros(n, dtype=torch.int64),
        prior_iou=torch.where(foreground, 0.6, 0.1),
        weight=torch.ones(n),
        gt_boxes=gt_boxes,
        box_coder=BoxCoder(),
        num_classes=num_classes,
        num_images=images,
        stage=stage,
    )


def changed_rows(samples, change):
    """The same samples with ``change`` applied to every field that has a row for each candidate."""
    return replace(samples, **{name: change(getattr(samples, name)) for name in ROW_FIELDS})


def losses_and_gradients(method, samples):
    """Losses by name, and the gradients of their sum with respect to logits and deltas."""
    inputs = [samples.logits.detach().clone().requires_grad_(), samples.deltas.detach().clone().requires_grad_()]
    losses = method(replace(samples, logits=inputs[0], deltas=inputs[1]))
    return losses, torch.autograd.grad(sum(losses.values()), inputs)


def tiny_detector(method, num_classes=NUM_CLASSES):
    """A RetinaNet of a few thousand weights, the same at every call."""
    torch.manual_seed(3)
    backbone = build_backbone("tiny", pretrained=False, fpn_channels=8, p6_source="none")
    levels = strides("none")
    anchors = Anchors([[2.0 * stride] for stride in levels], [0.5, 1.0, 2.0], levels)
    return RetinaNet(backbone, num_classes, anchors, MaxIoUAssigner(0.5, 0.4, "argmax"), method)


def make_batch(boxes, label=0):
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
    )
