"""Pixels of image files: which can be read as RGB of 8 bits, and how. The validation and the loader both ask here."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Pillow's modes that are read, with what is unusual about each; a mode that is not here is refused.
MODES = {
    "1": ("grey",),
    "L": ("grey",),
    "LA": ("grey", "alpha"),
    "P": (),
    "PA": ("alpha",),
    "RGB": (),
    "RGBX": (),
    "RGBA": ("alpha",),
    "YCbCr": (),
    "CMYK": ("cmyk",),
    **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "I;16N"), ("sixteen_bit",)),
}
_STORED = ("I;16", "I;16B", "I;16L", "I;16N", "I;16R")  # grey of 16 bits, in all orders of its bytes and bits
_PPM = ("ppm", "ppm_plain")
_SCALED = (*_PPM, "jpeg2k")  # decoders that give the whole range of 16 bits, whatever the file has
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF


def unusual(image: Image.Image) -> dict[str, str]:
    """Name what is unusual about the pixels of an image that is open but not decoded, each with a clause for people.

    Under the name ``other_mode`` is why they cannot be read, if so.
    """
    fault = _fault(image)
    found = {"other_mode": fault} if fault else dict.fromkeys(MODES[image.mode], f"has mode {image.mode}")
    if "transparency" in image.info:
        found["alpha"] = "has transparent pixels"
    if not fault and ("sixteen_bit" in found or ";16" in _stored(image)[1]):
        found["sixteen_bit"] = "has 16 bits a channel"
    return found


def as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Decode an image to [H, W, 3] uint8. Raises ValueError for a mode that cannot be read."""
    fault = _fault(image)
    if fault:
        raise ValueError(f"it {fault}")
    if "sixteen_bit" not in MODES[image.mode]:
        return np.array(image.convert("RGB"))
    # Pillow's own conversion would clip at 255.
    grey = (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _fault(image: Image.Image) -> str | None:
    """Why the pixels cannot be read, as a clause; None where they can."""
    decoder, stored = _stored(image)
    of_16_bits = decoder in _SCALED or stored in _STORED
    if image.mode not in MODES or ("sixteen_bit" in MODES[image.mode] and not of_16_bits):
        return f"has pixels of mode {image.mode} (stored as {stored}), which are not read; convert it to RGB of 8 bits"
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    bits = max(tags.get(_BITS, (1,)))
    if tags.get(_SAMPLE_FORMAT, (1,))[0] != 1:
        return "has signed pixels, which are not read; convert it to RGB of 8 bits"
    if bits > 8 and ";16" not in stored:  # Pillow takes separate planes of 16 bits for 8 bits
        return f"has {bits} bits a channel in planes of their own, which are not read; convert it to RGB of 8 bits"
    if bits > 8 and tags.get(_PHOTOMETRIC) == 0:  # Pillow inverts 8 bits alone
        return f"has {bits} bits a channel and 0 for white, which is not read; convert it to RGB of 8 bits"
    return None


def _stored(image: Image.Image) -> tuple[str, str]:
    """The decoder of an image and the mode in the file: Pillow reads colours of 16 bits as RGB of 8 without a word."""
    tiles = getattr(image, "tile", [])
    if not tiles:
        return "", image.mode
    decoder, *_, arguments = tiles[0]
    stored = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    # The first of PPM's arguments is the mode in memory, the second the largest value in the file.
    of_16_bits = decoder == "SGI16" or (decoder in _PPM and arguments[1] > 255)
    return decoder, f"{stored};16" if of_16_bits else stored
