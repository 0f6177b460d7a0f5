"""The detector as built, for the drawing of its structure."""

from typing import Any

import torch
from torch import Tensor

from imbdet.detectors import Detector
from imbdet.detectors.faster_rcnn import FasterRCNN
from imbdet.detectors.retinanet import RetinaNet
from imbdet.settings import PADDING, Network


def describe(settings: Network, model: Detector) -> dict[str, Any]:
    """Levels with strides, shapes and anchors, the heads, and the number of parameters.

    Shapes come from a run of the network on one blank image of the study's largest size, padded.
    """
    anchors = model.anchors
    lowest = anchors.strides[0].bit_length() - 1
    height, width = (-(-side // PADDING) * PADDING for side in (settings.short_side, settings.long_side))
    with torch.no_grad():
        image = torch.zeros(1, 3, height, width)
        stages = model.backbone.eval().levels(image)
        levels: dict[str, Tensor] = model.backbone.pyramid(stages)
    sides = (anchors.shapes[..., 2:] - anchors.shapes[..., :2]).flatten(1)
    values = settings.model_dump()
    return {
        "name": values["name"],
        "backbone": settings.backbone.name,
        "p6_source": values["p6_source"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "image": [height, width],
        "backbone_levels": [
            {
                "name": f"C{lowest + i}",
                "stride": height // x.shape[2],
                "channels": x.shape[1],
                "shape": list(x.shape[2:]),
            }
            for i, x in enumerate(stages)
        ],
        "levels": [
            {
                "name": f"P{lowest + i}",
                "stride": anchors.strides[i],
                "channels": x.shape[1],
                "shape": list(x.shape[2:]),
                "anchors_per_location": anchors.per_location,
                "anchors": anchors.per_location * x.shape[2] * x.shape[3],
                "anchor_sides": [sides[i].min().item(), sides[i].max().item()],
            }
            for i, x in enumerate(levels.values())
        ],
        "heads": _heads(model),
    }


def _heads(model: Detector) -> list[dict[str, Any]]:
    """Name, layers and outputs of each head."""
    per_location, channels = model.anchors.per_location, model.backbone.out_channels
    if isinstance(model, RetinaNet):
        towers = model.head.classification_head.conv
        norm = "group" if any(isinstance(m, torch.nn.GroupNorm) for m in towers.modules()) else "none"
        common = {"convs": len(towers), "channels": channels, "norm": norm}
        columns = model.method("dense").head.columns(model.num_classes)
        return [
            {"name": "classification", **common, "outputs": f"{per_location} x {columns}"},
            {"name": "box_regression", **common, "outputs": f"{per_location} x 4"},
        ]
    assert isinstance(model, FasterRCNN)
    roi = model.roi_settings
    columns = model.method("roi").head.columns(model.num_classes)
    return [
        {"name": "rpn", "convs": 1, "channels": channels, "norm": "none", "outputs": f"{per_location} x (1 + 4)"},
        {
            "name": "roi",
            "pool": roi.pool_size,
            "layers": 2,
            "channels": roi.head_channels,
            "outputs": f"{columns} + {model.num_classes} x 4",
        },
    ]
