"""Make or fetch a study's data set, once: images, validated annotations, and the manifest that stands for them.

A stamp in the data folder (``prepared.json``) says for which settings and source files the folder was made, and holds
the hash of every image. It makes a second run cheap, and it keeps the images when the annotations alone, which a
workflow may delete, have to be made again.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imbdet import seeding
from imbdet.config import Study
from imbdet.data import polygons, shapes, sources
from imbdet.data.coco import Annotations, read_annotations, read_json
from imbdet.data.report import as_table
from imbdet.data.source_files import archive_hashes, image_hashes, source_hashes, source_paths
from imbdet.data.validate import validate
from imbdet.errors import UserError
from imbdet.files import sha256, write_json, write_text
from imbdet.layout import SPLITS, Layout
from imbdet.settings import Data, DownloadedData, FormatData

Record = dict[str, Any]
COMPLETE = {"settings", "source", "manifest", "validation", "images", "files"}  # keys of a stamp


def prepare(study: Study, layout: Layout) -> None:
    """Make what is missing of a study's data set; does next to nothing where all is there.

    Writes the images and annotations of both splits, then the manifest and the report of the validation, which is
    printed. Raises :class:`UserError` where a source is missing or corrupt, where the data have a defect that the
    study's policy refuses, where the training split has no box, and where the data folder belongs to something else.
    """
    data = study.data
    _refuse_folders(data, layout)
    stamp, settings, source = _read_stamp(layout), _settings(data), source_hashes(data, layout)
    known = stamp if stamp and stamp["settings"] == settings and _still_holds(stamp, data, source, layout) else None
    if known is None or not _is_judged(known, data) or not _annotations_are_there(known, layout):
        if known is None:
            _claim(settings, stamp, layout)
            if isinstance(data, DownloadedData) and data.subset and stamp and "files" in stamp:
                _remove_changed(stamp["files"], layout)
            write_json(_stamp(layout), {"settings": settings})
        known = _make(data, layout, settings, source, known)
        write_json(_stamp(layout), known)
    for path, record in ((layout.manifest, known["manifest"]), (layout.validation, known["validation"])):
        if not path.is_file() or read_json(path) != record:
            write_json(path, record)
    table = as_table(known["validation"])
    if not layout.validation_table.is_file() or layout.validation_table.read_text(encoding="utf-8") != table:
        write_text(layout.validation_table, table)
    print(table, flush=True)


def _refuse_folders(data: Data, layout: Layout) -> None:
    """Refuse a data folder that is a file, lies in the source or holds it: a source is only read."""
    written = [Path(layout.data_folder), layout.annotations("train").parent, *map(layout.images, SPLITS)]
    for folder in written:
        if folder.exists() and not folder.is_dir():
            raise UserError(
                f"{folder} is a file, expected a folder for prepared data; set data.folder to another place"
            )
    if not isinstance(data, FormatData) or data.path is None or not Path(data.path).is_dir():
        return
    source = Path(data.path)
    read = {path.resolve() for path in (source, *source_paths(data))}
    images = {layout.images(split).resolve() for split in SPLITS}
    if any(_is_below(folder.resolve(), read) for folder in written) or any(_is_below(path, images) for path in read):
        raise UserError(
            f"data.folder {data.folder} and data.path {data.path} lie in one another; the prepared data need a folder "
            "of their own, such as data/NAME, and the source stays as it is"
        )


def _is_below(path: Path, folders: set[Path]) -> bool:
    return not folders.isdisjoint((path, *path.parents))


def _settings(data: Data) -> Record:
    """What the files of the images follow from: for generated ones also the code that draws them."""
    settings = data.model_dump(mode="json", exclude={"validation", "sha256"})
    if isinstance(data, FormatData) and data.path is not None:
        settings["path"] = os.path.normpath(data.path)
    if data.source == "shapes":
        settings["code"] = [sha256(Path(str(module.__file__))) for module in (seeding, polygons, shapes)]
    return settings


def _stamp(layout: Layout) -> Path:
    return Path(layout.data_folder) / "prepared.json"


def _read_stamp(layout: Layout) -> Record | None:
    stamp = read_json(_stamp(layout)) if _stamp(layout).exists() else None
    settings = stamp.get("settings") if isinstance(stamp, dict) else None
    return stamp if isinstance(settings, dict) and "source" in settings else None


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


def _still_holds(stamp: Record, data: Data, source: dict[str, str], layout: Layout) -> bool:
    """Whether the source and the images are those of the stamp. Archives may be gone once all is prepared."""
    if not stamp.keys() >= COMPLETE or image_hashes(layout) != stamp["files"]:
        return False
    archives = stamp["manifest"]["archives"]
    if not _agree(archive_hashes(archives, layout), archives):
        return False
    if isinstance(data, DownloadedData):
        wanted = {name: data.expected(name) for name in archives}
        return _agree({name: hashes[0] for name, hashes in wanted.items() if hashes}, archives)
    if isinstance(data, FormatData) and data.sha256 not in (None, *archives.values()):
        return False
    return source == stamp["source"] or (not source and bool(archives))


def _agree(hashes: Mapping[str, str], known: Mapping[str, str]) -> bool:
    return all(known.get(name, value) == value for name, value in hashes.items())


def _remove_changed(files: Mapping[str, str], layout: Layout) -> None:
    """Remove single images that are not what was fetched: a server names no hash by which to tell."""
    for name, value in image_hashes(layout).items():
        if files.get(name, value) != value:
            (Path(layout.data_folder) / name).unlink()


def _annotations_are_there(known: Record, layout: Layout) -> bool:
    files = [(layout.annotations(split), known["manifest"]["splits"][split]) for split in SPLITS]
    return all(path.is_file() and sha256(path) == record["annotations_sha256"] for path, record in files)


def _is_judged(known: Record, data: Data) -> bool:
    """Whether the data were validated with the study's policy."""
    return bool(known["validation"]["policy"] == data.validation.model_dump(mode="json"))


def _make(data: Data, layout: Layout, settings: Record, source: dict[str, str], known: Record | None) -> Record:
    """Make the data set, but for the images where they are ``known``; returns the content of the stamp."""
    archives = sources.make(data, layout, with_images=known is None)
    if known is not None:
        archives = known["manifest"]["archives"] | archives
    before = known["images"] if known is not None and _is_judged(known, data) else None
    validation, images = validate(layout, data.validation, before, data.rules)
    return {
        "settings": settings,
        "source": source,
        "manifest": _manifest(data, layout, archives, images),
        "validation": validation,
        "images": images,
        "files": image_hashes(layout),
    }


def _manifest(data: Data, layout: Layout, archives: dict[str, str], images: Record) -> Record:
    """Source, counts and hashes. images: by split, as :func:`imbdet.data.validate.validate` returns them."""
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
        "source": data.model_dump(mode="json", exclude={"folder", "path", "manifest"}),
        "archives": archives,
        "splits": {name: _split_record(split, layout, name, images[name]) for name, split in splits.items()},
        "categories": [{"id": int(i), "name": n} for i, n in zip(categories.ids, categories.names, strict=True)],
        "smallest_box_share": round(float(shares.min()), 6),
    }


def _split_record(split: Annotations, layout: Layout, name: str, images: Record) -> Record:
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
        "images_sha256": images["images_sha256"],
        "image_bytes": images["image_bytes"],
        **{key: dict(zip(map(str, split.categories.ids), n.tolist(), strict=True)) for key, n in by_class.items()},
    }
