"""AP on the val split while a detector trains, if ``train.evaluate_every`` asks for it.

Reported numbers stay those of the last weights: these rows are for looking at, and the best weights on the val split
are chosen by it, so that their AP there is no estimate. Training neither draws for it nor sees it.
"""

import importlib
from typing import Any

import torch

from imbdet.config import Study
from imbdet.data.coco import read_json
from imbdet.data.loader import EvaluationBatches
from imbdet.layout import Layout
from imbdet.training.checkpoint import State


def validate(study: Study, layout: Layout, experiment: str, state: State, device: torch.device) -> bool:
    """Append a row (step, AP, AP50, AP75) to the state's; return whether its AP is the best so far."""
    # Found by name: a change of code that evaluates is no change of what a training gives.
    detect, fast = (importlib.import_module(f"imbdet.evaluation.{name}") for name in ("detect", "fast"))
    state.model.eval()
    batches = EvaluationBatches(study, layout, experiment, "val")
    detections = detect.detect_all(state.model, batches, study.evaluate, device)
    state.model.train()
    truth: dict[str, Any] = read_json(layout.annotations("val"))
    scores = fast.average_precision(truth, detections, study.evaluate.detections_per_image, study.data.rules)
    before = [_ap(row) for row in state.validation]
    state.validation.append({"step": state.step} | {key: scores[key] for key in ("AP", "AP50", "AP75")})
    return _ap(state.validation[-1]) > max(before, default=-2.0)


def _ap(row: dict[str, float | None]) -> float:
    """AP to compare; where no class has a box there is none, and all weights are equally good."""
    return -1.0 if row["AP"] is None else row["AP"]
