"""Assigning ground truth to anchors, for all images of a batch at once and without waiting for the device."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

FOREGROUND, BACKGROUND, IGNORED = 1, 0, -1
LowQuality = Literal["argmax", "reassign", "off"]


@dataclass(frozen=True)
class Matches:
    """What each of A anchors in each of B images was assigned.

    gt_id: [B, A] int64, row of the batch's gt boxes of highest IoU (or the one forced on it); -1 in images without.
    iou: [B, A] fp32, IoU with that box; 0 in images without boxes.
    status: [B, A] int64, 1 foreground, 0 background, -1 ignored.
    """

    gt_id: Tensor
    iou: Tensor
    status: Tensor


@dataclass(frozen=True)
class MaxIoUAssigner:
    """The assignment of the RetinaNet paper (section 4.1) and of RPN.

    An anchor is foreground at an IoU of at least ``foreground_iou`` with some box of its image, background below
    ``background_iou``, ignored between. ``low_quality`` says what the best anchors of a box get when their IoU is
    lower than that, ties included: ``argmax``, foreground for the box that the anchor overlaps most (torchvision,
    detectron2); ``reassign``, foreground for the box whose best it is, the last of several (mmdetection); ``off``,
    nothing. Only an IoU above 0, and of at least ``low_quality_iou`` (mmdetection's RPN has .3), forces a match: a box
    that no anchor overlaps would otherwise make every anchor foreground. A background anchor that lies with more than
    half of its area in a region to ignore is ignored.
    """

    foreground_iou: float
    background_iou: float
    low_quality: LowQuality
    low_quality_iou: float = 0.0

    def __call__(
        self,
        anchors: Tensor,
        gt_boxes: Tensor,
        gt_images: Tensor,
        ignore_boxes: Tensor,
        ignore_images: Tensor,
        num_images: int,
    ) -> Matches:
        """Match.

        Args:
            anchors: [A, 4] fp32 xyxy pixels, the same for every image.
            gt_boxes, gt_images: [G, 4] fp32 xyxy pixels and [G] int64 position of their image.
            ignore_boxes, ignore_images: [R, 4] and [R], regions to ignore.
            num_images: B.
        """
        overlaps = box_iou(gt_boxes, anchors)
        iou = _max_by_image(overlaps, gt_images, num_images, 0.0)
        ids = torch.arange(len(gt_boxes), device=anchors.device)[:, None]
        # Of equal overlaps the first box wins, as argmax does: the largest of the negated ids.
        first = torch.where(overlaps == iou[gt_images], -ids, -len(gt_boxes))
        gt_id = -_max_by_image(first, gt_images, num_images, -len(gt_boxes))
        gt_id = torch.where(gt_id < len(gt_boxes), gt_id, -1)
        status = torch.where(iou < self.background_iou, BACKGROUND, IGNORED)
        status = torch.where(iou >= self.foreground_iou, FOREGROUND, status)
        if self.low_quality != "off":
            best = overlaps.amax(dim=1, keepdim=True) if len(anchors) else overlaps
            forces = (overlaps == best) & (best > 0) & (best >= self.low_quality_iou)
            forced = _max_by_image(torch.where(forces, ids, -1), gt_images, num_images, -1)
            status = torch.where(forced >= 0, FOREGROUND, status)
            if self.low_quality == "reassign":
                gt_id = torch.where(forced >= 0, forced, gt_id)
                iou = torch.where(forced >= 0, overlaps.gather(0, gt_id.clamp(min=0)), iou) if len(gt_boxes) else iou
        crowded = _covered(anchors, ignore_boxes, ignore_images, num_images)
        return Matches(gt_id, iou, torch.where(crowded & (status == BACKGROUND), IGNORED, status))


def _max_by_image(values: Tensor, images: Tensor, num_images: int, empty: float) -> Tensor:
    """[G, A] values of boxes to [B, A], the largest of each image's boxes; ``empty`` where an image has none."""
    out = values.new_full((num_images, values.shape[1]), empty)
    return out.scatter_reduce(0, images[:, None].expand_as(values), values, "amax")


def _covered(anchors: Tensor, regions: Tensor, images: Tensor, num_images: int) -> Tensor:
    """[B, A] bool: more than half of the anchor's area lies in one of the image's regions."""
    low = torch.maximum(regions[:, None, :2], anchors[:, :2])
    high = torch.minimum(regions[:, None, 2:], anchors[:, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2)
    share = inside / (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)
    return _max_by_image(share, images, num_images, 0.0) > 0.5
