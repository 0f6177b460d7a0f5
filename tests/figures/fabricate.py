"""Records of a study that never ran, in the formats of real ones: smooth curves and drawn numbers, all seeded."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import fabricate_methods
import numpy as np
import pandas as pd
import yaml
from PIL import Image

from imbdet.config import Study
from imbdet.evaluation.cumulative import cumulative_table
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.errors import analyse
from imbdet.evaluation.paired import comparisons
from imbdet.layout import Layout
from imbdet.study_file import parse_study

DEMO = Path(__file__).parents[2] / "config" / "demo.yaml"
CLASSES = ("disc", "square", "triangle", "star", "cross", "ring")
PANELS = ("ce-a0.75", "focal-g2")


def _experiment(label: str, method: str, **parameters: Any) -> dict[str, Any]:
    common = {"prior_prob": 0.01, "normalizer": "batch", "box_beta": 0.0}
    return {"label": label, "detector": "retinanet", "methods": {"dense": {"name": method, **common, **parameters}}}


def _experiments() -> dict[str, Any]:
    made = {"ce": _experiment("CE", "cross_entropy", activation="sigmoid", alpha=None)}
    for alpha in (0.25, 0.5, 0.75, 0.9):
        made[f"ce-a{alpha}"] = _experiment(f"CE, α {alpha}", "cross_entropy", activation="sigmoid", alpha=alpha)
    for gamma in (0.5, 1, 2, 5):
        made[f"focal-g{gamma}"] = _experiment(f"focal, γ {gamma}", "focal", alpha=0.25, gamma=gamma)
    for gamma, beta in ((2, 1), (4, 0)):
        label = f"FL*, γ {gamma}, β {beta}"
        made[f"focal-star-g{gamma}-b{beta}"] = _experiment(label, "focal_star", alpha=0.25, gamma=gamma, beta=beta)
    return made | fabricate_methods.experiments()


def raw_study() -> dict[str, Any]:
    """The fabricated study as a mapping: the demo with other experiments, description and seed."""
    return {
        **yaml.safe_load(DEMO.read_text()),
        "description": "fabricated numbers for a test",
        "seeds": [7],
        "intervals": {"resamples": 1000, "over": "images", "baselines": ["ce"]},
        "report": {
            "cumulative_loss": ["focal-g2"],
            "precision_recall": ["ce", "ce-a0.75", "focal-g2", "focal-star-g2-b1"],
            "detections": list(PANELS),
            "gamma": ["ce-a0.75", "focal-g0.5", "focal-g1", "focal-g2", "focal-g5"],
            "alpha": ["ce", "ce-a0.25", "ce-a0.5", "ce-a0.75", "ce-a0.9"],
            "focal_star": ["ce-a0.75", "focal-g2", "focal-star-g2-b1", "focal-star-g4-b0"],
            "verdicts": {"focal_over_alpha_ce": ["focal-g2", "ce"], "focal_over_ohem": ["focal-g1", "ce"]},
            **fabricate_methods.report(),
        },
        "experiments": _experiments(),
    }


def study(**changes: Any) -> Study:
    """The fabricated study, with top-level keys replaced."""
    return parse_study({**raw_study(), **changes}, name="fabricated", where="fabricated")


def write(made: Study, layout: Layout) -> None:
    """Write every record that figures read, under the current folder."""
    _json(layout.manifest, {"splits": {"train": {"images": 60}, "val": {"images": 20}}})
    for name in made.detectors:
        _json(layout.census(name), census())
        _json(layout.structure(name), structure() if name == "retinanet" else fabricate_methods.structure())
    for index, (name, experiment) in enumerate(made.experiments.items()):
        about = {"study": made.name, "experiment": name, "label": experiment.label, "seed": made.seed}
        _csv(layout.loss_curve(name), loss_curve(index, fabricate_methods.terms(made, name)))
        _json(layout.evaluation(name), {**about, **evaluation(made, name, index)})
        config = {"detector": made.detector(name).model_dump(mode="json"), "methods": dict(experiment.methods)}
        _json(layout.training(name), {"config": config})
        _csv(layout.precision_recall(name), precision_recall(index))
        candidates = fabricate_methods.candidates(made, name, index)
        _csv(layout.candidates(name), candidates)
        _csv(layout.method_loss(name), fabricate_methods.method_loss(candidates))
        _csv(layout.gradient_shares(name), fabricate_methods.gradient_shares(made, name))
        for seed in made.seeds:
            found = {**about, "detector": experiment.detector, "seed": seed, **errors(index, seed)}
            _json(layout.at_seed(seed).errors(name), found)
    _json(layout.intervals, intervals(made))
    _json(layout.funnel, fabricate_methods.funnel())
    _csv(layout.cumulative_loss("focal-g2"), cumulative_loss())
    _json(layout.examples, examples())


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _csv(path: Path, data: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_csv(path, index=False)


def census() -> dict[str, Any]:
    levels = []
    for level, (side, foreground) in enumerate(((16, 6.25), (8, 5.5), (4, 2.0), (2, 0.5), (1, 0.0))):
        anchors = 3 * side * side
        counts = {"foreground": foreground, "ignored": 2.5 * foreground, "background": anchors - 3.5 * foreground}
        levels.append({"name": f"P{level + 3}", "stride": 8 * 2**level, "anchors": anchors, **counts})
    boxes = (2210, 700, 333, 201, 140, 100)
    classes = [{"id": i + 1, "name": name, "boxes": boxes[i], "images": 9} for i, name in enumerate(CLASSES)]
    return {"study": "fabricated", "images": 60, "levels": levels, "classes": classes}


def structure() -> dict[str, Any]:
    """A RetinaNet on images of 128 pixels, its pyramid from P3 to P7."""
    heads = [
        {"name": name, "convs": 4, "channels": 32, "norm": "group", "outputs": f"3 x {outputs}"}
        for name, outputs in (("classification", 6), ("box_regression", 4))
    ]
    about = {"name": "retinanet", "parameters": 412345, "p6_source": "c5"}
    return fabricate_methods.network(about, lowest=3, widest=128, heads=heads)


def loss_curve(index: int, further: list[str]) -> pd.DataFrame:
    """Falling curves; of a detector with two stages ``further`` names all terms, else those beside the usual two."""
    rng = np.random.default_rng(index)
    step = np.arange(20, 601, 20)
    names = further if "rpn_classification" in further else ["classification", "box_regression", *further]
    terms = {}
    for name in names:
        scale = -0.5 if name.endswith("regularizer") else 0.7 if "box" in name else 1 + 0.1 * index
        terms[name] = scale * (0.2 + np.exp(-step / 150)) * np.exp(rng.normal(0, 0.15, len(step)))
    return pd.DataFrame({"step": step, "learning_rate": 0.02, **terms, "total": sum(terms.values())})


def evaluation(made: Study, name: str, index: int) -> dict[str, Any]:
    keys = ("AP", "AP50", "AP75", "AP90", "AP_small", "AP_medium", "AR_100")
    metrics = {key: round(0.25 + 0.01 * index + 0.04 * place, 4) for place, key in enumerate(keys)}
    return {
        "detector": made.experiments[name].detector,
        "method": made.experiments[name].method,
        "data": made.description,
        "images": 20,
        "boxes": 77,
        **metrics,
        "AP_large": None,
        "per_class": [
            {"category_id": place + 1, "name": shape, "AP": None if place == 3 else round(0.6 - 0.1 * place, 3)}
            for place, shape in enumerate(CLASSES)
        ],
        "operating_point": {"score": 0.3, "counts": []},
    }


def intervals(made: Study) -> dict[str, Any]:
    """Accuracies of 20 images, and differences from small to sure."""
    settings, seeds, metrics = made.intervals, made.seeds, ("AP", "AP50", "AP75")
    rng = np.random.default_rng(11)
    values = {name: 0.3 + rng.normal(0, 0.02, (len(metrics), 1)) for name in made.experiments}
    values = {name: mean + rng.normal(0, 0.006, (len(metrics), len(seeds))) for name, mean in values.items()}
    about = {name: {"label": chosen.label, "detector": chosen.detector} for name, chosen in made.experiments.items()}
    compared = comparisons(made, settings.baselines)
    pairs = [(baseline, name) for baseline, rivals in compared.items() for name in rivals]
    return {
        "study": made.name,
        "data": made.description,
        "images": 20,
        "seeds": list(seeds),
        **{"resamples": settings.resamples, "over": settings.over, "level": 0.95, "power": 0.8},
        "least_p": 1 / (1 + settings.resamples),
        "experiments": {
            name: about[name] | {metric: _interval(own, 0.03) for metric, own in zip(metrics, rows, strict=True)}
            for name, rows in values.items()
        },
        "differences": [
            {"experiment": name, "baseline": baseline, "metric": metric, **about[name], **_tested(own, rng)}
            for baseline, name in pairs
            for metric, own in zip(metrics, values[name] - values[baseline], strict=True)
        ],
    }


def _interval(by_seed: np.ndarray, half: float) -> dict[str, Any]:
    value = float(by_seed.mean())
    return {"value": value, "low": value - half, "high": value + half, "by_seed": by_seed.tolist()}


def _tested(by_seed: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    half = float(rng.uniform(0.008, 0.025))
    own = _interval(by_seed, half)
    p = float(np.exp(-3 * (own["value"] / half) ** 2))
    return {**own, "p": p, "p_holm": min(1.0, 4 * p), "smallest_effect": 1.43 * half}


def errors(index: int, seed: int) -> dict[str, Any]:
    """What the analysis says of one set of boxes, found by each experiment and seed with errors of its own."""
    rng = np.random.default_rng(1)
    image, label = rng.integers(1, 21, 60), rng.integers(1, 1 + len(CLASSES), 60)
    bbox = np.hstack([rng.uniform(0, 90, (60, 2)), rng.uniform(12, 38, (60, 2))])
    keys = ("image_id", "category_id", "bbox")
    truth = {
        "images": [{"id": i} for i in range(1, 21)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": [dict(zip(keys, row, strict=True)) for row in zip(image, label, bbox.tolist(), strict=True)],
    }
    rng = np.random.default_rng([index, seed])
    source, noise = rng.integers(0, 60, 150), rng.normal(0, 0.2, (150, 4))
    guess = np.where(rng.random(150) < 0.2, rng.integers(1, 1 + len(CLASSES), 150), label[source])
    score = np.exp(-3 * np.abs(noise).mean(axis=1) - rng.exponential(0.5, 150))
    moved = np.abs(bbox[source] * (1 + noise))
    return analyse(truth, Detections(image[source], guess, moved.astype(np.float32), score.astype(np.float32)))


def precision_recall(index: int) -> pd.DataFrame:
    recall = np.linspace(0, 1, 101)
    parts = []
    for place, iou in enumerate(("0.5", "0.75", "0.9", "mean")):
        reach = 0.9 - 0.15 * place - 0.02 * index
        precision = np.clip(1 - (recall / reach) ** 3, 0, 1)
        parts.append(pd.DataFrame({"iou": iou, "recall": recall, "precision": precision}))
    return pd.concat(parts)


def cumulative_loss() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    foreground, background = rng.normal(0.5, 2, 1000), rng.normal(6, 1.8, 100_000)
    return cumulative_table(foreground.astype(np.float32), background.astype(np.float32))


def examples() -> dict[str, Any]:
    return {
        "study": "fabricated",
        "categories": {str(index + 1): name for index, name in enumerate(CLASSES)},
        "images": [_example(index) for index in range(6)],
    }


def _example(index: int) -> dict[str, Any]:
    rng = np.random.default_rng(index)
    pixels = rng.integers(60, 120, (128, 128, 3), dtype=np.uint8)
    truth = []
    for _ in range(1 + index):
        x, y = rng.uniform(0, 90, 2)
        w, h = rng.uniform(12, 38, 2)
        pixels[int(y) : int(y + h), int(x) : int(x + w)] = rng.integers(0, 255, 3)
        truth.append({"category_id": int(rng.integers(1, 7)), "bbox": [x, y, w, h]})
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return {
        "image_id": 10 + index,
        "width": 128,
        "height": 128,
        "pixels": base64.b64encode(buffer.getvalue()).decode(),
        "ground_truth": truth,
        "detections": {name: [_found(box, rng) for box in truth] for name in PANELS},
    }


def _found(box: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    moved = (np.asarray(box["bbox"]) + rng.normal(0, 2, 4)).tolist()
    return {"category_id": box["category_id"], "bbox": moved, "score": float(rng.uniform(0.2, 1))}
