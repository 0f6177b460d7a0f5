"""Anchors of a feature pyramid, in fp32 whatever autocast says, made once for each padded image size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator


class Anchors(nn.Module):
    """Anchors of every level, in torchvision's order: level, row, column, then ratio-major shapes.

    torchvision's generator makes anchors in the feature map's dtype, which under bf16 moves most of them, and divides
    the image by the feature map's size, which at sizes the coarsest stride does not divide gives wrong strides. This
    one takes the strides as they are; images are padded to a multiple of the coarsest.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[int]) -> None:
        """``sizes``: for each level the roots of the anchors' areas in pixels; ``ratios``: height over width."""
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} lists of anchor sizes for {len(strides)} levels; give one list a level")
        if len({len(level) for level in sizes}) != 1:
            raise ValueError("every level needs the same number of anchor sizes: the head is shared by all levels")
        self.strides = tuple(strides)
        self.per_location = len(sizes[0]) * len(ratios)
        shapes = [AnchorGenerator.generate_anchors(None, list(level), list(ratios)) for level in sizes]
        self.register_buffer("shapes", torch.stack(shapes), persistent=False)
        self.shapes: Tensor
        self._cache: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}

    def counts(self, height: int, width: int) -> list[int]:
        """Number of anchors of each level for a padded image."""
        return [(height // s) * (width // s) * self.per_location for s in self.strides]

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return [A, 4] fp32 xyxy pixels and [A] int64 levels for a padded image of ``height`` x ``width``.

        Raises:
            ValueError: a size that the coarsest stride does not divide.
        """
        key = (height, width, self.shapes.device)
        if key not in self._cache:
            self._cache[key] = self._make(height, width)
        return self._cache[key]

    def _make(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        coarsest = max(self.strides)
        if height % coarsest or width % coarsest:
            raise ValueError(f"image of {height}x{width}: pad both sides to a multiple of {coarsest}")
        device = self.shapes.device
        boxes, levels = [], []
        for level, (stride, shapes) in enumerate(zip(self.strides, self.shapes.float(), strict=True)):
            y = torch.arange(0, height, stride, device=device, dtype=torch.float32)
            x = torch.arange(0, width, stride, device=device, dtype=torch.float32)
            rows, columns = torch.meshgrid(y, x, indexing="ij")
            corners = torch.stack([columns, rows, columns, rows], dim=-1).reshape(-1, 1, 4)
            boxes.append((corners + shapes).reshape(-1, 4))
            levels.append(torch.full((len(boxes[-1]),), level, device=device))
        return torch.cat(boxes), torch.cat(levels)
