"""A batch of images with the ground truth of all of them in flat arrays, as matching over a whole batch wants it."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Batch:
    """B images padded to one size and the G ground-truth boxes and R regions to ignore of all of them.

    images: [B, 3, H, W] uint8, zero to the right of and below each image; H and W multiples of the coarsest stride.
    sizes: [B, 2] int64, height and width of each resized image inside the padded one, pixels.
    scales: [B, 2] fp32, resized over original size, (x, y).
    image_ids: [B] int64, ids in the annotation file.
    gt_boxes: [G, 4] fp32 xyxy, pixels of the resized image. gt_labels: [G] int64, 0..K-1.
    gt_images: [G] int64, position in the batch, ascending.
    ignore_boxes, ignore_images: [R, 4] and [R], crowd regions, in the same terms.
    """

    images: Tensor
    sizes: Tensor
    scales: Tensor
    image_ids: Tensor
    gt_boxes: Tensor
    gt_labels: Tensor
    gt_images: Tensor
    ignore_boxes: Tensor
    ignore_images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch on ``device``."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, as ``DataLoader(pin_memory=True)`` asks."""
        return Batch(*(getattr(self, f.name).pin_memory() for f in fields(self)))
