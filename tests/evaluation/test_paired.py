"""The command `intervals`: one record of every AP and difference, and clear words where runs cannot be compared."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coco_cases import detections_of, perfect, random_case, truth_of
from promises import refused

from imbdet.errors import UserError
from imbdet.evaluation import coco_ap, paired
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.holm import holm
from imbdet.evaluation.intervals import DRAWS, draw, measure
from imbdet.evaluation.paired import Run, compare, comparisons
from imbdet.evaluation.resampling import match
from imbdet.layout import Layout
from imbdet.settings import Intervals
from imbdet.study_file import load_study

STUDY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
SEEDS = (3, 1)
METRICS = ("AP", "AP50", "AP75")


def thinned(detections, seed, share):
    """A part of the detections, drawn at random."""
    return detections.select(np.random.default_rng(seed).random(len(detections)) < share)


@pytest.fixture(scope="module")
def case():
    """Two of three methods find less, by seed; pairs of two baselines."""
    truth, found = random_case(3)
    shares = {"good": 1.0, "fair": 0.8, "poor": 0.3}
    made = {
        name: [Run(seed, thinned(found, 10 * place + seed, share), f"{name}-{seed}.npz") for seed in SEEDS]
        for place, (name, share) in enumerate(shares.items())
    }
    return truth, made


PAIRS = {"good": ["fair", "poor"], "poor": ["fair"]}


def compared(case, seeds=SEEDS, pairs=PAIRS, resamples=50, over="images"):
    truth, made = case
    return compare(truth, made.items(), seeds, pairs, resamples, over)


@pytest.mark.parametrize("over", ["images", "seeds_and_images"])
def test_the_record_says_what_each_part_measures(case, over):
    truth, made = case
    record = compared(case, over=over)
    assert record["images"] == len(truth["images"])
    assert [record[key] for key in ("seeds", "resamples", "over", "level", "power")] == [[3, 1], 50, over, 0.95, 0.8]
    drawn = draw(50, len(truth["images"]), 2, over, seed=3)
    assert record["least_p"] == 1 / (1 + 50 * (1 if over == "images" else DRAWS))
    assert min(row["p"] for row in record["differences"]) >= record["least_p"]
    for name, entries in record["experiments"].items():
        runs = {run.seed: match(truth, run.detections) for run in made[name]}
        own = measure([runs[seed] for seed in SEEDS], drawn)
        for metric in METRICS:
            entry = entries[metric]
            assert entry["by_seed"] == own[metric].by_seed.tolist()
            low, high = own[metric].interval
            assert (entry["low"], entry["high"]) == (max(low, 0), min(high, 1)), "an AP is a share"
            assert entry["value"] == pytest.approx(np.mean(entry["by_seed"]))


def test_values_are_pycocotools(case):
    truth, made = case
    for name, entries in compared(case)["experiments"].items():
        for seed, run in zip(SEEDS, made[name], strict=True):
            expected = coco_ap.evaluate(truth, run.detections, 0.3).metrics
            for metric in METRICS:
                assert entries[metric]["by_seed"][SEEDS.index(seed)] == pytest.approx(expected[metric], abs=1e-12)


def test_differences_are_paired_by_seed_and_adjusted_within_baseline_and_metric(case):
    record = compared(case)
    rows, experiments = record["differences"], record["experiments"]
    named = [(row["baseline"], row["metric"], row["experiment"]) for row in rows]
    assert named == [
        (baseline, metric, rival) for baseline, rivals in PAIRS.items() for metric in METRICS for rival in rivals
    ]
    for row in rows:
        first, second = (experiments[row[side]][row["metric"]] for side in ("experiment", "baseline"))
        assert row["value"] == pytest.approx(first["value"] - second["value"])
        assert row["by_seed"] == pytest.approx(np.subtract(first["by_seed"], second["by_seed"]))
        assert row["low"] <= row["high"]
        assert row["smallest_effect"] > 0
        family = [other for other in rows if (other["baseline"], other["metric"]) == (row["baseline"], row["metric"])]
        adjusted = dict(zip([other["experiment"] for other in family], holm([o["p"] for o in family]), strict=True))
        assert row["p_holm"] == adjusted[row["experiment"]] >= row["p"]


def test_the_order_of_runs_and_experiments_changes_nothing(case):
    truth, made = case
    turned = {name: runs[::-1] for name, runs in reversed(made.items())}
    assert compared((truth, turned)) == compared(case)
    assert compared(case, pairs={"good": ["poor", "fair"]})["experiments"] == compared(case)["experiments"]


def test_two_baselines_are_compared_once(place):
    study, _ = place
    names = list(study.experiments)
    assert len(names) == 2
    assert comparisons(study, names) == {names[0]: names[1:]}
    assert comparisons(study, names[::-1]) == {names[1]: names[:1]}


def test_each_run_is_matched_and_resampled_once(case, monkeypatch):
    calls = []
    monkeypatch.setattr(paired, "match", lambda *given: calls.append("match") or match(*given))
    monkeypatch.setattr(paired, "measure", lambda *given: calls.append("measure") or measure(*given))
    compared(case)
    assert sorted(calls) == ["match"] * 6 + ["measure"] * 3


def test_images_of_crowds_alone_and_without_boxes_count_as_images():
    box = (10, 10, 40, 40)
    rows = [(1, 1, box), (2, 1, box), (3, 1, box), (4, 1, box), (5, 1, box, {"iscrowd": 1})]
    truth = truth_of(rows, images=range(1, 7))
    found = perfect(truth)
    on_crowd = detections_of([(5, 1, box, 0.99), (6, 1, box, 0.2)])
    runs = {"all": found, "more": Detections.concatenate([found, on_crowd])}
    made = {name: [Run(1, own, name)] for name, own in runs.items()}
    record = compare(truth, made.items(), [1], {"all": ["more"]}, 100, "images")
    assert record["images"] == 6
    for row in record["differences"]:
        assert (row["value"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)


BAD = "Detections that cannot be compared with others are refused, by file, experiment and seed"


@pytest.mark.promise(BAD, "bad input")
@pytest.mark.parametrize(("key", "kind"), [("image_id", "image"), ("category_id", "category")])
def test_detections_of_other_data_are_refused(case, key, kind):
    truth, made = case
    run = made["fair"][1]
    ids = getattr(run.detections, key).copy()
    ids[1] = 12345
    other = replace(run, detections=replace(run.detections, **{key: ids}))
    with refused(r"detections name (image|category) id 12345, not in the annotations .*`detect` command") as error:
        compared((truth, made | {"fair": [made["fair"][0], other]}))
    assert str(error.value).startswith("fair-1.npz (experiment fair, seed 1): ")
    assert f"{kind} id" in str(error.value)


@pytest.mark.promise(BAD, "bad input")
def test_a_run_without_detections_is_refused(case):
    truth, made = case
    none = replace(made["poor"][0], detections=detections_of([]))
    with refused("no detections at all; train for longer, or lower evaluate.score_threshold") as error:
        compared((truth, made | {"poor": [none, made["poor"][1]]}))
    assert str(error.value).startswith("poor-3.npz (experiment poor, seed 3): ")


@pytest.mark.promise(BAD, "bad input")
@pytest.mark.parametrize("kept", [0, 1])
def test_experiments_of_unequal_seeds_are_refused(case, kept):
    truth, made = case
    with refused(r"experiment fair has runs of the seeds \d, but all are compared at 1, 3; .* paired by seed") as error:
        compared((truth, made | {"fair": [made["fair"][kept]]}))
    assert f"the seeds {SEEDS[kept]}," in str(error.value)


ASKED = "A study that asks for intervals which its runs cannot give is refused"


@pytest.mark.promise(ASKED, "bad input")
def test_one_seed_is_refused_where_seeds_are_to_be_resampled(case):
    truth, made = case
    with refused("one seed says nothing of other seeds; give at least two"):
        compared((truth, {name: runs[:1] for name, runs in made.items()}), seeds=[3], over="seeds_and_images")


@pytest.mark.promise(ASKED, "bad input")
@pytest.mark.parametrize("resamples", [0, -5])
def test_no_resamples_are_refused(case, resamples):
    with refused(r"a bootstrap needs at least one of each: resamples is (0|-5); 1,000 resamples are usual"):
        compared(case, resamples=resamples)


@pytest.mark.promise(ASKED, "bad input")
@pytest.mark.parametrize("pairs", [{"god": ["fair"]}, {"good": ["fare"]}])
def test_a_comparison_with_what_is_no_experiment_is_refused(case, pairs):
    with refused("'(god|fare)' is to be compared, but is no experiment; did you mean '(good|fair)'"):
        compared(case, pairs=pairs)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A study of two seeds with annotations and detections."""
    monkeypatch.chdir(tmp_path)
    intervals = Intervals(resamples=40, over="images", baselines=("ce",))
    study = load_study(STUDY).model_copy(update={"seeds": (1, 2), "intervals": intervals})
    layout = Layout.of(study)
    truth, found = random_case(5)
    annotations = layout.annotations("val")
    annotations.parent.mkdir(parents=True)
    annotations.write_text(json.dumps(truth))
    for place, name in enumerate(study.experiments):
        for seed in study.seeds:
            thinned(found, seed + 10 * place, 0.8).save(layout.at_seed(seed).detections(name), annotations)
    return study, layout


def test_the_command_writes_the_record_of_all_experiments(place):
    study, layout = place
    paired.run(study, layout)
    record = json.loads(layout.intervals.read_text())
    assert record["study"] == study.name
    assert record["data"] == study.description
    assert record["seeds"] == [1, 2]
    assert list(record["experiments"]) == sorted(study.experiments)
    for name, entry in record["experiments"].items():
        assert (entry["label"], entry["detector"]) == (study.experiments[name].label, "retinanet")
    rows = record["differences"]
    assert {(row["experiment"], row["baseline"]) for row in rows} == {("focal-g2.0", "ce")}
    assert {row["label"] for row in rows} == {"focal, gamma 2"}
    before = layout.intervals.read_bytes()
    paired.run(study, layout)
    assert layout.intervals.read_bytes() == before


def test_the_command_says_which_file_is_of_other_data(place):
    study, layout = place
    path = layout.at_seed(2).detections("ce")
    detections_of([(99, 1, (1, 1, 5, 5), 0.5)]).save(path, layout.annotations("val"))
    with pytest.raises(UserError, match=f"^{path} \\(experiment ce, seed 2\\): detections name image id 99"):
        paired.run(study, layout)
    path.unlink()
    with pytest.raises(UserError, match=f"no detections at {path}"):
        paired.run(study, layout)


@pytest.mark.promise(ASKED, "bad input")
def test_the_command_wants_a_section(place):
    study, layout = place
    with refused(r"study \w+ has no section `intervals`; say there what is resampled and compared"):
        paired.run(study.model_copy(update={"intervals": None}), layout)
