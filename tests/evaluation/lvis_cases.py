"""Data sets in the format of LVIS and detections on them, from seeds alone; no import from the project.

Detections are rows (image, category, bbox, score) of numbers that float32 holds exactly: jittered boxes, wrong classes,
duplicates, strays, equal scores, and more than 300 on an image.
"""

import json
from pathlib import Path

import numpy as np

EXCERPT = Path(__file__).parents[3] / "shared" / "data" / "lvis-v0.5-val-100.json"
SCORE = 0.5  # at which the cases are counted
CROWDED = 420  # detections of the first image


def excerpt():
    """The 100 images of LVIS v0.5 val that the LVIS API ships."""
    return json.loads(EXCERPT.read_text(encoding="utf-8"))


def made_up():
    """Ten images and nine categories: absent, unlabelled and incomplete ones, areas at the bounds, an empty image."""
    rng = np.random.default_rng(5)
    categories = [{"id": 3 * k + 1, "name": f"thing {k}", "frequency": "rrrcccfff"[k]} for k in range(9)]
    ids = [category["id"] for category in categories]
    images, annotations = [], []
    for image in (4, 8, 15, 16, 23, 42, 108, 200, 201, 300):
        present = rng.choice(ids[:8], 3, replace=False).tolist() if image != 300 else []
        absent = [k for k in ids if k not in present]
        images.append(
            {
                "id": image,
                "width": 640,
                "height": 480,
                "file_name": f"{image}.jpg",
                "neg_category_ids": rng.choice(absent, 3, replace=False).tolist(),
                "not_exhaustive_category_ids": present[:1] if image % 2 else [],
            }
        )
        for category in present:
            for _ in range(int(rng.integers(1, 5))):
                side = [32, 96, 20, 60, 150][int(rng.integers(5))]
                box = [*rng.integers(0, 300, 2).tolist(), side, side]
                annotations.append({"image_id": image, "category_id": category, "bbox": box, "area": side * side})
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return {"images": images, "annotations": annotations, "categories": categories}


def detections_on(truth, seed):
    """About three rows for each box, and strays of known and unknown categories on each image."""
    rng = np.random.default_rng(seed)
    categories = [category["id"] for category in truth["categories"]]
    rows = []
    for annotation in truth["annotations"]:
        box = np.array(annotation["bbox"], float)
        for _ in range(int(rng.integers(1, 5))):
            moved = box + rng.normal(0, 0.1, 4) * np.tile(box[2:], 2)
            category = annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(categories))
            rows.append((annotation["image_id"], category, moved))
    for number, image in enumerate(truth["images"]):
        own = [a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]]
        likely = [*own, *image["neg_category_ids"], *image["not_exhaustive_category_ids"]] * 3 + categories[:9]
        strays = range(CROWDED if number == 0 else 8)
        rows += [(image["id"], int(rng.choice(likely)), rng.uniform(5, 200, 4)) for _ in strays]
    order = rng.permutation(len(rows))
    scores = np.round(rng.random(len(rows)) ** 0.7, 2)  # two digits: many are equal
    return [
        (rows[i][0], rows[i][1], np.maximum(rows[i][2], 1).astype(np.float32).tolist(), float(np.float32(scores[i])))
        for i in order.tolist()
    ]


CASES = {"made up": (made_up, 1), "excerpt": (excerpt, 2)}
