"""Made-up detections with errors of every kind, for the tests of the error analysis and the script of its fixtures."""

import numpy as np

CLASSES = (1, 3, 4, 7, 9)
CROWD = [300.0, 40.0, 90.0, 300.0]  # right of all boxes and of what is detected near them
CASES = {  # images, share of images with a crowd, seed
    "small": (6, 0.0, 1),
    "medium": (40, 0.0, 2),
    "large": (200, 0.0, 3),
    "crowds": (40, 0.5, 4),
}


def made_up(images, crowded, seed):
    """A COCO file's content and (image, category, bbox, score) rows, without ties; classes are those that have boxes.

    All numbers are multiples of a quarter, so that they are the same in single precision.
    """
    rng = np.random.default_rng(seed)
    boxes, found = [], []
    for image in range(1, images + 1):
        for _ in range(int(rng.integers(0, 6))):
            side = rng.uniform(30, 90, 2)
            box = _quarters([*rng.uniform(0, 190, 2), *side])
            category = int(rng.choice(CLASSES, p=(0.4, 0.3, 0.15, 0.1, 0.05)))
            boxes.append((image, category, box, 0))
            for _ in range(int(rng.integers(0, 4))):
                shift = rng.choice([0.05, 0.15, 0.4]) * rng.normal(0, 1, 4) * [*side, *side]
                found.append((image, category if rng.random() < 0.7 else 0, _near(box, shift)))
        strays = [[*rng.uniform(0, 190, 2), *rng.uniform(20, 90, 2)] for _ in range(int(rng.integers(0, 3)))]
        found += [(image, 0, _quarters(stray)) for stray in strays]
        if rng.random() < crowded:
            category = int(rng.choice(CLASSES[:2]))
            boxes.append((image, category, CROWD, 1))
            inside = [CROWD[0] + 10, CROWD[1] + 20, 40.0, 50.0]
            found += [(image, category, inside), (image, CLASSES[2], inside)]
    known = sorted({category for _, category, _, crowd in boxes if not crowd})
    scores = rng.permutation(len(found)) / len(found)
    rows = [
        (image, category if category in known else int(rng.choice(known)), box, float(score))
        for (image, category, box), score in zip(found, scores, strict=True)
    ]
    return _truth(boxes, images), rows


def _near(box, shift):
    moved = np.array(box) + shift
    return _quarters([*moved[:2].clip(0, 190), *moved[2:].clip(10, 100)])


def _quarters(numbers):
    return (np.round(np.array(numbers) * 4) / 4).tolist()


def _truth(boxes, images):
    keys = ("id", "image_id", "category_id", "bbox", "iscrowd")
    return {
        "images": [{"id": i, "width": 400, "height": 400, "file_name": f"{i}.bmp"} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": f"class {c}"} for c in CLASSES],
        "annotations": [dict(zip(keys, (n, *box), strict=True)) for n, box in enumerate(boxes, start=1)],
    }
