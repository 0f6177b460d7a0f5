"""From torchvision's targets, a dictionary for each image, to the ground truth of a batch in flat arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from imbdet.assigners import Truth

Targets = list[dict[str, Tensor]]
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def join_targets(targets: Targets, images: int, classes: int, first: int | None) -> Truth:
    """Join the boxes and labels of all images of a batch. Waits for the device once.

    Args:
        targets: of each image.
        images: number of images in the batch.
        classes: K.
        first: torchvision's label of class 0; None for RPN, which reads no labels and has one class, object.

    Raises:
        ValueError: targets of another form (see :func:`check_form`); boxes that are not finite or have no area in fp32,
            or an infinite one; labels that have no class. Names image and box.
    """
    check_form(targets, images, ("boxes",) if first is None else ("boxes", "labels"))
    boxes = torch.cat([target["boxes"] for target in targets]).float()
    owner = positions([len(target["boxes"]) for target in targets], boxes.device)
    if first is None:
        first, labels = 0, torch.zeros_like(owner)
    else:
        labels = torch.cat([target["labels"].long() for target in targets]) - first
    truth = Truth(boxes, labels, owner, boxes[:0], owner[:0], images, checked=True)
    # A label out of range would count as background. A box without a size in fp32 has no IoU and infinite offsets.
    wrong = ~_measurable(boxes) | (labels < 0) | (labels >= classes)
    if wrong.any():
        _refuse(truth, int(wrong.nonzero()[0]), targets, classes, first)
    return truth


def check_form(targets: Any, images: int, keys: Sequence[str] = ("boxes",)) -> None:
    """Check that targets are one dictionary for each image, with tensors that can be joined. Reads no values.

    Raises:
        ValueError: no sequence; another number of targets than of images; a target that is no mapping or lacks a key;
            boxes that are no tensor [n, 4]; labels that are no integer tensor [n]. Names the image.
    """
    if not isinstance(targets, Sequence):
        raise ValueError(f"targets are a {type(targets).__name__}, expected a list with a dictionary for each image")
    if len(targets) != images:
        raise ValueError(f"{len(targets)} targets for {images} images, expected one for each image")
    for position, target in enumerate(targets):
        if not isinstance(target, Mapping):
            kind = type(target).__name__
            raise ValueError(f"image {position} of the batch: its target is a {kind}, expected a dictionary of tensors")
        if misfit := _misfit(target, keys):
            raise ValueError(f"{_name(position, target)}: {misfit}")


def positions(counts: list[int], device: torch.device) -> Tensor:
    """[sum of counts] int64, position in the batch of what each image has ``counts`` of."""
    each = torch.tensor(counts, device=device)
    return torch.arange(len(counts), device=device).repeat_interleave(each, output_size=sum(counts))


def _misfit(target: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """What keeps the boxes and labels of an image from being joined with others, if anything; reads no values."""
    for key in keys:
        if not isinstance(target.get(key), Tensor):
            got = f"a {type(target[key]).__name__}" if key in target else "missing"
            return f"{key!r} is {got}, expected a tensor"
    boxes = target["boxes"]
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"boxes of shape {list(boxes.shape)}, expected [n, 4]; without boxes [0, 4]"
    if "labels" not in keys:
        return None
    labels, shape = target["labels"], [len(boxes)]
    if list(labels.shape) != shape:
        got = f"{len(boxes)} boxes and {labels.numel()} labels of shape {list(labels.shape)}"
        return f"{got}; expected a label for each box, shape {shape}"
    if len(labels) and labels.dtype not in INTEGERS:  # an empty tensor is fp32 unless told otherwise
        return f"labels of {labels.dtype}, expected integers (torch.int64)"
    return None


def _measurable(boxes: Tensor) -> Tensor:
    """[n] bool, whether a box has an area that fp32 can hold; NaN compares as false."""
    size = boxes[:, 2:] - boxes[:, :2]
    area = size.prod(1)
    return (size > 0).all(1) & (area > 0) & area.isfinite()


def _refuse(truth: Truth, row: int, targets: Targets, classes: int, first: int) -> None:
    """Raise ValueError for the box in a row of the flat arrays, which has no finite area or a label without a class."""
    position = int(truth.images[row])
    place = row - int((truth.images < position).sum())
    box = f"{_name(position, targets[position])}, box {place}"
    corners = f"{truth.boxes[row].tolist()} in pixels of the resized image"
    if not truth.boxes[row].isfinite().all():
        raise ValueError(f"{box}: {corners}, expected finite numbers")
    if not _measurable(truth.boxes[row : row + 1]):
        width, height = (truth.boxes[row, 2:] - truth.boxes[row, :2]).tolist()
        raise ValueError(
            f"{box}: {corners} is {width} wide and {height} high in fp32, expected an area above 0 and finite; remove "
            "the box, or check its units"
        )
    label = int(truth.labels[row]) + first
    raise ValueError(f"{box}: label {label} of a box, expected {first} to {classes - 1 + first}")


def _name(position: int, target: Mapping[str, Any]) -> str:
    """What a message calls an image."""
    name = f"image {position} of the batch"
    if "image_id" not in target:
        return name
    image_id = target["image_id"]
    return f"{name} (image_id {image_id.tolist() if isinstance(image_id, Tensor) else image_id})"
