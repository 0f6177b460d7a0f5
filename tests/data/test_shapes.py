"""Laws of the generated data set: a pure function of its settings, with the statistics that they ask for."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imbdet.data import shapes
from imbdet.data.polygons import DISTRACTORS, OBJECTS, coverage, fit
from imbdet.seeding import generator
from imbdet.settings import ShapesData

OUTLINES = OBJECTS | DISTRACTORS


def shapes_data(**changes: object) -> ShapesData:
    values = {
        "source": "shapes",
        "folder": "data",
        "seed": 1,
        "image_size": 64,
        "train_images": 20,
        "val_images": 20,
        "classes": 8,
        "tail_exponent": 1.0,
        "objects": (1, 5),
        "box_size": (0.1, 0.5),
        "distractors": (0, 3),
    }
    return ShapesData.model_validate(values | changes)


@st.composite
def any_settings(draw: st.DrawFn) -> ShapesData:
    low = draw(st.floats(0.05, 0.6))
    objects, distractors = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    return shapes_data(
        seed=draw(st.integers(0, 2**31)),
        image_size=draw(st.integers(32, 96)),
        classes=draw(st.integers(1, 8)),
        tail_exponent=draw(st.floats(0, 3)),
        objects=(objects, objects + draw(st.integers(0, 3))),
        distractors=(distractors, distractors + draw(st.integers(0, 3))),
        box_size=(low, draw(st.floats(low, 0.9))),
    )


@given(any_settings(), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_scene_keeps_to_its_settings(data: ShapesData, index: int) -> None:
    scene = shapes.scene(data, "train", index)
    objects = int((scene.labels >= 0).sum())
    assert data.objects[0] <= objects <= data.objects[1]
    assert data.distractors[0] <= len(scene.labels) - objects <= data.distractors[1]
    assert (scene.labels < data.classes).all()
    low, high = (share * data.image_size for share in data.box_size)
    assert (scene.boxes[:, 2:] >= low - 0.006).all()  # boxes are rounded to hundredths of a pixel
    assert (scene.boxes[:, 2:] <= high + 0.006).all()
    assert (scene.boxes[:, :2] >= 0).all()
    assert (scene.boxes[:, :2] + scene.boxes[:, 2:] <= data.image_size + 0.011).all()


def test_an_image_is_a_function_of_seed_split_and_index() -> None:
    data = shapes_data()
    first = shapes.render(data, "train", 3)
    shapes.render(data, "train", 4)
    assert np.array_equal(shapes.render(data, "train", 3), first)
    others = [(data, "train", 4), (data, "val", 3), (shapes_data(seed=2), "train", 3)]
    assert all((shapes.render(*other) != first).mean() > 0.5 for other in others)


def test_fewer_images_are_the_beginning_of_more() -> None:
    few, many = (shapes.annotate(shapes_data(train_images=n), "train") for n in (5, 9))
    assert many["images"][:5] == few["images"]
    assert many["annotations"][: len(few["annotations"])] == few["annotations"]


@pytest.mark.parametrize("name", OUTLINES)
@pytest.mark.parametrize("turn", [0.0, 0.3, -2.0])
def test_boxes_are_tight_around_the_mask(name: str, turn: float) -> None:
    x, y, w, h = box = np.array([3.3, 5.75, 20.4, 31.1])
    mask = coverage(fit(OUTLINES[name], turn, turn < 0, box), 48, 40) > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert extent == [math.floor(x), math.floor(y), math.ceil(x + w), math.ceil(y + h)]


@pytest.mark.parametrize("index", range(12))
def test_boxes_are_tight_around_the_pixels(index: int) -> None:
    """An image differs from its bare background in the outline's mask, which ends where the box does."""
    data = shapes_data(objects=(1, 1), distractors=(0, 0), box_size=(0.3, 0.6))
    bare = shapes._background(generator(data.seed, "shapes/val/pixels", index), data.image_size)
    drawn = np.abs(shapes.render(data, "val", index) - np.clip(bare, 0, 255)).max(axis=2) > 12
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    scene = shapes.scene(data, "val", index)
    mask = coverage(scene.outlines[0], data.image_size, data.image_size) > 0.3
    assert (drawn & mask).sum() > 0.85 * (drawn | mask).sum()
    x, y, w, h = scene.boxes[0]
    extent = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(extent - [x, y, x + w, y + h]).max() < 2


@pytest.mark.parametrize("name", OUTLINES)
def test_coverage_adds_up_to_the_polygon_s_area(name: str) -> None:
    outline = fit(OUTLINES[name], 0.2, False, np.array([2.1, 3.2, 40.0, 50.0]))
    x, y = (np.concatenate([c[:, i] for c in outline]) for i in (0, 1))
    next_x, next_y = (np.concatenate([np.roll(c[:, i], -1) for c in outline]) for i in (0, 1))
    area = abs((x * next_y - next_x * y).sum()) / 2
    assert coverage(outline, 60, 50).sum() == pytest.approx(area, rel=0.005)


def test_coverage_of_a_rectangle() -> None:
    corners = np.array([[1.25, 0.5], [3.0, 0.5], [3.0, 2.0], [1.25, 2.0]])
    expected = [[0, 0.375, 0.5, 0], [0, 0.75, 1, 0], [0, 0, 0, 0]]
    assert coverage((corners,), 3, 4).tolist() == expected
    assert coverage((corners[::-1],), 3, 4).tolist() == expected


def test_no_two_outlines_look_alike() -> None:
    box = np.array([0.0, 0.0, 32.0, 32.0])
    masks = {name: coverage(fit(outline, 0.0, False, box), 32, 32) for name, outline in OUTLINES.items()}
    for a, b in combinations(masks, 2):
        iou = np.minimum(masks[a], masks[b]).sum() / np.maximum(masks[a], masks[b]).sum()
        assert iou < 0.9, (a, b)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.8])
def test_class_frequencies_follow_the_exponent(exponent: float) -> None:
    data = shapes_data(tail_exponent=exponent, classes=5, train_images=1500, objects=(2, 6), box_size=(0.05, 0.1))
    expected = shapes.class_frequencies(data)
    assert expected[0] / expected == pytest.approx(np.arange(1, 6) ** exponent)
    labels = [record["category_id"] - 1 for record in shapes.annotate(data, "train")["annotations"]]
    deviation = np.sqrt(expected * (1 - expected) / len(labels))
    assert (np.abs(np.bincount(labels, minlength=5) / len(labels) - expected) < 4 * deviation).all()


def test_widths_are_log_uniform() -> None:
    data = shapes_data(objects=(1, 1), distractors=(0, 0), box_size=(0.08, 0.5))
    widths = np.array([shapes.scene(data, "train", i).boxes[0, 2] for i in range(1000)])
    place = np.log(widths / (0.08 * 64)) / np.log(0.5 / 0.08)  # uniform in 0..1 if widths are log-uniform
    counts = np.histogram(place, bins=8, range=(-0.01, 1.01))[0]
    assert (np.abs(counts - 125) < 4 * np.sqrt(125)).all()


def test_numbers_of_objects_and_distractors_are_uniform() -> None:
    data = shapes_data(objects=(1, 3), distractors=(2, 4), box_size=(0.05, 0.1))
    labels = [shapes.scene(data, "train", i).labels for i in range(600)]
    for counts in ([(x >= 0).sum() - 1 for x in labels], [(x < 0).sum() - 2 for x in labels]):
        assert (np.abs(np.bincount(counts, minlength=3) - 200) < 4 * np.sqrt(200)).all()


def test_little_of_any_shape_is_covered() -> None:
    data = shapes_data(image_size=128, objects=(1, 6), distractors=(2, 6), box_size=(0.08, 0.5))
    for index in range(100):
        overlap = shapes._overlap(*[shapes.scene(data, "train", index).boxes] * 2)
        np.fill_diagonal(overlap, 0)
        assert overlap.max(initial=0) <= shapes.LARGEST_OVERLAP


def test_objects_stand_out_from_what_they_cover() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        covered = rng.uniform(40, 215, 3) + rng.uniform(-20, 20, (6, 5, 3))
        colour = shapes._fill(rng, covered, striped=False, colour=None)
        assert np.linalg.norm(colour - covered.mean(axis=(0, 1))) >= shapes.CONTRAST


def test_the_asked_share_of_objects_has_the_colour_of_its_class() -> None:
    data = shapes_data(classes=8, class_colours=0.7)
    labels = np.tile(np.arange(8), 500)
    colours = shapes._class_colours(np.random.default_rng(0), data, labels)
    own = [np.array_equal(colour, shapes.COLOURS[k]) for colour, k in zip(colours, labels, strict=True)]
    assert all(mine or colour is None for mine, colour in zip(own, colours, strict=True))
    assert abs(np.mean(own) - 0.7) < 4 * math.sqrt(0.7 * 0.3 / len(own))


def test_a_class_colour_of_a_distractor_may_be_any_class() -> None:
    colours = shapes._class_colours(
        np.random.default_rng(0), shapes_data(classes=8, class_colours=1.0), np.full(400, -1)
    )
    assert {tuple(colour) for colour in colours if colour is not None} == set(map(tuple, shapes.COLOURS))


def test_a_given_colour_is_kept_up_to_its_shade() -> None:
    covered, colour = np.full((6, 5, 3), 120.0), shapes.COLOURS[1]
    painted = shapes._fill(np.random.default_rng(0), covered, striped=False, colour=colour)
    assert (np.abs(painted - colour) <= shapes.SHADE).all()


def noise(**changes: float) -> ShapesData:
    return shapes_data(train_images=300, box_size=(0.05, 0.2), **changes)


def test_label_noise_is_in_the_training_annotations_only() -> None:
    clean, noisy = noise(), noise(jittered_boxes=0.5, jitter=0.3, wrong_labels=0.5)
    assert shapes.annotate(noisy, "val") == shapes.annotate(clean, "val")
    assert shapes.annotate(noisy, "train") != shapes.annotate(clean, "train")
    for split in ("train", "val"):
        assert np.array_equal(shapes.render(noisy, split, 2), shapes.render(clean, split, 2))


def test_jitter_moves_the_asked_share_of_boxes_by_no_more_than_asked() -> None:
    records = [
        shapes.annotate(data, "train")["annotations"] for data in (noise(), noise(jittered_boxes=0.4, jitter=0.2))
    ]
    before, after = (np.array([record["bbox"] for record in part]) for part in records)
    assert [r["category_id"] for r in records[0]] == [r["category_id"] for r in records[1]]
    assert np.array_equal(before[:, 2:], after[:, 2:])
    moved = (before != after).any(axis=1)
    assert abs(moved.mean() - 0.4) < 4 * math.sqrt(0.4 * 0.6 / len(moved))
    assert (np.abs(after - before)[:, :2] <= 0.2 * before[:, 2:] + 0.006).all()
    assert (after[:, :2] >= 0).all()
    assert (after[:, :2] + after[:, 2:] <= 64.011).all()


def test_wrong_labels_are_another_class_at_the_asked_share() -> None:
    records = [shapes.annotate(data, "train")["annotations"] for data in (noise(), noise(wrong_labels=0.3))]
    before, after = (np.array([record["category_id"] for record in part]) for part in records)
    wrong = before != after
    assert [r["bbox"] for r in records[0]] == [r["bbox"] for r in records[1]]
    assert abs(wrong.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(wrong))
    assert all(
        r["category_id"] != b
        for r, b in zip(shapes.annotate(noise(wrong_labels=1.0), "train")["annotations"], before, strict=True)
    )
    offsets = np.bincount((after - before)[wrong] % 8, minlength=8)[1:]
    assert (np.abs(offsets - offsets.mean()) < 4 * np.sqrt(offsets.mean())).all()
