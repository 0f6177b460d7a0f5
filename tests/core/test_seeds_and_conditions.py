"""Seeds and conditions of a study: what is the same in all of its runs, and what is refused."""

import csv
import json
import re
from itertools import product
from pathlib import Path

import pytest
import yaml
from promises import refused
from studies import merged, with_two_stages

from imbdet.figures import verdicts
from imbdet.layout import Layout
from imbdet.pipeline import Pipeline
from imbdet.settings import ShapesData
from imbdet.study_file import load_study, parse_study

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "pipeline" / "tiny.yaml"
WRONG = pytest.mark.promise("Seeds, intervals and sweeps that make no sense are refused", "bad input")
INTERVALS = {"resamples": 40, "over": "seeds_and_images", "baselines": ["ce"]}
OBJECTS = {"label": "objects an image", "experiments": ["focal-g2.0", "ce"], "points": {1: {"objects": [1, 1]}, 2: {}}}
TAIL = {
    "label": "exponent of the class frequencies",
    "experiments": ["ce", "ce-a0.5"],
    "points": {0.5: {"tail_exponent": 0.5}, 1: {}, 2: {"tail_exponent": 2.0, "classes": 5}},
}
CE = yaml.safe_load(TINY.read_text())["experiments"]["ce"]
HALF = {"ce-a0.5": CE | {"label": "half", "methods": {"dense": CE["methods"]["dense"] | {"alpha": 0.5}}}}
SWEEP = {"seeds": [3, 5], "intervals": INTERVALS, "experiments": HALF, "sweep": {"objects": OBJECTS, "tail": TAIL}}
CLEAR = {"report": {"cumulative_loss": [], "precision_recall": [], "detections": [], "gamma": []}}


def study(**changes):
    raw = merged(with_two_stages(yaml.safe_load(TINY.read_text())), changes)
    return parse_study(raw, name="mine", where="mine.yaml")


def paths(layout):
    """All paths of a layout, of an experiment and a detector called ``x``."""
    found = {}
    for name in (name for name in dir(Layout) if not name.startswith("_") and name not in ("of", "at_seed")):
        value = getattr(layout, name)
        found[name] = value("x") if callable(value) else value
    return {name: value for name, value in found.items() if isinstance(value, Path)}


def test_the_first_seed_is_that_of_single_runs():
    several = study(seeds=[4, 2])
    assert several.seed == 4
    assert several.at_seed(2).seeds == (2,)
    assert several.at_seed(2) == study(seeds=[2])
    assert Layout.of(several) == Layout.of(several.at_seed(4)) != Layout.of(several.at_seed(2))


def test_runs_of_two_seeds_share_no_file_and_all_else():
    layout = Layout.of(study(seeds=[4, 2]))
    one, other = paths(layout), paths(layout.at_seed(2))
    apart = {name for name in one if one[name] != other[name]}
    assert apart == {
        *("training", "loss_curve", "validation_curve", "evaluation", "precision_recall", "errors", "cumulative_loss"),
        *("candidates", "method_loss", "gradient_shares", "weights", "best_weights", "detections", "logits", "scratch"),
    }
    for name in apart:
        assert "seed-2" in str(other[name])
        assert str(one[name]) == str(other[name]).replace("seed-2", "seed-4")


def test_a_study_without_a_sweep_is_its_only_condition():
    plain = study()
    assert plain.conditions == {"": plain}
    assert plain.at_condition("") is plain


def test_each_point_of_a_sweep_is_a_plain_study_of_other_data():
    sweep = study(**SWEEP)
    assert list(sweep.conditions) == ["objects-1", "base", "tail-0.5", "tail-2"]
    for name, condition in sweep.conditions.items():
        assert condition.name == f"mine/{name}"
        assert condition.data.folder == f"data/demo/{name}"
        assert condition.seeds == (3, 5)
        assert condition.sweep == {}
        assert (condition.train, condition.evaluate) == (sweep.train, sweep.evaluate)
        own = {key for key in ShapesData.model_fields if getattr(condition.data, key) != getattr(sweep.data, key)}
        assert (
            own
            == {
                "base": {"folder"},
                "objects-1": {"folder", "objects"},
                "tail-0.5": {"folder", "tail_exponent"},
                "tail-2": {"folder", "tail_exponent", "classes"},
            }[name]
        )
    described = [condition.description.removeprefix(sweep.description) for condition in sweep.conditions.values()]
    words = "; exponent of the class frequencies"
    assert described == ["; objects an image 1", "", f"{words} 0.5", f"{words} 2"]


def test_a_condition_has_the_experiments_that_its_axes_want():
    conditions = study(**SWEEP).conditions
    assert list(conditions["objects-1"].experiments) == ["ce", "focal-g2.0"]
    assert list(conditions["objects-1"].detectors) == ["retinanet"]
    assert list(conditions["base"].experiments) == ["ce", "focal-g2.0", "ce-a0.5"]
    assert list(conditions["tail-2"].experiments) == ["ce", "ce-a0.5"]
    assert conditions["tail-2"].intervals.baselines == ("ce",)


def test_steps_of_a_sweep_are_those_of_its_conditions(tmp_path, monkeypatch):
    """And every training is declared once, with a seed, in a folder of its own."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "config").mkdir()
    raw = merged(with_two_stages(yaml.safe_load(TINY.read_text())), {**SWEEP, **CLEAR})
    (tmp_path / "config" / "mine.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline(Path("config/mine.yaml"))
    steps = list(pipeline.steps())
    outputs = [path for step in steps for path in step.outputs]
    assert len(outputs) == len(set(outputs))
    trained = [(step.condition, step.name, step.seed) for step in steps if step.rule == "train"]
    expected = [
        (condition, name, seed)
        for condition, plain in pipeline.study.conditions.items()
        for name in plain.experiments
        for seed in (3, 5)
    ]
    assert trained == expected
    assert [step.condition for step in steps if step.rule == "intervals"] == list(pipeline.study.conditions)
    assert {step.rule for step in steps} == {"data", "train", "detect", "evaluate", "intervals", "figure"}
    assert len(pipeline.stages()["stages"]) == len(steps)
    settings = {name: pipeline.settings("train", "ce", name) for name in pipeline.study.conditions}
    assert len(set(settings.values())) == len(settings)


VERDICT = {"report": {"verdicts": {"focal_over_ce": ["focal-g2.0", "ce"]}}}
REFUSED = {
    "a verdict without intervals": (VERDICT, r"report.verdicts.focal_over_ce compares .* not in intervals.baselines"),
    "a verdict across detectors": (
        {"intervals": INTERVALS | {"over": "images"}, "report": {"verdicts": {"claim": ["two-stage", "ce"]}}},
        r"report.verdicts.claim compares 'two-stage' with 'ce', which are not two of one detector",
    ),
    "a verdict on an unknown experiment": (
        {"report": {"verdicts": {"claim": ["focal", "ce"]}}},
        r"report.verdicts.claim names 'focal', not an experiment",
    ),
    "a seed twice": ({"seeds": [1, 2, 1]}, r"seeds has one of \[1, 2, 1\] twice"),
    "no seeds": ({"seeds": []}, r"seeds is \[\]: .*at least 1 item"),
    "a negative seed": ({"seeds": [1, -1]}, r"seeds.1 is -1: .*greater than or equal to 0"),
    "one seed resampled": ({"intervals": INTERVALS}, r"over is seeds_and_images, but seeds has 1 alone"),
    "no resamples": ({"intervals": INTERVALS | {"resamples": 0}}, r"intervals.resamples is 0: .*greater than or equal"),
    "another thing resampled": (
        {"intervals": INTERVALS | {"over": "classes"}},
        r"intervals.over is 'classes': .*'images' or 'seeds_and_images'",
    ),
    "an unknown baseline": (
        {"intervals": INTERVALS | {"baselines": ["cee"]}},
        r"intervals.baselines names 'cee', not an experiment; did you mean 'ce'",
    ),
    "no baseline": ({"intervals": INTERVALS | {"baselines": []}}, r"intervals.baselines is \[\]: .*at least 1 item"),
    "a baseline that is alone": (
        {"seeds": [1, 2], "intervals": INTERVALS | {"baselines": ["two-stage"]}},
        r"intervals.baselines names 'two-stage', the only experiment of faster_rcnn: nothing is left",
    ),
    "an axis without a baseline": (
        {**SWEEP, "sweep": {"objects": OBJECTS | {"experiments": ["ce", "two-stage"]}}},
        r"sweep.objects.experiments names 'two-stage', but no baseline of faster_rcnn to compare it with",
    ),
    "a sweep without intervals": ({"sweep": {"objects": OBJECTS}}, r"a sweep shows differences.*set intervals"),
    "an unknown experiment of an axis": (
        {**SWEEP, "sweep": {"objects": OBJECTS | {"experiments": ["focal"]}}},
        r"sweep.objects.experiments names 'focal', not an experiment",
    ),
    "an axis of one point": (
        {**SWEEP, "sweep": {"objects": OBJECTS | {"points": {1: {}}}}},
        r"sweep.objects.points: .*at least 2 items",
    ),
    "points of one name": (
        {
            **SWEEP,
            "sweep": {
                "objects": OBJECTS | {"points": {1.0000001: {"objects": [1, 1]}, 1.0000002: {"objects": [2, 2]}}}
            },
        },
        r"sweep.objects.points: 1.0000001 and 1.0000002 would both be called objects-1; choose values that differ",
    ),
    "an unknown property": (
        {**SWEEP, "sweep": {"objects": OBJECTS | {"points": {1: {}, 2: {"object": [1, 1]}}}}},
        r"sweep.objects.points.2, which replaces values of data: object: Extra inputs are not permitted",
    ),
    "an impossible value": (
        {**SWEEP, "sweep": {"objects": OBJECTS | {"points": {1: {}, 2: {"objects": [4, 1]}}}}},
        r"sweep.objects.points.2, which replaces values of data: .*smallest, largest",
    ),
    "a point that is no number": (
        {**SWEEP, "sweep": {"objects": OBJECTS | {"points": {"many": {}, 2: {"objects": [4, 4]}}}}},
        r"sweep.objects.points.many.* is 'many': .*valid number",
    ),
}


@WRONG
@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused(changes, message):
    with refused(f"mine.yaml: .*{message}|mine.yaml: {message}"):
        study(**changes)


@WRONG
def test_intervals_of_lvis_are_refused():
    raw = yaml.safe_load((ROOT / "config" / "lvis.yaml").read_text())
    raw["intervals"] = {"resamples": 40, "over": "images", "baselines": ["sigmoid"]}
    with refused("intervals are of COCO's AP, which LVIS does not have"):
        parse_study(raw, name="lvis", where="lvis.yaml")


@WRONG
def test_an_unknown_seed_or_condition_is_refused_with_those_that_are_known():
    with refused(r"study mine has no seed 7; its seeds are 3, 5"):
        study(**SWEEP).at_seed(7)
    with refused(r"study mine: no condition 'objects-2'; did you mean 'objects-1'\? Known: base, objects-1, tail-0\.5"):
        study(**SWEEP).at_condition("objects-2")
    with refused(
        r"study mine: it is a sweep; choose one of its conditions with --condition: objects-1, base, tail-0\.5"
    ):
        study(**SWEEP).at_condition("")
    with refused(r"study mine: no condition 'base'"):
        study().at_condition("base")


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_can_be_read(path):
    study = load_study(path)
    assert re.fullmatch(r"[\w-]+", study.name)
    assert all(condition.experiments for condition in study.conditions.values())


def test_the_demo_with_seeds_is_the_demo():
    """But for what it says it is not: then weights of the first seed are the demo's."""
    demo, seeds = (load_study(ROOT / "config" / f"{name}.yaml") for name in ("demo", "demo-seeds"))
    assert seeds.data == demo.data.model_copy(update={"folder": seeds.data.folder})
    assert (seeds.description, seeds.train, seeds.evaluate) == (demo.description, demo.train, demo.evaluate)
    assert seeds.detectors["retinanet"] == demo.detectors["retinanet"]
    assert len(seeds.experiments) >= 4
    for name, experiment in seeds.experiments.items():
        assert experiment == demo.experiments[name]
    assert seeds.seed == demo.seed
    assert len(seeds.seeds) >= 3


def test_the_demo_with_seeds_has_the_weights_of_the_demo():
    demo, seeds = (load_study(ROOT / "config" / f"{name}.yaml") for name in ("demo", "demo-seeds"))
    for name in seeds.experiments:
        records = [json.loads((ROOT / Layout.of(study).training(name)).read_text()) for study in (demo, seeds)]
        assert records[0]["weights_sha256"] == records[1]["weights_sha256"]


def test_the_study_of_gamma_is_a_grid_with_the_data_and_the_detector_of_claims():
    study, claims = (load_study(ROOT / "config" / f"{name}.yaml") for name in ("gamma", "claims"))
    assert study.data == claims.data.model_copy(update={"folder": "data/gamma"})
    assert study.detectors == {"retinanet": claims.detectors["retinanet"]}
    assert (study.train, study.evaluate) == (claims.train, claims.evaluate)
    assert claims.seeds[: len(study.seeds)] == study.seeds
    assert study.report.gamma == tuple(study.experiments)
    plain = claims.experiments["focal-g2"].method
    places = []
    for name, experiment in study.experiments.items():
        method = experiment.method
        places.append((method.get("gamma", 0), method["alpha"]))
        for key in ("prior_prob", "normalizer", "box_beta"):
            assert method[key] == plain[key]
        assert (name in study.intervals.baselines) == (method["name"] == "cross_entropy") == (places[-1][0] == 0)
    assert places == list(product((0, 0.5, 1, 2, 5), (0.25, 0.5, 0.75)))


def test_the_study_of_claims_has_every_claim_and_the_methods_of_the_demo():
    """But for what its header names."""
    claims, demo = (load_study(ROOT / "config" / f"{name}.yaml") for name in ("claims", "demo"))
    with verdicts.CLAIMS.open(encoding="utf-8", newline="") as file:
        assert set(claims.report.verdicts) == {row["claim"] for row in csv.DictReader(file)}
    assert len(claims.seeds) >= 5
    changed = {
        "ohem": {"nms_iou": 0.7},
        "faster-ohem": {"per_image": 64},
        "faster-eql": {"tail_ratio": 0.1, "score_threshold": None},
    }
    for name, experiment in claims.experiments.items():
        own = experiment.methods
        stage = list(own)[-1]
        assert own == demo.experiments[name].methods | {stage: own[stage]}
        assert own[stage] == demo.experiments[name].methods[stage] | changed.get(name, {}), name
