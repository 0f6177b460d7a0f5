"""Make or fetch a study's data set, once: images, normalised annotations, and the manifest that stands for them.

A stamp in the data folder (``prepared.json``) says for which settings the folder was made. It is what makes a second
run cheap, and it keeps the images when the annotations alone, which a workflow may delete, have to be made again.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from imbdet import seeding
from imbdet.config import Study
from imbdet.data import polygons, shapes, sources
from imbdet.data.archives import sha256
from imbdet.data.coco import Annotations, read_annotations, read_json
from imbdet.errors import UserError
from imbdet.files import write_json
from imbdet.layout import SPLITS, Layout
from imbdet.settings import Data

Record = dict[str, Any]


def prepare(study: Study, layout: Layout) -> None:
    """Make what is missing of a study's data set; does next to nothing where all is there.

    Writes the images and annotations of both splits, then the manifest. Raises :class:`UserError` where a source is
    missing or corrupt, where the training split has no box, and where the data folder belongs to something else.
    """
    settings = _settings(study.data)
    stamp = _read_stamp(layout)
    known = stamp["manifest"] if stamp and stamp["settings"] == settings else None
    images_ready = known is not None and all(_holds(layout.images(s), known["splits"][s]) for s in SPLITS)
    if known is None or not images_ready or not all(_matches(layout.annotations(s), known, s) for s in SPLITS):
        if not images_ready:
            _claim(settings, stamp, layout)
            write_json(_stamp(layout), {"settings": settings, "manifest": None})
        archives = sources.make(study.data, layout, with_images=not images_ready)
        known = _manifest(study.data, layout, archives, known if images_ready else None)
        write_json(_stamp(layout), {"settings": settings, "manifest": known})
    if not layout.manifest.is_file() or read_json(layout.manifest) != known:
        write_json(layout.manifest, known)


def _settings(data: Data) -> Record:
    """What the data follow from: for generated ones also the code that draws them."""
    settings = data.model_dump(mode="json")
    if data.source == "shapes":
        settings["code"] = [sha256(Path(str(module.__file__))) for module in (seeding, polygons, shapes)]
    return settings


def _stamp(layout: Layout) -> Path:
    return Path(layout.data_folder) / "prepared.json"


def _read_stamp(layout: Layout) -> Record | None:
    stamp = read_json(_stamp(layout)) if _stamp(layout).exists() else None
    return stamp if isinstance(stamp, dict) and stamp.keys() == {"settings", "manifest"} else None


def _claim(settings: Record, stamp: Record | None, layout: Layout) -> None:
    """Refuse a folder with images that are not of these settings, unless they are generated: those are made again."""
    folders = [layout.images(split) for split in SPLITS]
    if not any(folder.is_dir() and any(folder.iterdir()) for folder in folders):
        return
    if settings["source"] != "shapes" and stamp is not None and stamp["settings"] == settings:
        return  # an interrupted download or extraction: it goes on where it stopped
    if stamp is None or {stamp["settings"]["source"], settings["source"]} != {"shapes"}:
        whose = "of unknown origin" if stamp is None else f"of other settings, {stamp['settings']}"
        raise UserError(f"data.folder {layout.data_folder} holds images {whose}; choose another folder or remove it")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    paths = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return (path for path in paths if path.is_file() and not path.name.startswith("."))


def _holds(folder: Path, record: Record) -> bool:
    """Whether a folder has as many images and bytes as the manifest says (hashing COCO takes minutes)."""
    sizes = [path.stat().st_size for path in _files(folder)]
    return [len(sizes), sum(sizes)] == [record["images"], record["image_bytes"]]


def _matches(path: Path, manifest: Record, split: str) -> bool:
    return path.is_file() and sha256(path) == manifest["splits"][split]["annotations_sha256"]


def _manifest(data: Data, layout: Layout, archives: dict[str, str], before: Record | None) -> Record:
    """Source, counts and hashes; where the images stayed as they were, theirs are taken from ``before``."""
    splits = {split: read_annotations(layout.annotations(split)) for split in SPLITS}
    train, val = splits["train"], splits["val"]
    if not len(train.objects):
        raise UserError(f"{train.path} has no foreground box: a detector cannot be trained on it")
    if train.categories.names != val.categories.names or (train.categories.ids != val.categories.ids).any():
        raise UserError(f"{train.path} and {val.path} must list the same categories (ids and names)")
    categories = train.categories
    sides = train.objects.boxes[:, 2:] - train.objects.boxes[:, :2]
    shares = sides / train.sizes[train.objects.images][:, ::-1]
    return {
        # Where the files lie on this machine is nobody else's business: the manifest is equal wherever it is made.
        "source": data.model_dump(mode="json", exclude={"folder", "path"}),
        "archives": (before["archives"] if before else {}) | archives,
        "splits": {name: _split_record(split, layout, name, before) for name, split in splits.items()},
        "categories": [{"id": int(i), "name": n} for i, n in zip(categories.ids, categories.names, strict=True)],
        "smallest_box_share": round(float(shares.min()), 6),
    }


def _split_record(split: Annotations, layout: Layout, name: str, before: Record | None) -> Record:
    if before is None:
        images = _hash_images(layout.images(name), split)
    else:
        images = {key: before["splits"][name][key] for key in ("images_sha256", "image_bytes")}
    classes = len(split.categories)
    objects = split.objects
    present = np.zeros((len(split.image_ids), classes), dtype=bool)
    present[objects.images, objects.labels] = True
    by_class = {
        "boxes_by_class": np.bincount(objects.labels, minlength=classes),
        "images_by_class": present.sum(axis=0),
    }
    return {
        "images": len(split.image_ids),
        "boxes": len(objects),
        "crowds": len(split.crowds),
        "annotations_sha256": sha256(layout.annotations(name)),
        **images,
        **{key: dict(zip(map(str, split.categories.ids), n.tolist(), strict=True)) for key, n in by_class.items()},
    }


def _hash_images(folder: Path, split: Annotations) -> Record:
    """sha256 over the sorted lines ``name sha256`` of all images, and their size in bytes."""
    paths = [folder / name for name in split.file_names]
    with ThreadPoolExecutor() as pool:
        checked = pool.map(_check_image, paths, split.image_ids.tolist(), split.sizes.tolist())
        hashes = tqdm(checked, f"checking {folder.name}", len(paths), unit="image", disable=None)
        lines = sorted(f"{name} {value}\n" for name, value in zip(split.file_names, hashes, strict=True))
    return {
        "images_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "image_bytes": sum(path.stat().st_size for path in paths),
    }


def _check_image(path: Path, image_id: int, size: list[int]) -> str:
    """sha256 of an image whose header is readable and says ``size`` (height and width), as its annotation does."""
    try:
        with Image.open(path) as image:
            found = [image.height, image.width]
    except OSError as error:
        raise UserError(
            f"image {image_id}: {path} is missing or no image file ({error}); restore or remove it"
        ) from None
    if found != size:
        raise UserError(
            f"image {image_id}: {path} has {found[0]} x {found[1]} pixels (height x width), "
            f"but its annotation file says {size[0]} x {size[1]}; correct one of them"
        )
    return sha256(path)
