"""From an image file to a resized uint8 tensor."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from imbdet.errors import UserError


def decode(path: Path) -> Tensor:
    """Read an image of any mode as RGB, [3, H, W] uint8.

    Orientation tags are not applied: COCO's boxes refer to the pixels as stored. Raises :class:`UserError` for a file
    that is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion would clip at 255
                grey = (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
                pixels = np.repeat(grey[..., None], 3, axis=2)
            else:
                pixels = np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"image {path} is missing; run `python -m imbdet data` with the study's config") from None
    except Exception as error:  # Pillow's formats raise almost anything where a file is damaged
        raise UserError(
            f"image {path} cannot be read ({error}); remove it and run `python -m imbdet data` again"
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
