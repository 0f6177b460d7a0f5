"""What the sum of the losses is divided by. Libraries differ here, so the choice has a name.

Under torch.distributed each divisor makes the mean of the processes' gradients the gradient of the whole batch.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from imbdet.distributed import processes, total
from imbdet.samples import Samples

NormalizerName = Literal["per_image", "batch", "ema", "sampled"]


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
        return _total(samples.foreground) / processes()


class Sampled(nn.Module):
    """Number of candidates that are not ignored, over all processes, at least 1.

    The mean over the sample of RPN and of Fast R-CNN's head, for both losses (Ren et al. 2015, equation 1).
    """

    def forward(self, samples: Samples) -> Tensor:
        """Return a scalar divisor."""
        return _total(samples.label >= 0) / processes()


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
            self.mean.lerp_(_total(samples.foreground).to(self.mean.dtype), 1 - self.momentum)
        return self.mean / processes()


def _total(rows: Tensor) -> Tensor:
    """Number of true rows over all processes, at least 1."""
    return total(rows.sum().float()).clamp(min=1)


NORMALIZERS: dict[str, type[nn.Module]] = {"per_image": PerImage, "batch": Batch, "ema": EMA, "sampled": Sampled}
