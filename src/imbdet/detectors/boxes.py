"""Box arithmetic, always in fp32: under bf16 a coordinate near 1,000 pixels moves by up to 4."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BoxCoder:
    """Offsets of a box relative to a prior: centres over the prior's size, logarithms of the ratio of sizes.

    Girshick, Fast R-CNN (2015), appendix C of R-CNN. ``weights`` multiply (x, y, width, height); RetinaNet and RPN
    use ones. Decoded sizes are at most ``max_ratio`` times the prior's, so that exp cannot overflow.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    max_ratio: float = 1000.0 / 16

    def encode(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """[..., 4] xyxy boxes and priors, pixels, to [..., 4] offsets."""
        centre, size = _centre_and_size(boxes)
        prior_centre, prior_size = _centre_and_size(priors)
        deltas = torch.cat([(centre - prior_centre) / prior_size, torch.log(size / prior_size)], dim=-1)
        return deltas * deltas.new_tensor(self.weights) if set(self.weights) != {1.0} else deltas

    def decode(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """[..., 4] offsets and xyxy priors to [..., 4] xyxy boxes in the priors' dtype."""
        deltas = deltas.to(priors.dtype)
        if set(self.weights) != {1.0}:
            deltas = deltas / deltas.new_tensor(self.weights)
        prior_centre, prior_size = _centre_and_size(priors)
        centre = prior_centre + deltas[..., :2] * prior_size
        size = prior_size * torch.exp(deltas[..., 2:].clamp(max=math.log(self.max_ratio)))
        return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip [..., 4] xyxy boxes to images of [..., 2] (height, width) pixels."""
    limits = sizes.flip(-1).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), torch.cat([limits, limits], dim=-1))


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size
