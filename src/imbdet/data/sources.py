"""Where a study's data come from: generated shapes, COCO 2017 and LVIS as published, an archive or folder.

Each source writes ``annotations/instances_{train,val}.json`` and, if asked, the images of ``train/`` and ``val/`` that
the annotations name and the source has. It returns the SHA-256 of each archive that it read.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from imbdet.data import published, shapes
from imbdet.data.archives import read_member, unpack
from imbdet.data.coco import parse_json, write_annotations
from imbdet.data.source_files import annotation_file
from imbdet.errors import UserError, listed
from imbdet.files import sha256
from imbdet.layout import SPLITS, Layout
from imbdet.settings import CocoFormatData, Data, DownloadedData, ShapesData

COCO_LAYOUT = "annotations/instances_train.json, annotations/instances_val.json, train/ and val/"


def make(data: Data, layout: Layout, with_images: bool) -> dict[str, str]:
    """Write a study's data set. Raises :class:`UserError` where the source is missing, corrupt or incomplete."""
    if isinstance(data, ShapesData):
        return _make_shapes(data, layout, with_images)
    if isinstance(data, DownloadedData):
        return published.make(data, layout, with_images)
    if Path(data.path).is_dir():
        return _make_folder(data, layout, with_images)
    return _make_archive(data, layout, with_images)


def _make_shapes(data: ShapesData, layout: Layout, with_images: bool) -> dict[str, str]:
    for split in SPLITS:
        annotations = write_annotations(
            layout.annotations(split), shapes.annotate(data, split), Path("generated shapes")
        )
        if not with_images:
            continue
        layout.images(split).mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(tqdm(annotations.file_names, f"drawing {split}", unit="image", disable=None)):
            Image.fromarray(shapes.render(data, split, index)).save(layout.images(split) / name)
    return {}


def _make_archive(data: CocoFormatData, layout: Layout, with_images: bool) -> dict[str, str]:
    archive = Path(data.path)
    if not archive.is_file():
        raise UserError(f"data.path {archive} does not exist; expected a zip or tar archive or a folder")
    found = sha256(archive)
    if data.sha256 not in (None, found):
        raise UserError(f"archive {archive} has sha256 {found}, but data.sha256 says {data.sha256}")
    for split in SPLITS:
        name = annotation_file(split)
        content = parse_json(read_member(archive, name.as_posix()), archive / name)
        annotations = write_annotations(layout.annotations(split), content, archive / name)
        if with_images:
            targets = {f"{split}/{image}": layout.images(split) / image for image in annotations.file_names}
            for image in unpack(archive, targets):
                targets[image].symlink_to((archive / image).absolute())  # leads nowhere, but says what was looked for
    return {archive.name: found}


def _make_folder(data: CocoFormatData, layout: Layout, with_images: bool) -> dict[str, str]:
    """Images stay where they are and are linked to."""
    folder = Path(data.path)
    if data.sha256 is not None:
        raise UserError(f"data.sha256 is for archives, but data.path {folder} is a folder; remove the key")
    for split in SPLITS:
        source = folder / annotation_file(split)
        if not source.is_file():
            raise UserError(
                f"data.path {folder} has no {annotation_file(split)}; expected {COCO_LAYOUT}. "
                f"It holds {listed(f'{path.name}/' if path.is_dir() else path.name for path in folder.iterdir())}"
            )
        annotations = write_annotations(layout.annotations(split), parse_json(source.read_bytes(), source), source)
        if with_images:
            _link_images(layout.images(split), {name: folder / split / name for name in annotations.file_names})
    return {}


def _link_images(folder: Path, images: Mapping[str, Path]) -> None:
    """Link the images of a source into the folder of a split, by their names there; older links are removed first.

    A link of an earlier run may lead to what is a folder of the source by now.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink():
                path.unlink()
    for name, image in images.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(image.absolute())  # a missing image is reported by its own path
