"""Where a study's data come from: generated shapes, COCO 2017's official archives, an archive or folder.

Each source writes the same thing: ``annotations/instances_{train,val}.json`` and, if asked, the images of ``train/``
and ``val/``; exactly the images that the annotations name. It returns the SHA-256 of each archive that it read.
"""

from pathlib import Path

from PIL import Image
from tqdm import tqdm

from imbdet.data import shapes
from imbdet.data.archives import read_member, require_space, sha256, unpack
from imbdet.data.coco import Annotations, parse_json, read_json, write_annotations
from imbdet.data.download import fetch
from imbdet.errors import UserError
from imbdet.layout import SPLITS, Layout
from imbdet.settings import Coco2017Data, CocoFormatData, Data, ShapesData

COCO_ANNOTATIONS = "annotations/annotations_trainval2017.zip"
COCO_IMAGES = "zips/{split}2017.zip"


def make(data: Data, layout: Layout, with_images: bool) -> dict[str, str]:
    """Write a study's data set. Raises :class:`UserError` where the source is missing, corrupt or incomplete."""
    if isinstance(data, ShapesData):
        return _make_shapes(data, layout, with_images)
    if isinstance(data, Coco2017Data):
        return _make_coco2017(data, layout, with_images)
    return (
        _make_folder(data, layout, with_images)
        if Path(data.path).is_dir()
        else _make_archive(data, layout, with_images)
    )


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


def _make_coco2017(data: Coco2017Data, layout: Layout, with_images: bool) -> dict[str, str]:
    """Archives are kept in ``archives/`` of the data folder; once all is prepared they may be removed."""
    kept = Path(layout.data_folder) / "archives"

    def download(remote: str) -> Path:
        archive = kept / Path(remote).name
        fetch(f"{data.base_url.rstrip('/')}/{remote}", archive)
        return archive

    archives = [download(COCO_ANNOTATIONS)]
    for split in SPLITS:
        annotations = _annotations_from(archives[0], f"annotations/instances_{split}2017.json", layout, split)
        if with_images:
            archives.append(download(COCO_IMAGES.format(split=split)))
            _images_from(archives[-1], f"{split}2017", annotations, layout.images(split))
    return {archive.name: sha256(archive) for archive in archives}


def _make_archive(data: CocoFormatData, layout: Layout, with_images: bool) -> dict[str, str]:
    archive = Path(data.path)
    if not archive.is_file():
        raise UserError(f"data.path {archive} does not exist; expected a zip or tar archive or a folder")
    found = sha256(archive)
    if data.sha256 not in (None, found):
        raise UserError(f"archive {archive} has sha256 {found}, but data.sha256 says {data.sha256}")
    for split in SPLITS:
        annotations = _annotations_from(archive, f"annotations/instances_{split}.json", layout, split)
        if with_images:
            _images_from(archive, split, annotations, layout.images(split))
    return {archive.name: found}


def _make_folder(data: CocoFormatData, layout: Layout, with_images: bool) -> dict[str, str]:
    """Images stay where they are and are linked to."""
    folder = Path(data.path)
    if data.sha256 is not None:
        raise UserError(f"data.sha256 is for archives, but data.path {folder} is a folder; remove the key")
    for split in SPLITS:
        source = folder / "annotations" / f"instances_{split}.json"
        annotations = write_annotations(layout.annotations(split), read_json(source), source)
        for name in annotations.file_names if with_images else ():
            link, image = layout.images(split) / name, (folder / split / name).resolve()
            if not image.is_file():
                raise UserError(f"{source} names image {name}, but there is no file {folder / split / name}")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(image)
    return {}


def _annotations_from(archive: Path, member: str, layout: Layout, split: str) -> Annotations:
    where = archive / member
    return write_annotations(layout.annotations(split), parse_json(read_member(archive, member), where), where)


def _images_from(archive: Path, prefix: str, annotations: Annotations, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # Photographs do not shrink in an archive, so its size tells what they need on the disk.
    require_space(folder, archive.stat().st_size - there, f"unpacking {archive}")
    unpack(archive, {f"{prefix}/{name}": folder / name for name in annotations.file_names})
