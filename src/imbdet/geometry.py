"""Box arithmetic, always in fp32: under bf16 a coordinate near 1,000 pixels moves by up to 4."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from imbdet.domains import POSITIVE


@dataclass(frozen=True)
class BoxCoder:
    """Offsets of a box relative to a prior: centres over the prior's size, logarithms of the ratio of sizes.

    Girshick, Fast R-CNN (2015), appendix C of R-CNN. ``weights`` multiply (x, y, width, height); RetinaNet and RPN
    use ones. Decoded sizes are at most ``max_ratio`` times the prior's, so that exp cannot overflow.

    Raises ValueError for a weight or a ratio that is not above 0, and for another number of weights.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    max_ratio: float = 1000.0 / 16

    def __post_init__(self) -> None:
        if len(self.weights) != 4:
            raise ValueError(f"weights are {self.weights}; expected four, of x, y, width and height")
        for weight in self.weights:
            POSITIVE.check("weight", weight)
        POSITIVE.check("max_ratio", self.max_ratio)

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """[..., 4] xyxy boxes and priors, pixels, to [..., 4] offsets."""
        centre, size = _centre_and_size(boxes)
        prior_centre, prior_size = _centre_and_size(priors)
        deltas = torch.cat([(centre - prior_centre) / prior_size, torch.log(size / prior_size)], dim=-1)
        return _by_coordinate(deltas, self.weights)

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """[..., 4] offsets and xyxy priors to [..., 4] xyxy boxes in the priors' dtype."""
        deltas = _by_coordinate(deltas.to(priors.dtype), tuple(1 / weight for weight in self.weights))
        prior_centre, prior_size = _centre_and_size(priors)
        centre = prior_centre + deltas[..., :2] * prior_size
        size = prior_size * torch.exp(deltas[..., 2:].clamp(max=math.log(self.max_ratio)))
        return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip [..., 4] xyxy boxes to images of [..., 2] (height, width) pixels."""
    limits = sizes.flip(-1).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), torch.cat([limits, limits], dim=-1))


def _by_coordinate(deltas: Tensor, factors: tuple[float, ...]) -> Tensor:
    """Each of the four offsets times its factor; numbers, as a tensor of them would have to be copied to the device."""
    if set(factors) == {1.0}:
        return deltas
    return torch.stack([offset * factor for offset, factor in zip(deltas.unbind(-1), factors, strict=True)], dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size


def are_boxes(boxes: Tensor) -> Tensor:
    """[n, 4] xyxy to [n] bool: finite, with a width and a height of at least 0."""
    return boxes.isfinite().all(1) & (boxes[:, :2] <= boxes[:, 2:]).all(1)


def first_wrong_box(boxes: Tensor) -> tuple[int, str] | None:
    """Row of the first of [n, 4] that is no box, with what it holds; None where all are. Waits for the device."""
    rows = (~are_boxes(boxes)).nonzero()
    if not len(rows):
        return None
    row = int(rows[0])
    return row, f"{boxes[row].tolist()}, expected finite numbers x1, y1, x2, y2 with x1 <= x2 and y1 <= y2"


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """[..., 4] and [..., 4] xyxy boxes to [...] IoU of each pair; 0 where both have no area."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    union = _area(boxes) + _area(others) - inside
    return inside / union.clamp(min=torch.finfo(union.dtype).tiny)


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """[G, 4] and [A, 4] xyxy boxes to [G, A] IoU, in fp32 or wider; 0 where both have no area, NaN in torchvision."""
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, others.dtype), torch.float32)
    return paired_iou(boxes.to(dtype)[:, None], others.to(dtype))


def nms_in_groups(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """Greedy suppression within each group, of all groups at once.

    torchvision tells groups apart by shifting their boxes, which in fp32 rounds coordinates: a thousand classes on,
    to eighths of a pixel, so that what is left of a class would depend on its number. Hence in fp64; and from 0 on, as
    negative coordinates would reach into the group before. Waits for the device once; above 25,000 boxes on a GPU (on
    a CPU, where groups by themselves are faster, 1,000), for each group.

    Args:
        boxes: [N, 4] xyxy pixels.
        scores: [N], the highest goes first.
        group: [N] int64, at least 0.
        iou: a box that overlaps one kept before by more than this is suppressed.

    Returns:
        [n] int64 rows that are left, best first.
    """
    if not len(boxes):
        return group
    boxes = boxes.double()
    rows: Tensor = batched_nms(boxes - boxes.min(), scores.double(), group, iou)
    return rows


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
