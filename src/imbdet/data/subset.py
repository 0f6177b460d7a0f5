"""A subset of a data set: which images, and how those of a server are fetched one by one."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from imbdet.data.archives import require_space
from imbdet.data.download import fetch_small
from imbdet.data.image_files import look
from imbdet.errors import UserError
from imbdet.files import write_bytes
from imbdet.urls import without_secrets

THREADS = 8
LARGEST_IMAGE = 64_000_000  # bytes of a file; COCO's largest has less than 1 MB
BROKEN = {"missing", "unreadable", "truncated", "other_size", "huge"}


class RemoteImage(NamedTuple):
    """An image of a server, where it has a name such as ``train2017/000000000009.jpg``, and where it is put.

    size: height and width in pixels, as its annotation says.
    """

    image_id: int
    name: str
    path: Path
    size: tuple[int, int]


def choose(content: Any, split: str, wanted: int | Sequence[int] | Literal["all"], where: Path) -> Any:
    """Reduce the content of an annotation file to some images and their annotations; all else stays as it is.

    Args:
        content: in COCO's format, read from ``where``.
        split: "train" or "val".
        wanted: ids of images, "all", or how many: the first when they are ordered by the SHA-256 of ``split/id``, such
            as ``train/9``. That depends on nothing but the ids, and a smaller subset is a part of every larger one.

    Raises:
        UserError: more images than there are, or ids that are not in the file.
    """
    if isinstance(wanted, str):
        return content
    images = records(content, "images", where)
    ids = [record["id"] for record in images]
    if isinstance(wanted, int):
        if wanted > len(ids):
            raise UserError(f"data.subset.{split} is {wanted}, but {where} has {len(ids)} images; ask for fewer")
        ids.sort(key=lambda i: hashlib.sha256(f"{split}/{i}".encode()).digest())
        wanted = ids[:wanted]
    kept = set(wanted)
    unknown = sorted(kept.difference(ids))
    if unknown:
        raise UserError(f"data.subset.{split} names {len(unknown)} images that {where} lacks, first id {unknown[0]}")
    return _keep(content, kept, where)


def hold_out(content: Any, split: str, count: int, where: Path) -> Any:
    """Divide the content of the training split's annotation file into images to train on and images held out.

    Args:
        content: in COCO's format, read from ``where``.
        split: "train" for the images that are trained on, "val" for those that are held out.
        count: images to hold out: the first when they are ordered by the SHA-256 of ``held-out/id``.

    Raises:
        UserError: nothing would be left to train on.
    """
    ids = [record["id"] for record in records(content, "images", where)]
    if count >= len(ids):
        raise UserError(f"data.held_out is {count}, but {where} has {len(ids)} images; hold out fewer")
    ids.sort(key=lambda i: hashlib.sha256(f"held-out/{i}".encode()).digest())
    return _keep(content, set(ids[:count] if split == "val" else ids[count:]), where)


def _keep(content: Any, kept: set[int], where: Path) -> Any:
    images, boxes = records(content, "images", where), records(content, "annotations", where)
    return content | {
        "images": [record for record in images if record["id"] in kept],
        "annotations": [record for record in boxes if record.get("image_id") in kept],
    }


def records(content: Any, key: str, where: Path) -> list[dict[str, Any]]:
    """A list of records of an annotation file. Raises :class:`UserError` where there is none or an id is missing."""
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(r, dict) and isinstance(r.get("id"), int) for r in found):
        raise UserError(f"{where} is no COCO annotation file: it needs a list of records with ids under {key!r}")
    return found


def fetch_images(images: Sequence[RemoteImage], base_url: str, max_pixels: int, proxy: str | None = None) -> None:
    """Download images from below ``base_url``, a few at a time; those that are there whole are left alone.

    Each is decoded. One that is broken, of another size than its annotation says or of more than ``max_pixels`` is
    fetched once more. Raises :class:`UserError` naming the image where it stays so, where the server fails, and for a
    disk that is too small or full.
    """
    for folder in {image.path.parent for image in images}:
        folder.mkdir(parents=True, exist_ok=True)
        # COCO's JPEG files have about half a byte a pixel.
        pixels = sum(h * w for _, _, path, (h, w) in images if path.parent == folder and not path.exists())
        require_space(folder, pixels, f"fetching images from {without_secrets(base_url)}")
    with ThreadPoolExecutor(THREADS) as pool:
        done = pool.map(lambda image: _fetch_image(image, f"{base_url}/{image.name}", max_pixels, proxy), images)
        try:
            for _ in tqdm(done, "fetching images", len(images), unit="image", disable=None):
                pass  # the first error ends the loop, which cancels what has not begun
        except OSError as error:
            raise UserError(
                f"{error.filename or images[0].path.parent} cannot be written ({error.strerror}); free space or set "
                "data.folder to another disk, then run the command again: the images that are there are kept"
            ) from None


def _fetch_image(image: RemoteImage, url: str, max_pixels: int, proxy: str | None) -> None:
    """A broken image may have its name for a moment; whoever stops there has it looked at again."""
    damage = _damage(image, max_pixels)
    for _ in range(2):
        if damage is None:
            return
        write_bytes(image.path, fetch_small(url, LARGEST_IMAGE, proxy))
        damage = _damage(image, max_pixels)
    if damage is not None:
        image.path.unlink()
        raise UserError(
            f"image {image.image_id}: {without_secrets(url)} arrived damaged twice ({damage}); "
            "run the command again, check data.base_url, or name the images of data.subset without it"
        )


def _damage(image: RemoteImage, max_pixels: int) -> str | None:
    """Why an image is not there or not whole, if so; what is merely unusual about it is for the validation."""
    defects = look(image.path, image.size, max_pixels).defects
    return next((clause for name, clause in defects.items() if name in BROKEN), None)
