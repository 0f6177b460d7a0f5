"""Experiments and records for the figures across methods and of single papers, on two detectors; all seeded."""

from typing import Any

import numpy as np
import pandas as pd

from imbdet.config import Study
from imbdet.evaluation.cumulative import cumulative
from imbdet.figures import analytic

ROWS = 150  # of either kind in a table of candidates
CLASSES = 6
TAIL = (4, 5)  # labels
LABELS = {  # of methods on the one-stage detector
    "ohem_dense": "OHEM",
    "ssd_hard_negatives": "SSD negatives",
    "noisy_anchors": "Noisy Anchors",
    "sample_weighting": "SWN",
    "pisa": "PISA",
}
TWO_STAGE = {
    "cross_entropy": "two-stage CE",
    "focal": "two-stage FL",
    "ohem": "two-stage OHEM",
    "sample_weighting": "two-stage SWN",
    "pisa": "two-stage PISA",
    "equalization": "two-stage EQL",
    "equalization_softmax": "two-stage softmax EQL",
}
PARAMETERS = {
    "ohem_dense": {"per_image": 128, "nms_iou": 0.5, "one_to_three": False},
    "ohem": {"per_image": 16, "nms_iou": 0.7},
    "cross_entropy": {"activation": "softmax", "alpha": None},
    "focal": {"alpha": 0.25, "gamma": 2.0},
    "equalization": {"threshold": None, "tail_ratio": 0.0908},
}


def experiments() -> dict[str, Any]:
    """One of each method on either detector, sigmoid cross entropy in two stages, and OHEM 1:3."""
    dense = {name: _experiment(label, "retinanet", name) for name, label in LABELS.items()}
    dense["ohem-1-3"] = _experiment("OHEM 1:3", "retinanet", "ohem_dense", one_to_three=True)
    two_stage = {f"two-{name}": _experiment(label, "faster_rcnn", name) for name, label in TWO_STAGE.items()}
    sigmoid = _experiment("two-stage sigmoid CE", "faster_rcnn", "cross_entropy", activation="sigmoid")
    return {**dense, **two_stage, "two-sigmoid": sigmoid}


def _experiment(label: str, detector: str, name: str, **parameters: Any) -> dict[str, Any]:
    method = {"name": name, **PARAMETERS.get(name, {}), **parameters}
    rpn = {"name": "cross_entropy", "activation": "sigmoid"}
    methods = {"dense": method} if detector == "retinanet" else {"rpn": rpn, "roi": method}
    return {"label": label, "detector": detector, "methods": methods}


def report() -> dict[str, Any]:
    """The lists of a study's report that name them; ``ce`` and ``focal-g2`` are experiments of their own."""
    two_stage = [f"two-{name}" for name in TWO_STAGE]
    return {
        "methods": ["ce", "focal-g2", *LABELS, *two_stage],
        "ohem": ["ohem_dense", "ohem-1-3", "focal-g2"],
        "noisy_anchors": ["noisy_anchors"],
        "sample_weighting": ["sample_weighting", "two-sample_weighting"],
        "pisa": ["pisa", "two-pisa"],
        "equalization": ["two-sigmoid", "two-cross_entropy", "two-equalization", "two-equalization_softmax"],
        "equalization_lambda": ["two-sigmoid", "two-equalization"],
        "noisy_anchors_gain": ["focal-g2", "noisy_anchors"],
        "pisa_gain": ["focal-g2", "pisa", "two-cross_entropy", "two-pisa"],
        "funnel": ["two-cross_entropy"],
    }


def terms(made: Study, name: str) -> list[str]:
    """The terms of an experiment's loss, but for the two that all one-stage detectors have."""
    method = made.experiments[name].method["name"]
    own = {"pisa": ["carl"], "sample_weighting": ["regularizer"]}.get(method, [])
    if made.experiments[name].detector == "retinanet":
        return own
    both = [f"{stage}_{term}" for stage in ("rpn", "roi") for term in ("classification", "box_regression")]
    return [*both, *(f"roi_{term}" for term in own)]


def candidates(made: Study, name: str, index: int) -> pd.DataFrame:
    """How a method treats each of a few candidates: the true weights of its kind of method, on drawn logits."""
    method = made.experiments[name].method
    rng = np.random.default_rng([1, index])
    foreground = np.arange(2 * ROWS) < ROWS
    x_t = np.where(foreground, rng.normal(0.5, 2, 2 * ROWS), rng.normal(5, 2, 2 * ROWS))
    prior = np.where(foreground, rng.uniform(0.5, 0.9, 2 * ROWS), rng.uniform(0, 0.4, 2 * ROWS))
    fit = np.where(foreground, np.clip(prior + 0.08 * x_t * rng.uniform(0, 1, 2 * ROWS), 0, 0.99), 0)
    weight = np.ones(2 * ROWS)
    if "gamma" in method and method["name"] != "focal_star":
        slopes = analytic.focal_loss_slope(x_t, method["gamma"]) / analytic.cross_entropy_slope(x_t)
        weight = np.where(foreground, 0.25, 0.75) * slopes
    table = pd.DataFrame(
        {
            "class": np.where(foreground, rng.choice(CLASSES, 2 * ROWS, p=(0.4, 0.2, 0.15, 0.12, 0.08, 0.05)), -1),
            "p_t": analytic.sigmoid(x_t),
            "prior_iou": prior,
            "predicted_iou": fit,
            "effective_weight": weight,
            "loss": weight * analytic.cross_entropy(x_t),
            "represents": np.where(foreground, 2.0, 900.0),
            "set": np.where(foreground, "foreground", "background"),
        }
    )
    return table.assign(**_own(method["name"], table, rng)).pipe(_selected).round(5)


def _own(method: str, table: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """What a method says of itself."""
    foreground, fit = table["set"] == "foreground", table["predicted_iou"]
    rank = (fit.rank(ascending=False) - 1).where(foreground, -1)
    weight = ((ROWS - rank) / ROWS).where(foreground, 1.0) ** 2
    clean = 0.75 * fit + 0.25 * table["p_t"]
    learned = {
        "class_weight": 1.2,
        "box_weight": (2 * fit).where(foreground, 0),
        "class_loss": table["loss"],
        "iou": fit,
    }
    noisy = {"localization": fit, "score": table["p_t"].where(foreground, 0), "cleanliness": clean, "soft_label": clean}
    suppressed = (2 - table["class"].isin(TAIL)).where(foreground, 0)
    return {
        "ohem_dense": {"selected": (table["loss"].rank(ascending=False) < ROWS).astype(float)},
        "ohem": {"selected": (table["loss"].rank(ascending=False) < ROWS).astype(float)},
        "ssd_hard_negatives": {"selected": (foreground | (table["loss"] > table["loss"].median())).astype(float)},
        "noisy_anchors": noisy,
        "sample_weighting": learned,
        "pisa": {"rank": rank, "class_weight": weight, "iou": fit, "effective_weight": weight},
        "equalization": {"suppressed": suppressed},
        "equalization_softmax": {"suppressed": 0.9 * suppressed},
    }.get(method, {})


def _selected(table: pd.DataFrame) -> pd.DataFrame:
    """What is not selected weighs nothing."""
    if "selected" not in table:
        return table
    return table.assign(**{name: table[name] * table["selected"] for name in ("effective_weight", "loss")})


def method_loss(table: pd.DataFrame) -> pd.DataFrame:
    """The curves of a table of candidates."""
    return pd.concat(cumulative(rows["loss"].to_numpy()).assign(set=kind) for kind, rows in table.groupby("set"))


def gradient_shares(made: Study, name: str) -> pd.DataFrame:
    """Shares of the gradient, the harder the more with gamma; the tail is spared by the Equalization Loss alone."""
    method = made.experiments[name].method
    gamma, equalization = method.get("gamma", 0), method["name"].startswith("equalization")
    sets = ("foreground", "background", "other classes")
    logits = np.array([[3e-4, 2e-4, 1e-4], [2e-4, 2e-3, 0.97], [1e-5, 2e-4, 0.02719]])
    gradient = logits * np.array([0.9, 0.3, 3e-3]) ** (1 + gamma / 2) * np.array([[4], [1], [1]])
    parts = [_shares(sets, "difficulty", ("hard", "middling", "easy"), logits, gradient, gradient)]
    frequency = np.array([0.4, 0.2, 0.15, 0.12, 0.08, 0.05])
    plain = np.array([frequency, 0.3 + 0 * frequency, 0.4 * (1 - frequency)])
    spared = np.ones_like(plain)
    if equalization:
        spared[2, TAIL] = 0.1 if method["name"] == "equalization_softmax" else 0
    parts.append(_shares(sets, "class", range(CLASSES), np.ones_like(plain), plain * spared, plain))
    return pd.concat(parts)


def _shares(sets: Any, by: str, values: Any, logits: Any, gradient: Any, plain: Any) -> pd.DataFrame:
    rows = [(kind, by, value) for kind in sets for value in values]
    columns = {"logits": logits / logits.sum(), "gradient": gradient / gradient.sum()}
    columns["cross_entropy"] = plain / gradient.sum()
    flat = {name: array.ravel() for name, array in columns.items()}
    return pd.DataFrame(rows, columns=["set", "by", "value"]).assign(**flat)


def funnel() -> dict[str, Any]:
    """Counts that a hand can check: 1 foreground to 400, 3, 9 and 3 of background."""
    stations = {
        "anchors": (8, 3200, 100),
        "RPN sample": (8, 24, 0),
        "proposals": (10, 90, 2.5),
        "RoI sample": (8, 24, 0),
    }
    rows = [{"name": n, "foreground": f, "background": b, "ignored": i} for n, (f, b, i) in stations.items()]
    return {"study": "fabricated", "experiment": "two-cross_entropy", "images": 60, "stations": rows}


def structure() -> dict[str, Any]:
    """A Faster R-CNN on images of 128 pixels, its pyramid from P2 to P6."""
    heads = [
        {"name": "rpn", "convs": 1, "channels": 32, "norm": "none", "outputs": "3 x (1 + 4)"},
        {"name": "roi", "pool": 7, "layers": 2, "channels": 128, "outputs": "7 + 6 x 4"},
    ]
    about = {"name": "faster_rcnn", "parameters": 612345, "p6_source": "pool"}
    return network(about, lowest=2, widest=128, heads=heads)


def network(about: dict[str, Any], lowest: int, widest: int, heads: list[dict[str, Any]]) -> dict[str, Any]:
    """The structure of a detector: stages of the backbone up to C5, of ``widest`` channels, and five levels."""

    def level(name: str, number: int, channels: int) -> dict[str, Any]:
        side = 128 >> number
        return {"name": f"{name}{number}", "stride": 2**number, "channels": channels, "shape": [side, side]}

    def pyramid(number: int) -> dict[str, Any]:
        made = level("P", number, 32)
        sides = [12 * 2 ** (number - lowest) / 2**0.5, 12 * 2 ** (number - lowest) * 2**0.5]
        return {**made, "anchors_per_location": 3, "anchors": 3 * made["shape"][0] ** 2, "anchor_sides": sides}

    return {
        "study": "fabricated",
        **about,
        "backbone": "tiny",
        "image": [128, 128],
        "backbone_levels": [level("C", number, widest >> (5 - number)) for number in range(lowest, 6)],
        "levels": [pyramid(number) for number in range(lowest, lowest + 5)],
        "heads": heads,
    }
