"""``Samples``: every matched candidate of a batch, in the one form that detectors fill and methods read."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:  # detectors build on methods, which build on this module
    from imbdet.assigners import Matches
    from imbdet.detectors.boxes import BoxCoder

Stage = Literal["dense", "rpn", "roi"]


@dataclass(frozen=True)
class Samples:
    """N candidates (anchors or proposals) of a whole batch; N never depends on the ground truth.

    Nothing is selected by a boolean index, which would wait for the device: methods mask with ``where``, and never
    multiply by 0, because 0 * NaN is NaN.

    logits: [N, K] class logits.
    deltas: [N, 4] encoded box offsets.
    priors: [N, 4] fp32 xyxy pixels, also under autocast.
    label: [N] int64; 0..K-1 foreground, K background, -1 ignored.
    gt_id: [N] int64, row of ``gt_boxes``; -1 where none.
    image_id: [N] int64, position in the batch.
    level: [N] int64, 0 for the finest feature level.
    prior_iou: [N] fp32, IoU of prior and its ground truth, 0 where the image has none.
    weight: [N] fp32, 1 unless a sampler or an assigner says otherwise.
    gt_boxes: [G, 4] fp32 xyxy pixels, all images of the batch.
    box_coder: encodes boxes relative to priors.
    num_classes, num_images: K and the number of images B.
    stage: which head these candidates come from.
    """

    logits: Tensor
    deltas: Tensor
    priors: Tensor
    label: Tensor
    gt_id: Tensor
    image_id: Tensor
    level: Tensor
    prior_iou: Tensor
    weight: Tensor
    gt_boxes: Tensor
    box_coder: "BoxCoder"
    num_classes: int
    num_images: int
    stage: Stage

    @cached_property
    def foreground(self) -> Tensor:
        """[N] bool."""
        return (self.label >= 0) & (self.label < self.num_classes)

    @cached_property
    def delta_targets(self) -> Tensor:
        """[N, 4] fp32 offsets of each foreground row's ground truth; 0 elsewhere."""
        if not len(self.gt_boxes):
            return torch.zeros_like(self.priors)
        boxes = self.gt_boxes[self.gt_id.clamp(min=0)]
        # The prior itself stands in where there is no ground truth, so that encoding it stays finite.
        return self.box_coder.encode(torch.where(self.foreground[:, None], boxes, self.priors), self.priors)

    @cached_property
    def foreground_deltas(self) -> Tensor:
        """[N, 4] predicted offsets in fp32 (fp64 kept); 0 without gradient where not foreground."""
        deltas = self.deltas if self.deltas.dtype == torch.float64 else self.deltas.float()
        return torch.where(self.foreground[:, None], deltas, 0.0)


def dense_samples(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    levels: Tensor,
    matches: "Matches",
    gt_boxes: Tensor,
    gt_labels: Tensor,
    box_coder: "BoxCoder",
    num_classes: int,
) -> Samples:
    """Every anchor of every image as a candidate.

    Args:
        logits, deltas: [B, A, K] and [B, A, 4].
        anchors, levels: [A, 4] fp32 xyxy pixels and [A] int64, the same for every image.
        matches: of the B x A anchors with the ground truth.
        gt_boxes, gt_labels: [G, 4] fp32 xyxy pixels and [G] int64, 0..K-1.
        box_coder: what ``deltas`` mean.
        num_classes: K.
    """
    images = len(logits)
    # One more label for anchors without any ground truth, which gt_id -1 picks.
    labels = torch.cat([gt_labels, gt_labels.new_full((1,), num_classes)])
    label = torch.where(matches.status == 1, labels[matches.gt_id], num_classes)
    label = torch.where(matches.status == -1, -1, label)
    return Samples(
        logits=logits.flatten(0, 1),
        deltas=deltas.flatten(0, 1),
        priors=anchors.expand(images, -1, -1).reshape(-1, 4),
        label=label.flatten(),
        gt_id=matches.gt_id.flatten(),
        image_id=torch.arange(images, device=label.device)[:, None].expand_as(label).flatten(),
        level=levels.expand(images, -1).flatten(),
        prior_iou=matches.iou.flatten(),
        weight=torch.ones_like(matches.iou).flatten(),
        gt_boxes=gt_boxes,
        box_coder=box_coder,
        num_classes=num_classes,
        num_images=images,
        stage="dense",
    )
