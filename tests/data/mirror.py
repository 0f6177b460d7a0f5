"""Small made-up data sets in the layout of COCO's and LVIS's servers, with generated photographs."""

import io
import json
import zipfile

import numpy as np
from PIL import Image

from imbdet.files import sha256

COCO_CATEGORIES = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
LVIS_CATEGORIES = [{"id": i, "name": f"thing {i}", "frequency": f} for i, f in ((1, "f"), (2, "c"), (5, "r"))]


def jpeg(seed, height, width):
    """A JPEG of smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


def image_sizes(ids):
    """Height and width by id: various, all small."""
    return {i: (40 + i % 3 * 8, 48 + i % 5 * 4) for i in ids}


def boxes_of(ids, categories, first_id):
    """Two boxes an image, of categories in turn."""
    return [
        {"id": first_id + 2 * n + k, "image_id": i, "category_id": categories[(n + k) % len(categories)]["id"],
         "bbox": [2 + 9 * k, 3 + 5 * k, 20.5, 18], "area": 369, "segmentation": [[1, 2, 3, 4, 5, 6]]}
        for n, i in enumerate(ids)
        for k in range(2)
    ]  # fmt: skip


def write_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return path


def packed(path, seed):
    """A zip file of one member ``a.bin``, 600 kB that do not compress."""
    return write_zip(path, {"a.bin": np.random.default_rng(seed).bytes(600_000)})


def write_images(folder, split, sizes):
    """``zips/train2017.zip`` or ``val2017.zip``."""
    members = {f"{split}2017/{i:012}.jpg": jpeg(i, *size) for i, size in sizes.items()}
    return write_zip(folder / "zips" / f"{split}2017.zip", members)


def coco_mirror(folder, train=(9, 25, 30, 34, 36, 42), val=(139, 285, 632)):
    """COCO 2017 as on its server; returns the archives of images."""
    annotations, archives = {}, []
    for split, ids in (("train", train), ("val", val)):
        sizes = image_sizes(ids)
        archives.append(write_images(folder, split, sizes))
        annotations[f"annotations/instances_{split}2017.json"] = {
            "images": [{"id": i, "file_name": f"{i:012}.jpg", "height": h, "width": w} for i, (h, w) in sizes.items()],
            "annotations": [box | {"iscrowd": 0} for box in boxes_of(ids, COCO_CATEGORIES, 1)],
            "categories": COCO_CATEGORIES,
        }
    write_zip(folder / "annotations" / "annotations_trainval2017.zip", annotations)
    return tuple(archives)


def checksums(folder):
    """What a study says of a mirror whose archives are not those of COCO's server: SHA-256 by name."""
    return {path.name: sha256(path) for path in sorted(folder.rglob("*2017.zip"))}


def lvis_image(i, split, size, **more):
    """An image's record as LVIS v1 has it: an address, no file name."""
    url = f"http://images.cocodataset.org/{split}2017/{i:012}.jpg"
    lists = {"neg_category_ids": [2], "not_exhaustive_category_ids": [5]}
    return {"id": i, "coco_url": url, "height": size[0], "width": size[1], **lists, **more}


def lvis_mirror(folder, train=(9, 25, 30), val=((34, "train"), (139, "val"))):
    """LVIS v1 as on its server, besides COCO's images; its val split has images of both of COCO's."""
    content = {
        "train": [lvis_image(i, "train", size) for i, size in image_sizes(train).items()],
        "val": [lvis_image(i, split, image_sizes([i])[i]) for i, split in val],
    }
    for split, images in content.items():
        boxes = boxes_of([image["id"] for image in images], LVIS_CATEGORIES, 1)
        whole = {"images": images, "annotations": boxes, "categories": LVIS_CATEGORIES}
        write_zip(folder / f"lvis_v1_{split}.json.zip", {f"lvis_v1_{split}.json": whole})
    of_val = [i for i, split in val if split == "val"]
    of_train = [*train, *(i for i, split in val if split == "train")]
    return tuple(write_images(folder, split, image_sizes(ids)) for split, ids in (("train", of_train), ("val", of_val)))
