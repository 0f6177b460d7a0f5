"""Image files, each read once: whether they can be decoded, what is unusual about them, their hashes."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from imbdet.data import pixels
from imbdet.layout import SPLITS

ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
DEFECTS = (
    *("missing", "unreadable", "truncated", "other_size", "one_pixel", "huge"),
    *("other_mode", "rotated", "grey", "cmyk", "sixteen_bit", "alpha", "several_frames"),
)


class Seen(NamedTuple):
    """A file: its SHA-256 and size in bytes, and its defects by name (:data:`DEFECTS`), each as a clause for people."""

    sha256: str
    size: int
    defects: dict[str, str]


def look_at_all(paths: Sequence[Path], sizes: Sequence[tuple[int, int]], max_pixels: int, title: str) -> list[Seen]:
    """Look at image files in threads (Pillow decodes outside of Python's lock), with a bar; see :func:`look`."""
    pool = ThreadPoolExecutor()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what is found here
            seen = pool.map(partial(look, max_pixels=max_pixels), paths, sizes)
            return list(tqdm(seen, title, len(paths), unit="image", disable=None))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C shall not wait for a hundred thousand images


def look(path: Path, size: tuple[int, int], max_pixels: int) -> Seen:
    """Read, hash and decode an image file.

    Args:
        size: height and width in pixels that its annotation says.
        max_pixels: a larger image is not decoded.
    """
    path = path.readlink() if path.is_symlink() else path  # into a source, which is what a person has to mend
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):  # the latter of a file in an archive
        return Seen("", 0, {"missing": f"{path} is missing{_hint(path)}"})
    except OSError as error:
        return Seen("", 0, {"unreadable": f"{path} cannot be read ({error.strerror})"})
    return Seen(hashlib.sha256(content).hexdigest(), len(content), _defects(content, path, size, max_pixels))


def _hint(path: Path) -> str:
    """Name the likely mistake in the file name of a missing image, if there is one."""
    if "\\" in path.name:
        return "; its file_name has a backslash, expected / between folders"
    for folder in SPLITS:
        if (folder, folder) in pairwise(path.parts):
            return f"; its file_name may repeat the folder {folder}/, expected a path inside of it"
    return ""


def _defects(content: bytes, path: Path, size: tuple[int, int], max_pixels: int) -> dict[str, str]:
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        return {"huge": f"{path} has more than twice the {Image.MAX_IMAGE_PIXELS:,} pixels that Pillow decodes"}
    except UnidentifiedImageError:
        return {"unreadable": f"{path} is no image file of a known format"}
    except Exception as error:  # Pillow's formats raise almost anything where a file is damaged
        return {"unreadable": f"{path} is no readable image file ({error})"}
    with image:
        found = _of_header(image, path, size)
        if image.height * image.width > max_pixels:
            found["huge"] = f"{path} has {image.height * image.width:,} pixels, above max_pixels {max_pixels:,}"
            return found
        try:
            image.load()
            orientation = image.getexif().get(ORIENTATION, 1)
            several = getattr(image, "is_animated", False)
        except Exception as error:
            found["truncated"] = f"{path} cannot be decoded ({error})"
            return found
        if orientation != 1:
            found["rotated"] = f"{path} has EXIF orientation {orientation}"
        if several:
            found["several_frames"] = f"{path} has several frames or pages"
    return found


def _of_header(image: Image.Image, path: Path, size: tuple[int, int]) -> dict[str, str]:
    """What can be told before any pixel is decoded."""
    found = {name: f"{path} {clause}" for name, clause in pixels.unusual(image).items()}
    if 1 in image.size:
        found["one_pixel"] = f"{path} has {image.height} x {image.width} pixels (height x width)"
    if (image.height, image.width) != tuple(size):
        found["other_size"] = (
            f"{path} has {image.height} x {image.width} pixels (height x width), "
            f"but its annotation file says {size[0]} x {size[1]}"
        )
    return found
