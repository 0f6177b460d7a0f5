"""Where a study's data come from: generated shapes, COCO 2017, LVIS and VOC 2007 as published, files of a known format.

Each source writes ``annotations/instances_{train,val}.json`` and, if asked, the images of ``train/`` and ``val/`` that
the annotations name and the source has. It returns the SHA-256 of each archive that it read.
"""

from pathlib import Path

from PIL import Image
from tqdm import tqdm

from imbdet.data import published, shapes, voc
from imbdet.data.coco import parse_json, write_annotations
from imbdet.data.places import open_place
from imbdet.data.source_files import annotation_file
from imbdet.data.subset import choose, hold_out
from imbdet.layout import SPLITS, Layout
from imbdet.settings import CocoFormatData, Data, DownloadedData, ShapesData, Voc2007Data, VocFormatData

COCO_LAYOUT = "annotations/instances_train.json, annotations/instances_val.json, train/ and val/"


def make(data: Data, layout: Layout, with_images: bool) -> dict[str, str]:
    """Write a study's data set. Raises :class:`UserError` where the source is missing, corrupt or incomplete."""
    if isinstance(data, ShapesData):
        return _make_shapes(data, layout, with_images)
    if isinstance(data, Voc2007Data | VocFormatData):
        return voc.make(data, layout, with_images)
    if isinstance(data, DownloadedData):
        return published.make(data, layout, with_images)
    return _make_coco(data, layout, with_images)


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


def _make_coco(data: CocoFormatData, layout: Layout, with_images: bool) -> dict[str, str]:
    place, hashes = open_place(data, layout)
    for split in SPLITS:
        read = "train" if data.held_out else split
        name = annotation_file(read)
        where = place.path / name
        content = parse_json(place.read(name.as_posix(), COCO_LAYOUT), where)
        if data.held_out:
            content = hold_out(content, split, data.held_out, where)
        if data.subset is not None:
            content = choose(content, split, getattr(data.subset, split), where)
        annotations = write_annotations(layout.annotations(split), content, where)
        if with_images:
            place.put(layout.images(split), {image: f"{read}/{image}" for image in annotations.file_names})
    return hashes
