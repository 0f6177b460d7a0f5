"""What the sum of the losses is divided by. Libraries differ here, so the choice has a name.

Under torch.distributed each divisor makes the mean of the processes' gradients the gradient of the whole batch.
"""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from imbdet.samples import Samples

NormalizerName = Literal["per_image", "batch", "ema"]


class PerImage(nn.Module):
    """Foreground count of each image, at least 1, times the number of images: torchvision's mean over images."""

    def forward(self, samples: Samples) -> Tensor:
        """Return [N] divisors."""
        count = torch.zeros(samples.num_images, device=samples.label.device)
        count = count.index_add(0, samples.image_id, samples.foreground.float())
        return count.clamp(min=1)[samples.image_id] * samples.num_images


class Batch(nn.Module):
    """Foreground count of the batch over all processes, at least 1 (Lin et al. 2017, section 4.1)."""

    def forward(self, samples: Samples) -> Tensor:
        """Return a scalar divisor."""
        return _foreground(samples) / _processes()


class EMA(nn.Module):
    """Running mean of the batch's foreground count, as detectron2: momentum .9, from 100. Saved in checkpoints.

    The count is that of all processes; detectron2 keeps one for each, which makes gradients depend on their number.
    """

    momentum = 0.9

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(100.0))
        self.mean: Tensor

    def forward(self, samples: Samples) -> Tensor:
        """Return a scalar divisor; training updates it first."""
        if self.training:
            self.mean.lerp_(_foreground(samples), 1 - self.momentum)
        return self.mean / _processes()


def _foreground(samples: Samples) -> Tensor:
    """Foreground count over all processes, at least 1."""
    count = samples.foreground.sum().float()
    if _processes() > 1:
        dist.all_reduce(count)
    return count.clamp(min=1)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


NORMALIZERS: dict[str, type[nn.Module]] = {"per_image": PerImage, "batch": Batch, "ema": EMA}
