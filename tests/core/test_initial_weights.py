"""Experiments of one detector start from the same weights, wherever shapes agree: only the method differs."""

from pathlib import Path

import pytest
import torch

from imbdet.data.facts import Facts
from imbdet.detectors import build_detector
from imbdet.study_file import load_study

CONFIG = Path(__file__).resolve().parents[2] / "config"
DEMO = load_study(CONFIG / "demo.yaml")
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


@pytest.mark.parametrize(("head_init", "low", "high"), [("kaiming", 0.5, 2.0), ("normal", 0.0, 1e-3)])
def test_kaiming_towers_keep_the_scale_of_their_input(head_init, low, high):
    """Four layers of 32 channels with the paper's standard deviation of .01 leave a five-thousandth of it."""
    sweep = load_study(CONFIG / "imbalance-sweep.yaml")
    detector = sweep.detectors["retinanet"].model_copy(update={"head_init": head_init})
    study = sweep.model_copy(update={"detectors": {**sweep.detectors, "retinanet": detector}})
    torch.manual_seed(2)
    heads = build_detector(study, "ce", Facts(3, (0.5, 0.3, 0.1))).head
    features = torch.randn(2, 32, 24, 24).relu()
    inside = slice(4, -4)  # padding with zeros reaches four pixels in
    for head, last in (
        (heads.classification_head, heads.classification_head.cls_logits),
        (heads.regression_head, heads.regression_head.bbox_reg),
    ):
        kept = head.conv(features)[..., inside, inside].square().mean() / features.square().mean()
        assert low < kept.sqrt() < high
        assert last.weight.std().item() == pytest.approx(0.01, rel=0.1), "the last layer's is the paper's"
        assert all((layer[0].bias == 0).all() for layer in head.conv)
