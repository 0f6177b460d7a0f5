"""The census of imbalance against a count by hand, and the structure against the network itself."""

import json

import pytest
from slow_assigner import anchors_of, assign
from small_study import CATEGORIES, SIZES, place, random_detector, small_study
from studies import ADDED, DETECTOR, merged

from imbdet.data.loader import Split
from imbdet.evaluation import census

__all__ = ["place"]
STRIDES = {"retinanet": (8, 16, 32, 64, 128), "faster_rcnn": (4, 8, 16, 32, 64)}
LEVELS = {"retinanet": ["P3", "P4", "P5", "P6", "P7"], "faster_rcnn": ["P2", "P3", "P4", "P5", "P6"]}


def resized(height, width):
    """Short side to 60 pixels, unless the long side would pass 110."""
    scale = min(60 / min(height, width), 110 / max(height, width))
    return round(height * scale), round(width * scale)


def slow_labels(study, layout, with_crowds, detector="retinanet"):
    """For each image the ``(level, label)`` of its anchors, from the annotation file as it is."""
    settings, strides = study.detectors[detector], STRIDES[detector]
    rule = settings.assigner if detector == "retinanet" else settings.rpn.assigner
    content = json.loads(layout.annotations("train").read_text())
    order = sorted(CATEGORIES)
    for image, (height, width) in zip(content["images"], SIZES, strict=True):
        new_height, new_width = resized(height, width)
        sx, sy = new_width / width, new_height / height
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        boxes = [
            (x * sx, y * sy, (x + w) * sx, (y + h) * sy, row["iscrowd"], order.index(row["category_id"]))
            for row in rows
            for x, y, w, h in [row["bbox"]]
        ]
        padded = [-(-side // 32) * 32 for side in (new_height, new_width)]
        anchors = list(anchors_of(settings.anchors, *padded, strides))
        objects, crowds = [b for b in boxes if not b[4]], [b[:4] for b in boxes if b[4] and with_crowds]
        boxes_, labels = [b[:4] for b in objects], [b[5] for b in objects]
        found = assign([box for _, box in anchors], boxes_, labels, crowds, rule, len(CATEGORIES))
        yield [(level, label) for (level, _), label in zip(anchors, found, strict=True)]


def train_split(study, layout):
    return Split(study.detectors["retinanet"], layout, "train")


@pytest.mark.parametrize("detector", STRIDES)
@pytest.mark.parametrize("crowd", ["ignore", "drop"])
def test_census_is_a_count_of_the_assigner_on_each_image(place, crowd, detector):
    """Of RPN's assigner where there are two stages: its one class is counted by the class of the box."""
    rule = {"foreground_iou": 0.5, "background_iou": 0.3, "low_quality": "argmax"}
    second = DETECTOR | {"short_side": 60, "long_side": 110, "rpn": DETECTOR["rpn"] | {"assigner": rule}}
    changes = {"detectors": {"faster_rcnn": second}, "experiments": ADDED["experiments"]}
    study, layout = small_study(place, **merged(changes, {"detectors": {detector: {"crowd": crowd}}}))
    census.run(study, layout, detector)
    written = json.loads(layout.census(detector).read_text())
    images = list(slow_labels(study, layout, crowd == "ignore", detector))
    flat = [pair for image in images for pair in image]
    background = len(CATEGORIES)
    assert written["images"] == len(images) == 4
    assert written["study"] == study.name
    assert [level["name"] for level in written["levels"]] == LEVELS[detector]
    for k, level in enumerate(written["levels"]):
        labels = [label for of_level, label in flat if of_level == k]
        assert level["stride"] == STRIDES[detector][k]
        assert level["anchors"] == round(len(labels) / 4)  # of a mean image, whose size may be between
        assert level["ignored"] == labels.count(-1) / 4
        assert level["background"] == labels.count(background) / 4
        assert level["foreground"] == sum(0 <= label < background for label in labels) / 4
    foreground = [label for _, label in flat if 0 <= label < background]
    assert len(foreground) > 5
    assert written["foreground_share"] == pytest.approx(len(foreground) / len(flat), rel=1e-12)
    counts = {row["id"]: row["foreground_anchors"] for row in written["classes"]}
    assert counts == {category: foreground.count(k) for k, category in enumerate(sorted(CATEGORIES))}


def test_crowd_regions_are_ignored_and_not_dropped(place):
    """The crowd of the one image that has one: it makes background anchors ignored, and nothing else."""
    kept, dropped = (
        census.count(train_split(study, layout), random_detector(study, layout))
        for crowd in ("ignore", "drop")
        for study, layout in [small_study(place, detectors={"retinanet": {"crowd": crowd}})]
    )
    more = [a["ignored"] - b["ignored"] for a, b in zip(kept["levels"], dropped["levels"], strict=True)]
    assert sum(more) > 0
    assert more == [b["background"] - a["background"] for a, b in zip(kept["levels"], dropped["levels"], strict=True)]
    assert kept["foreground_share"] == dropped["foreground_share"]


def test_classes_are_counted_from_the_annotations_most_boxes_first(place):
    study, layout = small_study(place)
    census.run(study, layout, "retinanet")
    rows = json.loads(layout.annotations("train").read_text())["annotations"]
    rows = [row for row in rows if not row["iscrowd"]]
    classes = json.loads(layout.census("retinanet").read_text())["classes"]
    for row in classes:
        of_class = [r for r in rows if r["category_id"] == row["id"]]
        assert (row["name"], row["boxes"]) == (CATEGORIES[row["id"]], len(of_class))
        assert row["images"] == len({r["image_id"] for r in of_class})
    assert [row["boxes"] for row in classes] == sorted((row["boxes"] for row in classes), reverse=True)
    assert sum(row["boxes"] for row in classes) == len(rows) == 5
    assert classes[-1]["boxes"] == classes[-1]["foreground_anchors"] == 0


def test_large_sets_are_sampled_evenly_from_first_to_last(place, monkeypatch):
    study, layout = small_study(place)
    split, model = train_split(study, layout), random_detector(study, layout)
    images = list(slow_labels(study, layout, with_crowds=True))
    monkeypatch.setattr(census, "MOST_IMAGES", 2)
    sampled = census.count(split, model)
    ends = images[0] + images[-1]
    assert sampled["images"] == 2
    assert sum(level["background"] for level in sampled["levels"]) == [label for _, label in ends].count(3) / 2


def test_run_twice_gives_the_same_bytes(place):
    study, layout = small_study(place)
    written = []
    for _ in range(2):
        census.run(study, layout, "retinanet")
        written.append((layout.census("retinanet").read_bytes(), layout.structure("retinanet").read_bytes()))
    assert written[0] == written[1]
