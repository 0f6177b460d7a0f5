"""``python -m imbdet census STUDY DETECTOR``: the imbalance that training meets, and the detector as built."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from imbdet.config import Study
from imbdet.data.coco import Annotations
from imbdet.data.facts import read_facts
from imbdet.data.loader import Split, collate
from imbdet.detectors import Detector, build_detector
from imbdet.errors import UserError, nearest
from imbdet.evaluation.structure import describe
from imbdet.files import write_json
from imbdet.layout import Layout

MOST_IMAGES = 2000  # matching COCO's 118,287 images would take hours and change the third digit


def run(study: Study, layout: Layout, detector: str) -> None:
    """Write the census of the training split, and the structure of one of the study's detectors.

    Counts are those of the assigner that training uses, on at most 2,000 images, evenly spaced by id. A method that
    brings its own assigner is not asked: the first experiment of the detector is. Raises :class:`UserError` for a
    detector that the study does not have.
    """
    if detector not in study.detectors:
        raise UserError(f"study {study.name}: no detector {detector!r}; {nearest(detector, study.detectors)}")
    experiment = next(name for name, chosen in study.experiments.items() if chosen.detector == detector)
    model = build_detector(study, experiment, read_facts(layout))
    write_json(layout.structure(detector), {"study": study.name} | describe(study.detectors[detector], model))
    split = Split(study.detectors[detector], layout, "train")
    write_json(layout.census(detector), {"study": study.name} | count(split, model))


def count(split: Split, model: Detector) -> dict[str, Any]:
    """Mean number of foreground, background and ignored anchors of an image, by level, and boxes by class."""
    annotations = split.annotations
    images = np.unique(np.linspace(0, len(annotations.image_ids) - 1, MOST_IMAGES).astype(int))
    levels = len(model.anchors.strides)
    totals = torch.zeros(levels, 3, dtype=torch.int64)
    by_class = torch.zeros(len(annotations.categories), dtype=torch.int64)
    sizes = []
    for image in images:
        batch = collate([split.outline(int(image))], split.stride, canvas=split.canvas)
        anchors = model.match_anchors(batch)
        kind = torch.where(anchors.label < 0, 2, (anchors.label == anchors.num_classes).long())
        totals += torch.bincount(anchors.level * 3 + kind, minlength=3 * levels).view(levels, 3)
        labels = batch.gt_labels[anchors.gt_id[anchors.foreground]]
        by_class += torch.bincount(labels, minlength=len(by_class))
        sizes.append(list(batch.images.shape[-2:]))
    means = totals.double() / len(images)
    lowest = model.anchors.strides[0].bit_length() - 1
    return {
        "images": len(images),
        "image_size": max(sizes, key=sizes.count),
        "levels": [
            {
                "name": f"P{lowest + i}",
                "stride": stride,
                "anchors": round(means[i].sum().item()),
                **dict(zip(("foreground", "background", "ignored"), means[i].tolist(), strict=True)),
            }
            for i, stride in enumerate(model.anchors.strides)
        ],
        "foreground_share": totals[:, 0].sum().item() / totals.sum().item(),
        "classes": _classes(annotations, by_class),
    }


def _classes(annotations: Annotations, foreground: Tensor) -> list[dict[str, Any]]:
    """Boxes, images and foreground anchors of each class, most boxes first."""
    objects, count = annotations.objects, len(annotations.categories)
    boxes = np.bincount(objects.labels, minlength=count)
    pairs = np.unique(np.stack([objects.labels, objects.images]), axis=1)
    images = np.bincount(pairs[0], minlength=count)
    return [
        {
            "id": int(annotations.categories.ids[k]),
            "name": annotations.categories.names[k],
            "boxes": int(boxes[k]),
            "images": int(images[k]),
            "foreground_anchors": int(foreground[k]),
        }
        for k in np.argsort(-boxes, kind="stable")
    ]
