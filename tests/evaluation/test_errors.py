"""The error analysis: equal to the TIDE authors' own numbers (``errors_expected.json``), and its rules one by one."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from coco_cases import detections_of, overlap, perfect, random_case, truth_of
from error_cases import CASES, made_up
from promises import refused

from imbdet.evaluation import coco_ap, errors
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.errors import ERRORS, analyse, judge
from imbdet.evaluation.matching import Boxes, Found
from imbdet.layout import Layout
from imbdet.study_file import load_study

EXPECTED = json.loads(Path(__file__).with_name("errors_expected.json").read_text(encoding="utf-8"))
STUDY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
BOX, OTHER = (10, 10, 100, 100), (200, 200, 100, 100)
FAR = (300, 10, 50, 50)
ROUNDING = 1e-12


def shifted(share):
    """BOX moved to the right by a share of its width; its IoU with BOX is (1 - share) / (1 + share)."""
    return (10 + 100 * share, 10, 100, 100)


def of(boxes, rows, categories=(1, 2)):
    return analyse(truth_of(boxes, (1, 2), categories), detections_of(rows))


def verdicts_of(truth, detections):
    return judge(Boxes.of(truth), Found.of(detections, truth))


def costly(result):
    return {error for error, cost in result["cost"].items() if abs(cost) > ROUNDING}


def made(result):
    return {error: number for error, number in result["counts"].items() if number and error in ERRORS}


@pytest.mark.promise("The cost of each kind of error is that of the TIDE authors' package", "law")
@pytest.mark.parametrize("name", CASES)
def test_costs_are_those_of_tidecv(name, monkeypatch, record_property):
    """At recalls of exactly k/100, which it takes; on a crowd it counts errors, which cost nothing."""
    monkeypatch.setattr(errors, "RECALLS", np.arange(101) / 100)
    truth, rows = made_up(*CASES[name])
    result, expected = analyse(truth, detections_of(rows)), EXPECTED[name]
    assert result["AP50"] == pytest.approx(expected["AP50"], abs=ROUNDING)
    assert result["cost"] == pytest.approx(expected["cost"], abs=ROUNDING)
    assert result["special"] == pytest.approx(expected["special"], abs=ROUNDING)
    counts = {error: result["counts"][error] for error in ERRORS}
    counts["background"] += result["counts"]["ignored"]
    assert counts == expected["counts"]
    record_property("count", 15)


@pytest.mark.parametrize("name", CASES)
def test_recalls_of_pycocotools_hardly_move_a_cost(name):
    truth, rows = made_up(*CASES[name])
    assert analyse(truth, detections_of(rows))["cost"] == pytest.approx(EXPECTED[name]["cost"], abs=1e-3)


@pytest.mark.promise("Before any error is fixed AP50 is that of pycocotools", "law")
@pytest.mark.parametrize("seed", range(12))
def test_ap50_is_that_of_the_evaluation(seed):
    """With crowds, classes without boxes and, in every other case, many equal scores."""
    truth, detections = random_case(seed)
    if seed % 2:
        detections = Detections(detections.image_id, detections.category_id, detections.bbox, detections.score.round(1))
    expected = coco_ap.evaluate(truth, detections, 0.3).metrics["AP50"]
    assert analyse(truth, detections)["AP50"] == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("cap", [100, 300])
def test_as_many_detections_count_as_in_the_evaluation(cap):
    wrong = [(1, 1, OTHER, 0.9 - i / 1e4) for i in range(150)]
    truth, detections = truth_of([(1, 1, BOX)]), detections_of([*wrong, (1, 1, BOX, 0.1)])
    result = analyse(truth, detections, cap)
    assert result["AP50"] == pytest.approx(coco_ap.evaluate(truth, detections, 0.3, cap).metrics["AP50"], abs=ROUNDING)
    assert result["counts"]["background"] == min(cap, 150)


@pytest.mark.promise("With every error fixed AP50 is 1", "law")
@pytest.mark.parametrize("seed", range(12))
def test_with_every_error_fixed_ap50_is_1(seed):
    truth, detections = random_case(seed)
    assert verdicts_of(truth, detections).ap50(ERRORS) == pytest.approx(1, abs=ROUNDING)


@pytest.mark.promise("Fixing an error never lowers AP50", "law")
@pytest.mark.parametrize("seed", range(12))
def test_no_fix_lowers_ap50(seed):
    """Nor does fixing one kind more, in any order."""
    truth, detections = random_case(seed)
    result, verdicts = analyse(truth, detections), verdicts_of(truth, detections)
    assert min([*result["cost"].values(), *result["special"].values()]) > -ROUNDING
    order = np.random.default_rng(seed).permutation(ERRORS).tolist()
    steps = [verdicts.ap50(order[:number]) for number in range(len(order) + 1)]
    assert min(np.diff(steps)) > -ROUNDING


ONE_KIND = {  # boxes and rows beside a box of class 1 that is found with a score of 0.5
    "class": ([(2, 2, OTHER)], [(2, 1, OTHER, 0.9)]),
    "localisation": ([(2, 1, OTHER)], [(2, 1, (250, 200, 100, 100), 0.9)]),
    "both": (
        [(2, 2, OTHER), (2, 2, OTHER)],
        [(2, 2, OTHER, 0.9), (2, 2, OTHER, 0.8), (2, 1, (250, 200, 100, 100), 0.9)],
    ),
    "duplicate": ([(2, 1, OTHER)], [(2, 1, OTHER, 0.9), (2, 1, OTHER, 0.8)]),
    "background": ([], [(2, 1, OTHER, 0.9)]),
    "missed": ([(2, 1, OTHER)], []),
}


@pytest.mark.promise("A set with errors of one kind has a cost for that kind alone", "law")
@pytest.mark.parametrize("error", ERRORS)
def test_a_set_with_one_kind_of_error_has_a_cost_for_it_alone(error):
    boxes, rows = ONE_KIND[error]
    result = of([(1, 1, BOX), *boxes], [(1, 1, BOX, 0.5), *rows])
    assert made(result) == {error: 1}
    assert costly(result) == {error}
    assert result["AP50"] + result["cost"][error] == pytest.approx(1)


def test_costs_by_hand():
    """One class, two boxes, in order of score: false beside everything, true, badly placed on the second box."""
    rows = [(1, 1, FAR, 0.9), (1, 1, BOX, 0.8), (1, 1, (250, 200, 100, 100), 0.7)]
    result = of([(1, 1, BOX), (1, 1, OTHER)], rows)
    half = 51 / 101  # recalls from 0 to 0.5
    assert result["AP50"] == pytest.approx(half / 2)
    assert result["cost"]["background"] == pytest.approx(half / 2)
    assert result["cost"]["localisation"] == pytest.approx(2 / 3 - half / 2)
    assert result["cost"]["missed"] == 0
    assert result["special"] == pytest.approx({"false_positive": half / 2, "false_negative": (1 - half) / 2})


@pytest.mark.parametrize(
    ("found", "category", "error"),
    [
        (shifted(0.3), 1, "duplicate"),
        (shifted(0.3), 2, "class"),
        (shifted(0.5), 1, "localisation"),
        (shifted(0.5), 2, "both"),
        (shifted(0.9), 1, "background"),
        (shifted(0.9), 2, "background"),
        (FAR, 1, "background"),
        ((10, 10, 50, 100), 1, "duplicate"),  # IoU of exactly 0.5
        ((10, 10, 50, 100), 2, "class"),
        ((10, 10, 10, 100), 1, "localisation"),  # of exactly 0.1
        ((10, 10, 10, 100), 2, "both"),
    ],
)
def test_errors_are_told_apart_by_iou_and_class(found, category, error):
    result = of([(1, 1, BOX), (2, 2, BOX)], [(1, 1, BOX, 0.9), (1, category, found, 0.5), (2, 2, BOX, 0.9)])
    assert made(result) == {error: 1}


def test_localisation_comes_before_class():
    """The box of its own class decides, even where one of another class is nearer."""
    boxes = [(1, 1, BOX), (1, 2, shifted(0.5))]
    result = of(boxes, [(1, 1, BOX, 0.9), (1, 2, shifted(0.5), 0.9), (1, 1, shifted(0.5), 0.5)])
    assert made(result) == {"localisation": 1}


@pytest.mark.parametrize(("score", "mended"), [(0.95, "class"), (0.7, "localisation")])
def test_of_several_errors_at_one_box_the_highest_score_is_mended(score, mended):
    """Also of different kinds: fixing the other kind leaves its detections out."""
    badly = [(1, 1, shifted(0.5), 0.6), (1, 1, shifted(-0.5), 0.9), (1, 1, shifted(0.6), 0.3)]
    result = of([(1, 1, BOX), (2, 2, BOX)], [*badly, (1, 2, BOX, score), (2, 2, BOX, 0.99)])
    assert made(result) == {"localisation": 3, "class": 1}
    assert result["AP50"] == pytest.approx(0.5)
    assert result["cost"] == pytest.approx(dict.fromkeys(ERRORS, 0) | {mended: 0.5})


def test_an_error_at_a_box_that_is_found_is_left_out():
    result = of([(1, 1, BOX), (2, 2, BOX)], [(1, 1, BOX, 0.3), (1, 1, shifted(0.5), 0.9), (2, 2, BOX, 0.5)])
    assert costly(result) == {"localisation"}
    assert result["cost"]["localisation"] == pytest.approx(0.25)


def test_of_equal_scores_the_first_is_mended():
    rows = [(1, 1, shifted(0.5), 0.5), (1, 1, shifted(-0.5), 0.5)]
    for order in (rows, rows[::-1]):
        verdicts = verdicts_of(truth_of([(1, 1, BOX)]), detections_of(order))
        assert verdicts.found.bbox[0].tolist() == list(order[0][2])
        assert verdicts.repaired.tolist() == [True, False]


def test_of_boxes_with_equal_iou_the_last_is_taken_as_pycocotools_does():
    """Which leaves the first to another detection, that the last is too far from."""
    between = (60, 10, 100, 100)
    boxes = [(1, 1, (30, 10, 100, 100)), (1, 1, (90, 10, 100, 100))]
    truth, detections = truth_of(boxes), detections_of([(1, 1, between, 0.9), (1, 1, (10, 10, 100, 100), 0.8)])
    assert analyse(truth, detections)["AP50"] == pytest.approx(1)
    truth["annotations"].reverse()
    assert made(analyse(truth, detections)) == {"duplicate": 1, "missed": 1}
    assert coco_ap.evaluate(truth, detections, 0.3).metrics["AP50"] == pytest.approx(51 / 101)


def test_of_boxes_with_equal_iou_an_error_wants_the_first():
    truth = truth_of([(1, 1, shifted(-0.5)), (1, 1, shifted(0.5))])
    assert verdicts_of(truth, detections_of([(1, 1, BOX, 0.5)])).missed.tolist() == [False, True]


def test_what_lies_on_a_crowd_is_no_error_and_repairs_none():
    crowd = (1, 1, (60, 10, 300, 100), {"iscrowd": 1})
    inside = (60, 10, 100, 100)
    plain = of([(1, 1, BOX)], [(1, 1, inside, 0.9)])
    assert made(plain) == {"localisation": 1}
    result = of([(1, 1, BOX), crowd], [(1, 1, inside, 0.9)])
    assert made(result) == {"missed": 1}
    assert result["counts"]["ignored"] == 1
    assert result["cost"]["localisation"] == 0
    other = of([(1, 1, BOX), crowd], [(1, 1, BOX, 0.5), (1, 2, (250, 10, 50, 100), 0.9)])
    assert made(other) == {"background": 1}, "the region is of another class"


def test_a_class_without_boxes_has_no_ap_but_may_be_what_an_error_should_not_have_been():
    result = of([(1, 1, BOX)], [(1, 2, BOX, 0.9), (1, 2, FAR, 0.8)])
    assert made(result) == {"class": 1, "background": 1}
    assert result["AP50"] == 0
    assert result["cost"] == pytest.approx(dict.fromkeys(ERRORS, 0) | {"class": 1})


def test_a_class_that_is_missed_altogether_is_perfect_without_its_boxes_if_nothing_is_detected_of_it():
    found = (1, 1, BOX, 0.9)
    assert of([(1, 1, BOX), (1, 2, OTHER)], [found])["cost"]["missed"] == pytest.approx(0.5)
    stray = of([(1, 1, BOX), (1, 2, OTHER)], [found, (1, 2, FAR, 0.1)])
    assert made(stray) == {"missed": 1, "background": 1}
    assert stray["cost"]["missed"] == 0


def test_without_detections_every_box_is_missed():
    truth, _ = random_case(3)
    result = analyse(truth, Detections.concatenate([]))
    assert result["AP50"] == 0
    assert result["cost"] == pytest.approx(dict.fromkeys(ERRORS, 0) | {"missed": 1})
    assert result["special"] == pytest.approx({"false_positive": 0, "false_negative": 1})
    assert result["counts"]["missed"] == sum(not a.get("iscrowd") for a in truth["annotations"])
    assert result["scores"]["foreground"]["quantiles"] is None
    assert result["scores"]["separation"] is None


def test_without_boxes_nothing_can_be_measured():
    result = of([], [(1, 1, BOX, 0.9)])
    assert result["AP50"] is None
    assert set(result["cost"].values()) == set(result["special"].values()) == {None}
    assert made(result) == {"background": 1}


def test_perfect_detections_have_no_errors():
    truth, _ = random_case(4)
    result = analyse(truth, perfect(truth))
    assert made(result) == {}
    assert costly(result) == set()


@pytest.mark.promise("The order of images and detections and a monotone change of scores change no cost", "law")
@pytest.mark.parametrize("seed", range(6))
def test_order_names_and_scale_change_nothing(seed):
    truth, detections = random_case(seed)
    rng = np.random.default_rng(seed)
    before = analyse(truth, detections)
    new = dict(zip([2, 5, 7, 11], rng.permutation(50)[:4].tolist(), strict=True))
    moved = copy.deepcopy(truth)
    for entry in moved["images"]:
        entry["id"] = new[entry["id"]]
    for annotation in moved["annotations"]:
        annotation["image_id"] = new[annotation["image_id"]]
    for part in moved.values():
        rng.shuffle(part)
    images = np.array([new[image] for image in detections.image_id.tolist()], np.int64)
    other = Detections(images, detections.category_id, detections.bbox, (detections.score**3).astype(np.float32))
    after = analyse(moved, other.select(rng.permutation(len(other))))
    for part in ("cost", "special", "counts"):
        assert after[part] == pytest.approx(before[part], abs=ROUNDING)
    assert after["scores"]["separation"] == before["scores"]["separation"]


def test_inputs_are_not_modified():
    truth, detections = random_case(5)
    before = copy.deepcopy(truth)
    analyse(truth, detections)
    assert truth == before


@pytest.mark.parametrize("seed", range(6))
def test_scores_of_foreground_and_background_are_counted_again_slowly(seed):
    truth, detections = random_case(seed)
    detections = Detections(detections.image_id, detections.category_id, detections.bbox, detections.score.round(1))
    kinds = {"foreground": [], "background": []}
    for image, category, bbox, score in zip(
        detections.image_id, detections.category_id, detections.bbox.astype(float), detections.score, strict=True
    ):
        own = [a for a in truth["annotations"] if a["image_id"] == image]
        ious = [
            (overlap(bbox, a["bbox"], a.get("iscrowd", 0)), a["category_id"] == category, bool(a.get("iscrowd", 0)))
            for a in own
        ]
        if any(iou >= 0.5 and same and not crowd for iou, same, crowd in ious):
            kinds["foreground"].append(float(score))
        elif not any(iou >= (0.5 if crowd else 0.1) and (same or not crowd) for iou, same, crowd in ious):
            kinds["background"].append(float(score))
    scores = analyse(truth, detections)["scores"]
    for kind, expected in kinds.items():
        assert scores[kind]["count"] == len(expected)
        if expected:
            assert scores[kind]["quantiles"] == pytest.approx(np.quantile(expected, scores["levels"]))
    wins = [(f > b) + 0.5 * (f == b) for f in kinds["foreground"] for b in kinds["background"]]
    assert scores["separation"] == (pytest.approx(np.mean(wins)) if wins else None)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study with the annotations and detections of a made-up set, in the current folder."""
    monkeypatch.chdir(tmp_path)
    study = load_study(STUDY)
    layout = Layout.of(study)
    truth, rows = made_up(*CASES["crowds"])
    layout.annotations("val").parent.mkdir(parents=True)
    layout.annotations("val").write_text(json.dumps(truth))
    name = next(iter(study.experiments))
    detections_of(rows).save(layout.detections(name), layout.annotations("val"))
    return study, layout, name


def test_the_record_says_what_it_is_of(place):
    study, layout, name = place
    before = layout.annotations("val").read_bytes()
    errors.run(study, layout, name)
    first = layout.errors(name).read_bytes()
    errors.run(study, layout, name)
    assert layout.errors(name).read_bytes() == first
    assert layout.annotations("val").read_bytes() == before
    record = json.loads(first)
    truth, rows = made_up(*CASES["crowds"])
    result = analyse(truth, detections_of(rows), study.evaluate.detections_per_image)
    assert result.items() <= record.items()
    about = {key: value for key, value in record.items() if key not in result}
    assert about == {
        "study": study.name,
        "experiment": name,
        "label": study.experiments[name].label,
        "detector": "retinanet",
        "data": study.description,
        "seed": study.seed,
    }
    coco_ap.run(study, layout, name)
    evaluation = json.loads(layout.evaluation(name).read_text())
    assert record["AP50"] == pytest.approx(evaluation["AP50"], abs=ROUNDING)


OTHER_DATA = "Errors of detections that do not belong to the data are refused"


@pytest.mark.promise(OTHER_DATA, "bad input")
@pytest.mark.parametrize(("kind", "row"), [("image", (900, 1, BOX, 0.5)), ("category", (1, 900, BOX, 0.5))])
def test_detections_of_other_data_are_refused(place, kind, row):
    study, layout, name = place
    detections_of([row]).save(layout.detections(name), layout.annotations("val"))
    with refused(
        r"detections name (image|category) id 900, not in the annotations .* run the `detect` command"
    ) as error:
        errors.run(study, layout, name)
    assert f"{kind} id 900" in str(error.value)
    assert not layout.errors(name).exists()


@pytest.mark.promise(OTHER_DATA, "bad input")
def test_missing_detections_are_named(place):
    study, layout, name = place
    layout.detections(name).unlink()
    with refused("no detections at .*npz; run the `detect` command of the study first"):
        errors.run(study, layout, name)


@pytest.mark.promise("Errors by COCO's rules are refused for LVIS", "bad input")
def test_lvis_is_refused(place):
    study, layout, name = place
    data = {"source": "lvis_v1", "folder": study.data.folder}
    lvis = type(study).model_validate(study.model_dump() | {"data": data})
    with refused("errors are told apart by the rules of COCO, and LVIS has others"):
        errors.run(lvis, layout, name)
