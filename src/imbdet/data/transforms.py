"""From an image file to a resized uint8 tensor."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from imbdet.data.pixels import as_rgb
from imbdet.errors import UserError


def decode(path: Path) -> Tensor:
    """Read an image of any mode that the validation lets through as RGB, [3, H, W] uint8.

    Orientation tags are not applied: COCO's boxes refer to the pixels as stored. Raises :class:`UserError` for a file
    that is missing or cannot be decoded, and for pixels of another mode (:mod:`imbdet.data.pixels`).
    """
    try:
        with Image.open(path) as image:
            pixels = as_rgb(image)
    except FileNotFoundError:
        raise UserError(f"image {path} is missing; run `python -m imbdet data` with the study's config") from None
    except Exception as error:  # Pillow's formats raise almost anything where a file is damaged
        raise UserError(
            f"image {path} cannot be read ({error}); run `python -m imbdet data` with the study's config: it makes the "
            "image again or says what to restore"
        ) from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def fitted_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Height and width after resizing: the short side becomes ``short_side``, or less where the long side would pass
    ``long_side``; at least one pixel."""
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize [3, H, W] uint8 bilinearly, anti-aliased, rounded to uint8."""
    if image.shape[1:] == (height, width):
        return image
    resized: Tensor = functional.resize(image, [height, width], antialias=True)
    return resized


def flip(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror [3, H, W] pixels and [n, 4] xyxy boxes left to right."""
    x1, y1, x2, y2 = boxes.unbind(1)
    width = image.shape[2]
    return image.flip(2), torch.stack([width - x2, y1, width - x1, y2], dim=1)
