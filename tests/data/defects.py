"""A small data set without defects, and a maker of each defect that the validation knows."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

from imbdet.data.coco import write_annotations
from imbdet.data.report import DEFECTS
from imbdet.layout import Layout
from imbdet.settings import Validation

WIDTH, HEIGHT, MAX_PIXELS = 24, 16, 1000
SOURCE = Path("elsewhere/instances_train.json")


def noise(height=HEIGHT, width=WIDTH, mode="RGB", kind="PNG", **options):
    """The bytes of an image; its pixels depend on its form alone."""
    pixels = np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def sixteen_bits(height=HEIGHT, width=WIDTH):
    file = io.BytesIO()
    Image.fromarray(np.arange(height * width, dtype=np.uint16).reshape(height, width)).save(file, "PNG")
    return file.getvalue()


def floats(height=HEIGHT, width=WIDTH):
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, height * width, dtype=np.float32).reshape(height, width)).save(file, "TIFF")
    return file.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


class Dataset:
    """Images 10, 20, ... with two boxes each, which fit into a single pixel, and categories 1 to 3."""

    def __init__(self, images=6):
        ids = range(10, 10 * images + 1, 10)
        self.ids = itertools.count(1)
        self.content = {
            "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in ids],
            "annotations": [],
            "categories": [{"id": i, "name": f"class {i}"} for i in (1, 2, 3)],
        }
        self.files = {f"{i}.png": noise() for i in ids}
        for record in self.content["images"]:
            for category in (1, 2):
                self.add(record, category_id=category)

    def add(self, record, **values):
        """Add an annotation with a box of its own to an image; return its id."""
        new = next(self.ids)
        box = [0, 0, 0.25 + new / 1000, 0.5]
        self.content["annotations"].append(
            {"id": new, "image_id": record["id"], "category_id": 1, "bbox": box, "area": 0.1, "iscrowd": 0} | values
        )
        return self.content["annotations"][-1]["id"]

    def of(self, record):
        return [a for a in self.content["annotations"] if a["image_id"] == record["id"]]

    def without(self, images):
        """The content as it is to be prepared when images are left out."""
        return {
            "images": [r for r in self.content["images"] if r["id"] not in images],
            "annotations": [a for a in self.content["annotations"] if a["image_id"] not in images],
            "categories": self.content["categories"],
        }

    def write(self, layout, split="train"):
        """Put the data set where a source would."""
        layout.images(split).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (layout.images(split) / name).write_bytes(content)
        write_annotations(layout.annotations(split), json.loads(json.dumps(self.content)), SOURCE)


def _file(make):
    """A maker that replaces the file of an image; None removes it."""

    def spoil(data, record):
        content = make(data.files.pop(record["file_name"]))
        if content is not None:
            data.files[record["file_name"]] = content
        return record["id"]

    return spoil


def _size(height, width):
    """A maker of an image of another size, about which its record is right."""

    def spoil(data, record):
        record |= {"height": height, "width": width}
        data.files[record["file_name"]] = noise(height, width)
        return record["id"]

    return spoil


def _box(box, **values):
    """A maker of one more annotation, with a box that depends on the sides of the image."""
    return lambda data, record: data.add(record, bbox=box(record["width"], record["height"]), **values)


def _repeat_image_id(data, record):
    data.content["images"].append(record | {"file_name": f"again-{record['file_name']}"})
    data.files[f"again-{record['file_name']}"] = noise()
    return record["id"]


def _repeat_box(data, record):
    first = data.of(record)[0]
    return data.add(record, bbox=first["bbox"], category_id=first["category_id"])


def _remove_annotations(data, record):
    data.content["annotations"] = [a for a in data.content["annotations"] if a["image_id"] != record["id"]]
    return record["id"]


def _mark_image(data, record):
    record["ignore"] = 1
    return record["id"]


def _skip_category_ids(data, record):
    data.content["categories"].append({"id": 9, "name": "class 9"})
    return 4


def _add_lvis_keys(data, record):
    record["neg_category_ids"] = [3]
    return record["id"]


OF_IMAGES = {
    "duplicate_image_ids": _repeat_image_id,
    "missing": _file(lambda content: None),
    "unreadable": _file(lambda content: b"no image"),
    "truncated": _file(lambda content: content[: len(content) // 2]),
    "other_size": _file(lambda content: noise(HEIGHT, WIDTH + 1)),
    "one_pixel": _size(1, 1),
    "huge": _size(30, 40),
    "other_mode": _file(lambda content: floats()),
    "rotated": _file(lambda content: noise(exif=orientation(6))),
    "grey": _file(lambda content: noise(mode="L")),
    "cmyk": _file(lambda content: noise(mode="CMYK", kind="JPEG")),
    "sixteen_bit": _file(lambda content: sixteen_bits()),
    "alpha": _file(lambda content: noise(mode="RGBA")),
    "several_frames": _file(lambda content: noise(save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))])),
    "marked_images": _mark_image,
    "empty_images": _remove_annotations,
}
OF_ANNOTATIONS = {
    "duplicate_annotation_ids": lambda data, record: data.add(record, id=data.of(record)[0]["id"]),
    "unknown_image": lambda data, record: data.add({"id": 999}),
    "unknown_category": lambda data, record: data.add(record, category_id=999),
    "non_finite": _box(lambda w, h: [0, float("nan"), 1, 1]),
    "negative_size": _box(lambda w, h: [1, 0, -0.5, 1]),
    "zero_size": _box(lambda w, h: [0, 0, 1, 0]),
    "zero_area": lambda data, record: data.add(record, area=0),
    "outside": _box(lambda w, h: [w, 0, 3, 1]),
    "reaching_out": _box(lambda w, h: [0, 0, w, h + 1]),
    "rounded_out": _box(lambda w, h: [-0.5, 0, w, h]),
    "duplicate_boxes": _repeat_box,
    "crowds": lambda data, record: data.add(record, iscrowd=1),
    "marked": lambda data, record: data.add(record, ignore=1),
}
MAKERS = {**OF_IMAGES, **OF_ANNOTATIONS, "category_gaps": _skip_category_ids, "lvis_keys": _add_lvis_keys}
assert sorted(MAKERS) == sorted(DEFECTS)


def policy(choice="ignore", **chosen):
    """A policy that has ``choice`` for every defect that allows it, else its default; no limit on quarantine."""
    chosen = {"max_pixels": MAX_PIXELS, "quarantine_share": 1.0, **chosen}
    allowed = {name: choice for name in DEFECTS if choice in choices(name)}
    return Validation(**{**allowed, **chosen})


def choices(name):
    return Validation.model_fields[name].annotation.__args__


def layout():
    return Layout("test", "data", seed=1)
