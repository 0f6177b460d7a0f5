"""Assigning ground truth to priors, for all images of a batch at once and without waiting for the device."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from imbdet.domains import SHARE, check_thresholds, check_word
from imbdet.geometry import are_boxes, first_wrong_box, pairwise_iou
from imbdet.tensor_shapes import check_shapes

FOREGROUND, BACKGROUND, IGNORED = 1, 0, -1
LowQuality = Literal["argmax", "reassign", "off"]


@dataclass(frozen=True)
class Matches:
    """What each of A anchors in each of B images was assigned; of proposals, which differ by image, B is 1.

    gt_id: [B, A] int64, row of the batch's gt boxes of highest IoU (or the one forced on it); -1 in images without.
    iou: [B, A] fp32, IoU with that box; 0 in images without boxes.
    status: [B, A] int64, 1 foreground, 0 background, -1 ignored.
    multiplicity: [B, A] fp32, how many boxes picked the anchor, where the rule lets several; 1 otherwise.
    """

    gt_id: Tensor
    iou: Tensor
    status: Tensor
    multiplicity: Tensor

    def __post_init__(self) -> None:
        check_shapes(dict.fromkeys(("gt_id", "iou", "status", "multiplicity"), "B A"), vars(self))


@dataclass(frozen=True)
class Truth:
    """The ground truth of a batch of B images in flat arrays.

    boxes, labels, images: [G, 4] fp32 xyxy pixels, [G] int64 classes 0..K-1 and [G] int64 position in the batch.
    ignore_boxes, ignore_images: [R, 4] and [R], regions to ignore.
    num_images: B.
    checked: whether all boxes are known to be right. Otherwise the constructor looks, which waits for the device.

    Raises ValueError for fields whose shapes do not fit one another; for a box that is not finite, whose image would
    have no foreground and hardly any background; and for a box of negative width or height, which nothing would match.
    """

    boxes: Tensor
    labels: Tensor
    images: Tensor
    ignore_boxes: Tensor
    ignore_images: Tensor
    num_images: int
    checked: bool = False

    def __post_init__(self) -> None:
        forms = {"boxes": "G 4", "labels": "G", "images": "G", "ignore_boxes": "R 4", "ignore_images": "R"}
        check_shapes(forms, vars(self))
        if not (self.checked or are_boxes(torch.cat([self.boxes, self.ignore_boxes])).all()):
            _refuse_wrong_box("box", self.boxes, self.images)
            _refuse_wrong_box("region to ignore", self.ignore_boxes, self.ignore_images)


def _refuse_wrong_box(kind: str, boxes: Tensor, images: Tensor) -> None:
    wrong = first_wrong_box(boxes)
    if wrong:
        row, problem = wrong
        image = int(images[row])
        place = int((images[:row] == image).sum())
        raise ValueError(f"image {image} of the batch, {kind} {place}: {problem}")


class Assigner(Protocol):
    """Matches anchors that are the same for every image with the ground truth of each."""

    def __call__(self, anchors: Tensor, truth: Truth) -> Matches:
        """``anchors``: [A, 4] fp32 xyxy pixels."""
        ...


@dataclass(frozen=True)
class MaxIoUAssigner:
    """The assignment of the RetinaNet paper (section 4.1), of RPN and of Fast R-CNN's head.

    An anchor is foreground at an IoU of at least ``foreground_iou`` with some box of its image, background below
    ``background_iou``, ignored between. ``low_quality`` says what the best anchors of a box get when their IoU is
    lower than that, ties included: ``argmax``, foreground for the box that the anchor overlaps most (torchvision,
    detectron2); ``reassign``, foreground for the box whose best it is, the last of several (mmdetection); ``off``,
    nothing. Only an IoU above 0, and of at least ``low_quality_iou`` (mmdetection's RPN has .3), forces a match: a box
    that no anchor overlaps would otherwise make every anchor foreground. A background anchor that lies with more than
    half of its area in a region to ignore is ignored.

    ``foreground_iou`` of ``math.inf`` makes no anchor foreground, ``background_iou`` of ``math.inf`` all others
    background. Raises ValueError for thresholds that are no IoU or in the wrong order, and for an unknown word.
    """

    foreground_iou: float
    background_iou: float
    low_quality: LowQuality
    low_quality_iou: float = 0.0

    def __post_init__(self) -> None:
        check_thresholds(self.foreground_iou, self.background_iou)
        check_word("low_quality", self.low_quality, get_args(LowQuality))
        SHARE.check("low_quality_iou", self.low_quality_iou)

    def __call__(self, anchors: Tensor, truth: Truth) -> Matches:
        """Match [A, 4] fp32 xyxy anchors, the same for every image: [B, A]."""
        check_shapes({"anchors": "A 4"}, {"anchors": anchors})
        overlaps = pairwise_iou(truth.boxes, anchors)
        return self._match(overlaps, truth.images, truth.num_images, covered(anchors, truth))

    def match_proposals(self, proposals: Tensor, images: Tensor, truth: Truth) -> Matches:
        """Match [P, 4] fp32 xyxy proposals of the images [P] int64: [1, P]."""
        check_shapes({"proposals": "P 4", "images": "P"}, {"proposals": proposals, "images": images})
        # A box of another image overlaps nothing here, not even by 0.
        overlaps = torch.where(truth.images[:, None] == images, pairwise_iou(truth.boxes, proposals), -1.0)
        crowded = covered(proposals, truth).gather(0, images[None])
        return self._match(overlaps, torch.zeros_like(truth.images), 1, crowded)

    def _match(self, overlaps: Tensor, gt_images: Tensor, num_images: int, crowded: Tensor) -> Matches:
        """[G, A] overlaps, [G] images of the boxes and [B, A] whether a region to ignore covers the prior."""
        gts = len(overlaps)
        iou = _max_by_image(overlaps, gt_images, num_images, 0.0)
        ids = torch.arange(gts, device=overlaps.device)[:, None]
        # Of equal overlaps the first box wins, as argmax does: the largest of the negated ids.
        first = torch.where(overlaps < iou[gt_images], -gts, -ids)
        gt_id = -_max_by_image(first, gt_images, num_images, -gts)
        gt_id = torch.where(gt_id < gts, gt_id, -1)
        status = torch.where(iou < self.background_iou, BACKGROUND, IGNORED)
        # Neither comparison holds for NaN: a prior that is not finite is foreground, where its loss shows it.
        status = torch.where(iou < self.foreground_iou, status, FOREGROUND)
        if self.low_quality != "off":
            best = overlaps.amax(dim=1, keepdim=True) if overlaps.shape[1] else overlaps
            forces = (overlaps == best) & (best > 0) & (best >= self.low_quality_iou)
            forced = _max_by_image(torch.where(forces, ids, -1), gt_images, num_images, -1)
            status = torch.where(forced >= 0, FOREGROUND, status)
            if self.low_quality == "reassign":
                gt_id = torch.where(forced >= 0, forced, gt_id)
                iou = torch.where(forced >= 0, overlaps.gather(0, gt_id.clamp(min=0)), iou) if gts else iou
        status = torch.where(crowded & (status == BACKGROUND), IGNORED, status)
        return Matches(gt_id, iou, status, torch.ones_like(iou))


def _max_by_image(values: Tensor, images: Tensor, num_images: int, empty: float) -> Tensor:
    """[G, A] values of boxes to [B, A], the largest of each image's boxes; ``empty`` where an image has none."""
    out = values.new_full((num_images, values.shape[1]), empty)
    return out.scatter_reduce(0, images[:, None].expand_as(values), values, "amax")


def covered(priors: Tensor, truth: Truth) -> Tensor:
    """[A, 4] priors to [B, A] bool: more than half of the prior's area lies in one of the image's regions to ignore."""
    regions = truth.ignore_boxes
    low = torch.maximum(regions[:, None, :2], priors[:, :2])
    high = torch.minimum(regions[:, None, 2:], priors[:, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2)
    share = inside / (priors[:, 2:] - priors[:, :2]).prod(dim=1)
    return _max_by_image(share, truth.ignore_images, truth.num_images, 0.0) > 0.5
