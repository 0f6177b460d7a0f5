"""The generated data set: filled shapes on textured backgrounds, with a long tail, distractors and label noise.

Every image is a function of the settings and of (seed, split, index): its geometry (:func:`scene`), its pixels
(:func:`render`) and its label noise (:func:`annotate`) draw from generators of their own, so that noisy labels leave
the pictures as they are. Images are stored as BMP: the same bytes whatever version of a compression library is at
hand, which the manifest of hashes needs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imbdet.data.polygons import DISTRACTORS, OBJECTS, Contours, Floats, coverage, fit
from imbdet.seeding import generator
from imbdet.settings import ShapesData

CLASSES = tuple(OBJECTS)
LARGEST_OVERLAP = 0.25  # of two boxes, over the smaller one's area: objects may touch, none is hidden
ASPECT = 4 / 3  # width over height and its inverse
TURN = np.pi / 9  # shapes lean by up to this angle to either side
CONTRAST = 110.0  # least distance of an object's colour from the mean of what it covers (RGB, 0..255)
# Colours of the classes (RGB): as far apart as eight can be.
COLOURS = np.array(
    [
        (210, 50, 45),
        (45, 90, 210),
        (60, 170, 60),
        (235, 200, 50),
        (150, 60, 180),
        (50, 195, 200),
        (240, 130, 40),
        (235, 120, 175),
    ],
    dtype=np.float64,
)
SHADE = 30.0  # an object's colour differs from its class's by up to this much in each channel
TRIES = 64  # positions and sizes tried for each object


@dataclass(frozen=True)
class Scene:
    """Geometry of one image: n shapes in the order in which they are painted.

    boxes: [n, 4] float64 xywh, pixels, tight around the outline. labels: [n] int64, 0..K-1, or -1 for a distractor.
    outlines: n shapes in pixels. striped: [n] bool, filled with stripes of two colours rather than one colour.
    """

    boxes: Floats
    labels: NDArray[np.int64]
    outlines: tuple[Contours, ...]
    striped: NDArray[np.bool_]


def class_frequencies(data: ShapesData) -> Floats:
    """Probability of each class, [K]: proportional to (k + 1) ** -tail_exponent."""
    weight: Floats = np.arange(1, data.classes + 1, dtype=np.float64) ** -data.tail_exponent
    weight /= weight.sum()
    return weight


def scene(data: ShapesData, split: str, index: int) -> Scene:
    """Return the geometry of image ``index`` (from 0) of ``split``."""
    rng = generator(data.seed, f"shapes/{split}/scene", index)
    objects = int(rng.integers(data.objects[0], data.objects[1], endpoint=True))
    distractors = int(rng.integers(data.distractors[0], data.distractors[1], endpoint=True))
    boxes = _place(rng, data, objects + distractors)
    labels = np.full(objects + distractors, -1)
    labels[:objects] = rng.choice(data.classes, size=objects, p=class_frequencies(data))
    kinds = rng.choice(list(DISTRACTORS), size=distractors)
    names = [CLASSES[label] for label in labels[:objects]] + list(kinds)
    turns = rng.uniform(-TURN, TURN, len(names))
    mirrors = rng.random(len(names)) < 0.5
    shapes = OBJECTS | DISTRACTORS
    outlines = [fit(shapes[n], t, bool(m), b) for n, t, m, b in zip(names, turns, mirrors, boxes, strict=True)]
    order = rng.permutation(len(names))
    striped = np.array([name == "blob" for name in names], dtype=bool)
    return Scene(boxes[order], labels[order], tuple(outlines[i] for i in order), striped[order])


def _place(rng: np.random.Generator, data: ShapesData, count: int) -> Floats:
    """Boxes [count, 4] xywh inside the image, placed one after the other where little is covered.

    Each box is the first of :data:`TRIES` draws (width log-uniform, position uniform) that overlaps no earlier one by
    more than :data:`LARGEST_OVERLAP`; in an image too crowded for that, the draw that overlaps least.
    """
    low, high = (share * data.image_size for share in data.box_size)
    boxes = np.zeros((count, 4))
    for i in range(count):
        width = np.exp(rng.uniform(np.log(low), np.log(high), TRIES))
        height = np.clip(width * ASPECT ** rng.uniform(-1, 1, TRIES), low, high)
        size = np.stack([width, height], axis=1)
        tries = np.round(np.concatenate([rng.random((TRIES, 2)) * (data.image_size - size), size], axis=1), 2)
        overlap = _overlap(tries, boxes[:i]).max(axis=1, initial=0.0)
        boxes[i] = tries[np.argmin(np.maximum(overlap, LARGEST_OVERLAP))]
    return boxes


def _overlap(a: Floats, b: Floats) -> Floats:
    """Intersection over the smaller area of boxes [n, 4] and [m, 4] xywh, [n, m]."""
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    share: Floats = np.clip(sides, 0, None).prod(axis=-1)
    share /= np.minimum(a[..., 2:].prod(axis=-1), b[..., 2:].prod(axis=-1))
    return share


def render(data: ShapesData, split: str, index: int) -> NDArray[np.uint8]:
    """Return the pixels of image ``index`` of ``split``, [image_size, image_size, 3] RGB."""
    rng = generator(data.seed, f"shapes/{split}/pixels", index)
    canvas = _background(rng, data.image_size)
    shapes = scene(data, split, index)
    colours = _class_colours(rng, data, shapes.labels)
    for box, outline, striped, colour in zip(shapes.boxes, shapes.outlines, shapes.striped, colours, strict=True):
        left, top = np.floor(box[:2]).astype(int)
        right, bottom = np.ceil(box[:2] + box[2:]).astype(int)
        window = canvas[top:bottom, left:right]
        alpha = coverage(tuple(c - (left, top) for c in outline), *window.shape[:2])[..., None]
        window += alpha * (_fill(rng, window, bool(striped), colour) - window)
    canvas += rng.integers(-6, 6, canvas.shape, endpoint=True)
    return np.round(np.clip(canvas, 0, 255)).astype(np.uint8)


def _background(rng: np.random.Generator, side: int) -> Floats:
    """A texture [side, side, 3]: smooth noise on a random colour, and stripes of random direction and strength."""
    cells = int(rng.integers(2, 8, endpoint=True))
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1, 3))
    position = (np.arange(side) + 0.5) / side * cells
    whole = position.astype(np.int64)
    part = position - whole
    rows = grid[whole] + part[:, None, None] * (grid[whole + 1] - grid[whole])
    smooth = rows[:, whole] + part[:, None] * (rows[:, whole + 1] - rows[:, whole])
    stripes = _waves(rng, (side, side), periods=rng.uniform(2, 16))
    tint = rng.uniform(-1, 1, 3)
    colour = rng.uniform(60, 195, 3)
    texture: Floats = colour + rng.uniform(10, 40) * smooth + rng.uniform(0, 30) * stripes[..., None] * tint
    return texture


def _waves(rng: np.random.Generator, shape: tuple[int, int], periods: float) -> Floats:
    """Sine waves of random direction and phase in an image of ``shape`` (height, width), in -1..1."""
    height, width = shape
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    across = np.arange(width) / width * np.cos(angle) + np.arange(height)[:, None] / height * np.sin(angle)
    waves: Floats = np.sin(2 * np.pi * periods * across + phase)
    return waves


def _class_colours(rng: np.random.Generator, data: ShapesData, labels: NDArray[np.int64]) -> list[Floats | None]:
    """For each shape the colour of a class, its own or, for a distractor, any; None where it has a colour at will."""
    classes = np.where(labels >= 0, labels, rng.integers(0, data.classes, len(labels)))
    coloured = rng.random(len(labels)) < data.class_colours
    return [COLOURS[k] if chosen else None for k, chosen in zip(classes, coloured, strict=True)]


def _fill(rng: np.random.Generator, covered: Floats, striped: bool, colour: Floats | None) -> Floats:
    """What a shape is filled with: one colour [3], or stripes of two [h, w, 3]; both stand out from what they cover.

    Unless ``colour`` is given, colours are drawn alike for all: they then say nothing about the class.
    """
    draws = rng.uniform(0, 255, (2, 32, 3)) if colour is None else colour + rng.uniform(-SHADE, SHADE, (2, 32, 3))
    draws = draws.clip(0, 255)
    distance = np.sqrt(((draws - covered.mean(axis=(0, 1))) ** 2).sum(axis=2))
    first, second = draws[[0, 1], np.argmax(np.minimum(distance, CONTRAST), axis=1)]
    if not striped:
        plain: Floats = first
        return plain
    share = 0.5 + 0.5 * _waves(rng, (covered.shape[0], covered.shape[1]), periods=3.0)[..., None]
    stripes: Floats = first + share * (second - first)
    return stripes


def annotate(data: ShapesData, split: str) -> dict[str, Any]:
    """Return the COCO annotations of a split: category ids 1..K, image ids from 1, boxes with label noise in train."""
    names = [f"{index + 1:06d}.bmp" for index in range(data.train_images if split == "train" else data.val_images)]
    side = data.image_size
    annotations: list[dict[str, Any]] = []
    for index in range(len(names)):
        shapes = scene(data, split, index)
        boxes, labels = shapes.boxes[shapes.labels >= 0], shapes.labels[shapes.labels >= 0]
        if split == "train":
            boxes, labels = _noisy(data, index, boxes, labels)
        for (x, y, w, h), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = {"bbox": [x, y, w, h], "area": round(w * h, 4), "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, "category_id": label + 1, **box})
    return {
        "images": [{"id": i + 1, "file_name": name, "width": side, "height": side} for i, name in enumerate(names)],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES[: data.classes])],
    }


def _noisy(data: ShapesData, index: int, boxes: Floats, labels: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    """Move a share of the boxes (inside the image, sizes kept) and give a share another class, evenly drawn."""
    rng = generator(data.seed, "shapes/train/noise", index)
    moved = rng.random(len(boxes)) < data.jittered_boxes
    shift = rng.uniform(-data.jitter, data.jitter, (len(boxes), 2)) * boxes[:, 2:] * moved[:, None]
    corner = np.round(np.clip(boxes[:, :2] + shift, 0, data.image_size - boxes[:, 2:]), 2)
    wrong = rng.random(len(labels)) < data.wrong_labels
    others = (labels + rng.integers(1, max(2, data.classes), len(labels))) % data.classes
    return np.concatenate([corner, boxes[:, 2:]], axis=1), np.where(wrong, others, labels)
