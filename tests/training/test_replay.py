"""A loss that is not finite leaves a dump, and ``replay`` repeats its step and says where it arises."""

import json
import sys

import pytest
import torch
from promises import refused, said
from studies import ADDED

from imbdet.__main__ import main
from imbdet.data.loader import TrainingBatches
from imbdet.layout import Layout
from imbdet.methods.focal import Focal
from imbdet.training import replay
from imbdet.training.checkpoint import load_tensors
from imbdet.training.run import run

EXPERIMENT = "focal-g2.0"
DUMPED = pytest.mark.promise("A loss that is not finite stops before the step and leaves a dump that replays", "fault")
DIVERGING = {"optimizer": {"lr": 1e30}, "clip_norm": None}


def train_until_not_finite(study, experiment=EXPERIMENT):
    layout = Layout.of(study)
    with refused(r"step \d+: the loss is not finite(.|\n)*`python -m imbdet replay` repeats this step from scratch/"):
        run(study, layout, experiment)
    (path,) = layout.scratch(experiment).glob("*/nonfinite-step-*.json")
    return layout, path


def break_loss(patch, at_step):
    """Have the method give NaN at one step (from 1), counted over all calls."""
    forward, calls = Focal.forward, [0]

    def broken(self, samples):
        calls[0] += 1
        losses = forward(self, samples)
        return losses if calls[0] != at_step else losses | {"classification": losses["classification"] * torch.nan}

    patch.setattr(Focal, "forward", broken)


@DUMPED
def test_the_dump_has_the_step_its_images_and_terms(workspace, make_study):
    study = make_study(train=DIVERGING)
    layout, path = train_until_not_finite(study)
    facts = json.loads(path.read_text())
    assert facts.keys() == {"step", "image_ids", "terms", "seed", "fingerprint"}
    assert facts["image_ids"] == TrainingBatches(study, layout, EXPERIMENT).batch_ids(facts["step"] - 1).tolist()
    assert facts["terms"].keys() == {"classification", "box_regression", "total"}
    assert not all(torch.tensor(float(value)).isfinite() for value in facts["terms"].values())
    assert facts["fingerprint"] == path.parent.name
    assert load_tensors(path.with_suffix(".pt"), torch.device("cpu"))["step"] == facts["step"] - 1


@DUMPED
@pytest.mark.parametrize("normalizer", ["batch", "ema"])
def test_the_dump_is_the_state_before_the_step(workspace, make_study, monkeypatch, normalizer):
    """Also that of the method, which its forward pass changes: two trainings to step 2 and 3 tell."""
    focal = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": normalizer}
    methods = {EXPERIMENT: {"label": "focal", "methods": {"dense": focal | {"box_beta": 0.0}}}}
    study = make_study(experiments=methods, train={"checkpoint_every": 1})
    with monkeypatch.context() as patch:
        break_loss(patch, 3)
        _, path = train_until_not_finite(study)
    cpu = torch.device("cpu")
    dumped, before = load_tensors(path.with_suffix(".pt"), cpu), load_tensors(path.with_name("step-00000002.pt"), cpu)
    assert path.name == "nonfinite-step-3.json"
    assert before["model"].keys() == dumped["model"].keys()
    assert [name for name, value in before["model"].items() if not torch.equal(value, dumped["model"][name])] == []


@DUMPED
@pytest.mark.parametrize("experiment", [EXPERIMENT, "two-stage"])
def test_a_diverged_network_is_found_in_the_network(workspace, config, make_study, monkeypatch, capsys, experiment):
    changes = {"train": DIVERGING, **ADDED}
    train_until_not_finite(make_study(**changes), experiment)
    monkeypatch.setattr(sys, "argv", ["imbdet", "replay", config(**changes), experiment])
    main()
    text = capsys.readouterr().out
    said(r"step \d+, images \[\d+, \d+, \d+, \d+\]: reproduced", text)
    said(r"first module with an output that is not finite: \S+ \(\w+\)", text)
    said(r"stage (dense|rpn), image \d+, level \d+: \d+ samples that are not finite", text)


@DUMPED
def test_a_loss_that_is_at_fault_itself_is_named(workspace, make_study, monkeypatch, capsys):
    study = make_study()
    break_loss(monkeypatch, 3)
    layout, _ = train_until_not_finite(study)
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    break_loss(monkeypatch, 1)
    replay.run(study, layout, EXPERIMENT)
    text = capsys.readouterr().out
    said(r"step 3, images .*: reproduced \(classification nan", text)
    said(r"first module with an output that is not finite: methods\.dense \(Focal\)", text)


@DUMPED
def test_a_step_that_does_not_reproduce_says_so(workspace, make_study, monkeypatch):
    study = make_study()
    with monkeypatch.context() as patch:
        break_loss(patch, 3)
        layout, _ = train_until_not_finite(study)
    with refused(r"step 3 of scratch/.*\.json does not reproduce: its losses are finite"):
        replay.run(study, layout, EXPERIMENT)


@pytest.mark.promise("State of other settings, data or code is refused with the difference", "bad input")
def test_a_dump_of_other_settings_is_refused(workspace, make_study):
    layout, _ = train_until_not_finite(make_study(train=DIVERGING))
    with refused(r"nonfinite-step-\d+.pt is state of another training: train.optimizer.lr: 1e\+30 there, 0.01 here"):
        replay.run(make_study(train={"clip_norm": None}), layout, EXPERIMENT)


@pytest.mark.promise("A wrong setting is refused with what was expected", "bad input")
def test_nothing_to_replay(workspace, make_study):
    study = make_study()
    with refused("scratch/tiny/focal-g2.0/seed-1 holds no dump to replay; a training leaves one"):
        replay.run(study, Layout.of(study), EXPERIMENT)
