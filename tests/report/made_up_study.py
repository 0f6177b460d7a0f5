"""A study for the tests of the page: two seeds, three experiments, labels that would break a careless page."""

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from studies import merged, with_two_stages

from imbdet.evaluation.errors import ERRORS
from imbdet.layout import Layout
from imbdet.study_file import parse_study

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
HOSTILE = """<b>A&B</b> "quoted" 'too' </script><script>hacked = 1</script><img src=x onerror="hacked=1">"""
CLASSES = ("disc", "<i>square</i>", "tri & angle")
METRICS = ("AP", "AP50", "AP75", "AP90", "AP_small", "AP_medium", "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium")
KEYS = ("AP", "AP50", "AP75")


def study(**changes):
    """The study, with some of its values changed."""
    raw = with_two_stages(yaml.safe_load(TINY.read_text()))
    ours = {
        "description": "made up <u>for</u> a test",
        "seeds": [1, 2],
        "intervals": {"resamples": 50, "over": "seeds_and_images", "baselines": ["ce"]},
        "experiments": {"focal-g2.0": {"label": HOSTILE}},
    }
    return parse_study(merged(merged(raw, ours), changes), name="made-up", where="made-up")


def write(made):
    """All records of all its runs that the page shows, under the current folder; numbers are drawn, seeded."""
    for condition, plain in made.conditions.items():
        for place, name in enumerate(plain.experiments):
            for seed in plain.seeds:
                write_run(plain, name, seed, np.random.default_rng([place, seed, len(condition)]))
        layout = Layout.of(plain)
        write_json(layout.manifest, manifest())
        write_json(layout.validation, validation())
        write_json(layout.intervals, intervals(plain))
    write_json(Layout.of(made).examples, examples(made))


def write_run(plain, name, seed, rng):
    layout, about = Layout.of(plain).at_seed(seed), {"study": plain.name, "experiment": name}
    values = {key: float(rng.uniform(0, 0.9)) for key in METRICS} | {"AP_large": None}
    per_class = [
        {"category_id": 1 + i, "name": c, "AP": float(rng.uniform(0, 0.9)), "boxes": 30 - 10 * i}
        for i, c in enumerate(CLASSES)
    ]
    per_class[2]["AP"] = None if name == "ce" else per_class[2]["AP"]
    common = {"label": plain.experiments[name].label, "detector": plain.experiments[name].detector, "seed": seed}
    # What figures.results needs besides
    counted = {"images": 8, "data": plain.description, "method": plain.experiments[name].method}
    write_json(layout.evaluation(name), {**about, **common, **counted, **values, "per_class": per_class})
    cost = {kind: float(rng.uniform(0, 0.2)) for kind in ERRORS}
    special = {"false_positive": 0.25, "false_negative": None}
    write_json(layout.errors(name), {**about, **common, "cost": cost, "special": special})
    seconds = (95, 8, 700)[list(plain.experiments).index(name) % 3]
    write_json(layout.training(name), {**about, **training(seed, seconds, rng)})


def training(seed, seconds, rng):
    """A training on a CPU of about so many seconds, which would sort in another way as text."""
    return {
        "code": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": seed == 2},
        "config": {"seed": seed},
        "hardware": {"cores": 2, "cpu": "a processor", "device": "cpu", "processes": 1, "threads": 1},
        "measured": {
            "finished": "2026-01-02T03:04:05Z",
            "images_per_second": float(rng.uniform(1, 200)),
            "peak_memory_mb": {"host": int(rng.integers(90, 2000))},
            "seconds": float(seconds + rng.uniform(0, 1)),
        },
        "steps": 8,
        "versions": {"python": "3.11.0", "torch": "2.0"},
    }


def manifest():
    part = {"images": 24, "boxes": 60, "boxes_by_class": {"1": 30, "2": 20, "3": 10}}
    return {"splits": {"train": part, "val": {**part, "images": 8}}}


def validation():
    found = {"zero_size": {"count": 3, "ids": [1, 2, 3], "policy": "drop"}}
    return {"splits": {"train": {"images": 24, "images_kept": 23, "defects": found}}}


def intervals(plain):
    rng = np.random.default_rng(7)
    names = [name for name, one in plain.experiments.items() if one.detector == plain.experiments["ce"].detector]

    def entry():
        value = float(rng.normal(0, 0.1))
        return {"value": value, "low": value - 0.03, "high": value + 0.03, "by_seed": [value - 0.01, value + 0.01]}

    def about(name):
        return {"label": plain.experiments[name].label, "detector": plain.experiments[name].detector}

    tested = {"p": 0.01, "p_holm": 0.03, "smallest_effect": 0.025, "baseline": "ce"}
    rivals = [name for name in names if name != "ce"]
    return {
        **{"study": plain.name, "images": 8, "seeds": list(plain.seeds), "resamples": 50, "over": "seeds_and_images"},
        **{"level": 0.95, "power": 0.8, "least_p": 0.001},
        "experiments": {name: {**about(name), **{key: entry() for key in KEYS}} for name in names},
        "differences": [
            {"experiment": name, "metric": key, **about(name), **tested, **entry()} for name in rivals for key in KEYS
        ],
    }


def examples(made):
    """Two images, on which each method finds boxes with the scores .9, .6 and .4."""
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 90)).save(buffer, format="PNG")
    truth = [{"category_id": 1, "bbox": [5, 5, 20, 20]}, {"category_id": 2, "bbox": [30, 30, 20, 20]}]
    found = [{"category_id": 1, "bbox": [6, 6, 20, 20], "score": score} for score in (0.9, 0.6, 0.4)]
    about = {"width": 64, "height": 64, "pixels": base64.b64encode(buffer.getvalue()).decode(), "ground_truth": truth}
    detections = dict.fromkeys(made.report.detections, found)
    return {
        "categories": {str(place + 1): name for place, name in enumerate(CLASSES)},
        "images": [{"image_id": place, **about, "detections": detections} for place in (3, 8)],
    }


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
