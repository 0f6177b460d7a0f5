"""Experiments of one detector start from the same weights, wherever shapes agree: only the method differs."""

from pathlib import Path

import pytest
import torch

from imbdet.data.facts import Facts
from imbdet.detectors import build_detector
from imbdet.study_file import load_study

DEMO = load_study(Path(__file__).resolve().parents[2] / "config" / "demo.yaml")
LAST_LAYERS = ("cls_logits", "cls_score")  # their columns and bias are the method's choice


@pytest.mark.parametrize("detector", DEMO.detectors)
def test_all_methods_start_alike(detector):
    weights = []
    for name, experiment in DEMO.experiments.items():
        if experiment.detector == detector:
            torch.manual_seed(5)
            model = build_detector(DEMO, name, Facts(3, (0.5, 0.3, 0.1)))
            state = {key: value for key, value in model.state_dict().items() if not key.startswith("methods.")}
            weights.append({key: value for key, value in state.items() if not any(last in key for last in LAST_LAYERS)})
    first = weights[0]
    assert len(weights) > 5
    assert any((value != 0).any() for value in first.values())
    for other in weights[1:]:
        assert first.keys() == other.keys()
        assert all(torch.equal(first[key], other[key]) for key in first)
