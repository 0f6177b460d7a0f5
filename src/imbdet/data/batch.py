"""A batch of images with the ground truth of all of them in flat arrays, as matching over a whole batch wants it."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from imbdet.assigners import Truth


@dataclass
class Batch:
    """B images padded to one size and the G ground-truth boxes and R regions to ignore of all of them.

    images: [B, 3, H, W] uint8, zero to the right of and below each image; H and W multiples of 32.
    sizes: [B, 2] int64, height and width of each resized image inside the padded one, pixels.
    scales: [B, 2] fp32, resized over original size, (x, y).
    image_ids: [B] int64, ids in the annotation file.
    gt_boxes: [G, 4] fp32 xyxy, pixels of the resized image. gt_labels: [G] int64, 0..K-1.
    gt_images: [G] int64, position in the batch, ascending.
    ignore_boxes, ignore_images: [R, 4] and [R], crowd regions, in the same terms. All boxes are finite; see
        :class:`imbdet.data.loader.Sample`.
    features: the backbone's levels of the images, [B, channels, h, w] fp16 or fp32 each, finest first, where they were
        computed before; the images are then on the device "meta": they have their size but no pixels.
    seed: of the draws that samplers and methods make on this batch; None for PyTorch's global generator.
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
    features: tuple[Tensor, ...] | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, as ``DataLoader(pin_memory=True)`` asks."""
        return self._each(Tensor.pin_memory)

    @property
    def truth(self) -> Truth:
        """The ground truth alone."""
        flat = self.gt_boxes, self.gt_labels, self.gt_images, self.ignore_boxes, self.ignore_images
        return Truth(*flat, num_images=len(self), checked=True)

    def generator(self, device: torch.device) -> torch.Generator | None:
        """A new generator on ``device`` with the batch's seed."""
        return None if self.seed is None else torch.Generator(device).manual_seed(self.seed)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = tree_map_only(Tensor, lambda tensor: tensor if tensor.is_meta else change(tensor), values)
        return Batch(**changed)
