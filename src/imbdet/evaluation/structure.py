"""The detector as built, for the drawing of its structure."""

from typing import Any

import torch

from imbdet.config import Study
from imbdet.detectors.retinanet import RetinaNet


def describe(study: Study, model: RetinaNet) -> dict[str, Any]:
    """Levels with strides, shapes and anchors, the heads, and the number of parameters.

    Shapes come from a run of the network on one blank image of the study's largest size, padded.
    """
    stride = max(model.anchors.strides)
    height, width = (-(-side // stride) * stride for side in (study.detector.short_side, study.detector.long_side))
    with torch.no_grad():
        image = torch.zeros(1, 3, height, width)
        stages = model.backbone.body(image)
        levels = model.backbone.eval()(image)
    anchors = model.anchors
    sides = (anchors.shapes[..., 2:] - anchors.shapes[..., :2]).flatten(1)
    head = model.head.classification_head
    heads = (("classification", model.num_classes), ("box_regression", 4))
    return {
        "study": study.name,
        "name": study.detector.name,
        "backbone": study.detector.backbone,
        "p6_source": study.detector.p6_source,
        "parameters": sum(p.numel() for p in model.parameters()),
        "image": [height, width],
        "backbone_levels": [
            {"name": f"C{i + 3}", "stride": height // x.shape[2], "channels": x.shape[1], "shape": list(x.shape[2:])}
            for i, x in enumerate(stages.values())
        ],
        "levels": [
            {
                "name": f"P{i + 3}",
                "stride": anchors.strides[i],
                "channels": x.shape[1],
                "shape": list(x.shape[2:]),
                "anchors_per_location": anchors.per_location,
                "anchors": anchors.per_location * x.shape[2] * x.shape[3],
                "anchor_sides": [sides[i].min().item(), sides[i].max().item()],
            }
            for i, x in enumerate(levels.values())
        ],
        "heads": [
            {
                "name": name,
                "convs": len(head.conv),
                "channels": model.backbone.out_channels,
                "norm": study.detector.head_norm,
                "outputs": f"{anchors.per_location} x {outputs}",
            }
            for name, outputs in heads
        ],
    }
