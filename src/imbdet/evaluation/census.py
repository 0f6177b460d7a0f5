"""``python -m imbdet census STUDY``: the imbalance that training meets, and the detector as built."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from imbdet.config import Study
from imbdet.data.batch import Batch
from imbdet.data.coco import Annotations, read_annotations
from imbdet.data.transforms import fitted_size
from imbdet.detectors import build_detector
from imbdet.detectors.retinanet import RetinaNet
from imbdet.evaluation.structure import describe
from imbdet.files import write_json
from imbdet.layout import Layout

MOST_IMAGES = 2000  # matching COCO's 118,287 images would take hours and change the third digit


def run(study: Study, layout: Layout) -> None:
    """Write the census of the training split and the structure of the study's detector.

    Counts are those of the assigner that training uses, on at most 2,000 images, evenly spaced by id.
    """
    annotations = read_annotations(layout.annotations("train"))
    model = build_detector(study, next(iter(study.experiments)), len(annotations.categories))
    write_json(layout.structure, describe(study, model))
    write_json(layout.census, count(study, annotations, model))


def count(study: Study, annotations: Annotations, model: RetinaNet) -> dict[str, Any]:
    """Mean number of foreground, background and ignored anchors of an image, by level, and boxes by class."""
    images = np.unique(np.linspace(0, len(annotations.image_ids) - 1, MOST_IMAGES).astype(int))
    levels = len(model.anchors.strides)
    totals = torch.zeros(levels, 3, dtype=torch.int64)
    by_class = torch.zeros(len(annotations.categories) + 1, dtype=torch.int64)
    sizes = []
    for image in images:
        batch = _boxes_of(study, annotations, int(image), max(model.anchors.strides))
        level, label = _match(model, batch)
        kind = torch.where(label < 0, 2, (label == model.num_classes).long())
        totals += torch.bincount(level * 3 + kind, minlength=3 * levels).view(levels, 3)
        by_class += torch.bincount(label[label >= 0], minlength=len(by_class))
        sizes.append(list(batch.images.shape[-2:]))
    means = totals.double() / len(images)
    return {
        "study": study.name,
        "images": len(images),
        "image_size": max(sizes, key=sizes.count),
        "levels": [
            {
                "name": f"P{i + 3}",
                "stride": stride,
                "anchors": round(means[i].sum().item()),
                **dict(zip(("foreground", "background", "ignored"), means[i].tolist(), strict=True)),
            }
            for i, stride in enumerate(model.anchors.strides)
        ],
        "foreground_share": (totals[:, 0].sum() / totals.sum()).item(),
        "classes": _classes(annotations, by_class),
    }


def _boxes_of(study: Study, annotations: Annotations, image: int, stride: int) -> Batch:
    """One image's boxes as training sees them, without reading its pixels."""
    height, width = (int(side) for side in annotations.sizes[image])
    new_height, new_width = fitted_size(height, width, study.detector.short_side, study.detector.long_side)
    scale = torch.tensor([new_width / width, new_height / height])
    objects, crowds = annotations.objects.rows(image), annotations.crowds.rows(image)
    boxes = torch.from_numpy(annotations.objects.boxes[objects]) * scale.repeat(2)
    ignored = torch.from_numpy(annotations.crowds.boxes[crowds]) * scale.repeat(2)
    if study.detector.assigner.crowd == "drop":
        ignored = ignored[:0]
    padded = [-(-side // stride) * stride for side in (new_height, new_width)]
    return Batch(
        images=torch.empty((1, 3, *padded), dtype=torch.uint8, device="meta"),
        sizes=torch.tensor([[new_height, new_width]]),
        scales=scale[None],
        image_ids=torch.from_numpy(annotations.image_ids[[image]]),
        gt_boxes=boxes,
        gt_labels=torch.from_numpy(annotations.objects.labels[objects]),
        gt_images=torch.zeros(len(boxes), dtype=torch.int64),
        ignore_boxes=ignored,
        ignore_images=torch.zeros(len(ignored), dtype=torch.int64),
    )


def _match(model: RetinaNet, batch: Batch) -> tuple[Tensor, Tensor]:
    """[A] levels and labels of one image's anchors; matching needs no predictions, only their shape."""
    anchors = sum(model.anchors.counts(*batch.images.shape[-2:]))
    samples = model.match(batch, torch.empty(1, anchors, 0), torch.empty(1, anchors, 4))
    return samples.level, samples.label


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
