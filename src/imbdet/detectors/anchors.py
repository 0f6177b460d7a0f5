"""Anchors of a feature pyramid, in fp32 whatever autocast says, made once for each padded image size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator


class Anchors(nn.Module):
    """Anchors of every level, in torchvision's order: level, row, column, then ratio-major shapes.

    A level has ceil(side / stride) rows and columns, as convolutions and pooling of stride 2 round up, and cell i lies
    at i * stride, where its features are centred. So a place of an image has the same anchors however it is padded.
    detectron2 does the same.

    torchvision's generator agrees where every stride divides the padded image. Where one does not, it takes
    side // cells for the stride: of 320 pixels P7 has 3 cells, which it puts 106 pixels apart instead of 128, so that
    anchors leave their features by up to 44 pixels. It also makes anchors in the feature map's dtype, which under bf16
    moves most of them.
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
        return [-(-height // s) * -(-width // s) * self.per_location for s in self.strides]

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return [A, 4] fp32 xyxy pixels and [A] int64 levels for a padded image of ``height`` x ``width``."""
        key = (height, width, self.shapes.device)
        if key not in self._cache:
            self._cache[key] = self._make(height, width)
        return self._cache[key]

    def _make(self, height: int, width: int) -> tuple[Tensor, Tensor]:
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
