"""Make or fetch a study's data set, once: images, normalised annotations, and the manifest that stands for them.

A stamp in the data folder (``prepared.json``) says for which settings the folder was made. It is what makes a second
run cheap, and it keeps the images when the annotations alone, which a workflow may delete, have to be made again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from imbdet.config import Data, ShapesData, Study
from imbdet.data import shapes
from imbdet.data.coco import Annotations, read_annotations, read_json
from imbdet.errors import UserError
from imbdet.files import write_json, write_text
from imbdet.layout import SPLITS, Layout

Record = dict[str, Any]


def prepare(study: Study, layout: Layout) -> None:
    """Make what is missing of a study's data set; does next to nothing where all is there.

    Writes the images and annotations of both splits, then the manifest. Raises :class:`UserError` where a source is
    missing or corrupt, where the training split has no box, and where the data folder belongs to something else.
    """
    settings = study.data.model_dump(mode="json")
    stamp = _read_stamp(layout)
    known = stamp["manifest"] if stamp and stamp["settings"] == settings else None
    images_ready = known is not None and all(_holds(layout.images(s), known["splits"][s]) for s in SPLITS)
    if known is None or not images_ready or not all(_matches(layout.annotations(s), known, s) for s in SPLITS):
        if not images_ready:
            _claim(study.data, stamp, layout)
            write_json(_stamp(layout), {"settings": settings, "manifest": None})
        archives = _make(study.data, layout, with_images=not images_ready)
        known = _manifest(study.data, layout, archives, known if images_ready else None)
        write_json(_stamp(layout), {"settings": settings, "manifest": known})
    if not layout.manifest.is_file() or read_json(layout.manifest) != known:
        write_json(layout.manifest, known)


def _make(data: Data, layout: Layout, with_images: bool) -> dict[str, str]:
    """Write annotations and, if asked, images; returns the sha256 of each archive they came from."""
    assert isinstance(data, ShapesData)
    for split in SPLITS:
        content = shapes.annotate(data, split)
        write_annotations(layout.annotations(split), content)
        if with_images:
            layout.images(split).mkdir(parents=True, exist_ok=True)
            for index, record in enumerate(
                tqdm(content["images"], desc=f"drawing {split}", unit="image", disable=None)
            ):
                Image.fromarray(shapes.render(data, split, index)).save(layout.images(split) / record["file_name"])
    return {}


def write_annotations(path: Path, content: Record) -> None:
    """Write a COCO annotation file reduced to what detection needs: without masks a fifth of the size."""
    kept = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
        "categories": ("id", "name"),
    }
    reduced = {
        part: [{key: record[key] for key in keys if key in record} for record in content[part]]
        for part, keys in kept.items()
    }
    write_text(path, json.dumps(reduced, separators=(",", ":")) + "\n")


def _stamp(layout: Layout) -> Path:
    return Path(layout.data_folder) / "prepared.json"


def _read_stamp(layout: Layout) -> Record | None:
    stamp = read_json(_stamp(layout)) if _stamp(layout).exists() else None
    return stamp if isinstance(stamp, dict) and stamp.keys() == {"settings", "manifest"} else None


def _claim(data: Data, stamp: Record | None, layout: Layout) -> None:
    """Refuse a folder with images that this study did not make, unless they are generated: those can be made again."""
    folders = [layout.images(split) for split in SPLITS]
    if stamp is None and not any(folder.is_dir() and any(folder.iterdir()) for folder in folders):
        return
    settings = data.model_dump(mode="json")
    if stamp is not None and stamp["settings"] == settings and data.source != "shapes":
        return  # an interrupted download or extraction: it goes on where it stopped
    if stamp is None or {stamp["settings"]["source"], data.source} != {"shapes"}:
        whose = "images that this project did not put there" if stamp is None else f"the data of {stamp['settings']}"
        raise UserError(f"data.folder {layout.data_folder} holds {whose}; choose another folder or remove this one")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    return (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)


def _holds(folder: Path, record: Record) -> bool:
    """Whether a folder has as many images and bytes as the manifest says (hashing COCO takes minutes)."""
    sizes = [path.stat().st_size for path in _files(folder) if path.exists()]
    return [len(sizes), sum(sizes)] == [record["images"], record["image_bytes"]]


def _matches(path: Path, manifest: Record, split: str) -> bool:
    return path.is_file() and _sha256(path) == manifest["splits"][split]["annotations_sha256"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        "archives": archives,
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
        "annotations_sha256": _sha256(layout.annotations(name)),
        **images,
        **{key: dict(zip(map(str, split.categories.ids), n.tolist(), strict=True)) for key, n in by_class.items()},
    }


def _hash_images(folder: Path, split: Annotations) -> Record:
    """sha256 over the sorted lines ``name sha256`` of all images, and their size in bytes."""
    paths = [folder / name for name in split.file_names]
    for path, image_id in zip(paths, split.image_ids, strict=True):
        if not path.is_file():
            raise UserError(f"image {image_id} of {split.path} is missing: no file {path}")
    with ThreadPoolExecutor() as pool:
        hashes = tqdm(
            pool.map(_sha256, paths), desc=f"hashing {folder.name}", unit="image", total=len(paths), disable=None
        )
        lines = sorted(f"{name} {value}\n" for name, value in zip(split.file_names, hashes, strict=True))
    return {
        "images_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "image_bytes": sum(path.stat().st_size for path in paths),
    }
