"""Training a study's experiment: what it depends on, and the files it leaves."""

import csv
import json
import math
from importlib.metadata import version

import numpy as np
import pytest
import torch
from studies import ADDED
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imbdet.data.loader import TrainingBatches
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.methods.cross_entropy import CrossEntropy
from imbdet.methods.focal import Focal
from imbdet.training import record
from imbdet.training.build import initial_model
from imbdet.training.run import run

EXPERIMENT = "focal-g2.0"


def trained(study, experiment=EXPERIMENT):
    """The weights and the rows of the loss curve."""
    layout = Layout.of(study)
    run(study, layout, experiment)
    with layout.loss_curve(experiment).open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return torch.load(layout.weights(experiment), weights_only=True), rows


def equal(first, second):
    assert first.keys() == second.keys()
    return {name: torch.equal(first[name], second[name]) for name in first}


def test_equal_seeds_give_equal_weights_to_the_bit_and_others_do_not(workspace, make_study):
    first, rows = trained(make_study())
    again, rows_again = trained(make_study())
    other, _ = trained(make_study(seeds=[2]))
    assert all(equal(first, again).values())
    assert rows == rows_again
    learned = [name for name in first if "weight" in name and first[name].ndim == 4]
    assert not any(equal(first, other)[name] for name in learned)


def test_methods_start_from_the_same_weights_and_end_at_others(workspace, make_study):
    study = make_study()
    starts = [initial_model(study, Layout.of(study), name).state_dict() for name in study.experiments]
    assert all(equal(*starts).values())
    (one, _), (two, _) = (trained(study, name) for name in study.experiments)
    assert not all(equal(one, two).values())


def test_global_random_state_does_not_matter(workspace, make_study):
    torch.manual_seed(1)
    first, _ = trained(make_study())
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002
    second, _ = trained(make_study())
    assert all(equal(first, second).values())


def test_workers_change_nothing(workspace, make_study):
    weights, rows = trained(make_study())
    read_by_worker, rows_again = trained(make_study(train={"workers": 1}))
    assert all(equal(weights, read_by_worker).values())
    assert rows == rows_again


def test_bf16_keeps_losses_and_boxes_in_fp32_and_is_close_to_fp32(workspace, make_study, monkeypatch):
    seen = []
    forward = Focal.forward

    def watch(self, samples):
        losses = forward(self, samples)
        seen.append((samples, losses))
        return losses

    monkeypatch.setattr(Focal, "forward", watch)
    once = {"steps": 1, "log_every": 1, "schedule": {"warmup_steps": 0}}
    _, (exact,) = trained(make_study(train=once))
    _, (rounded,) = trained(make_study(train=once | {"precision": "bf16"}))
    (full, _), (half, losses) = seen
    assert (full.logits.dtype, half.logits.dtype, half.deltas.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    assert half.priors.dtype == half.delta_targets.dtype == half.prior_iou.dtype == torch.float32
    assert torch.equal(half.priors, full.priors)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    # bf16 has 8 bits: a relative error of 2^-9 an operation, through a dozen layers.
    assert rounded["total"] == pytest.approx(exact["total"], rel=0.05)
    assert rounded["total"] != exact["total"]


def test_a_training_in_bf16_follows_that_in_fp32(workspace, make_study):
    """All along the loss curve, which falls: the difference stays within what rounding makes of a step."""
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0001}
    train = {"steps": 30, "log_every": 6, "optimizer": sgd}
    exact_weights, exact = trained(make_study(train=train))
    weights, rounded = trained(make_study(train=train | {"precision": "bf16"}))
    assert exact[-1]["total"] < 0.9 * exact[0]["total"]
    for row, other in zip(rounded, exact, strict=True):
        assert row["total"] == pytest.approx(other["total"], rel=0.03)
    assert {value.dtype for value in weights.values()} == {value.dtype for value in exact_weights.values()}
    assert not all(equal(weights, exact_weights).values())


def test_bf16_keeps_boxes_and_losses_of_both_stages_in_fp32(workspace, make_study, monkeypatch):
    seen = []
    forward = CrossEntropy.forward

    def watch(self, samples):
        losses = forward(self, samples)
        seen.append((samples, losses))
        return losses

    monkeypatch.setattr(CrossEntropy, "forward", watch)
    once = {"steps": 1, "log_every": 1, "schedule": {"warmup_steps": 0}, "precision": "bf16"}
    _, (row,) = trained(make_study(train=once, **ADDED), "two-stage")
    assert [samples.stage for samples, _ in seen] == ["rpn", "roi"]
    for samples, losses in seen:
        assert samples.logits.dtype == samples.deltas.dtype == torch.bfloat16
        assert samples.priors.dtype == samples.delta_targets.dtype == samples.prior_iou.dtype == torch.float32
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert math.isfinite(row["total"])


def test_a_detector_of_two_stages_trains_on_its_draws(workspace, make_study):
    """Equal seeds give equal weights, whatever the global generator's state; each stage's loss falls."""
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0001}
    study = make_study(train={"steps": 30, "log_every": 6, "optimizer": sgd}, **ADDED)
    torch.manual_seed(1)
    weights, rows = trained(study, "two-stage")
    torch.manual_seed(2)
    again, rows_again = trained(study, "two-stage")
    assert all(equal(weights, again).values())
    assert rows == rows_again
    terms = [f"{stage}_{name}" for stage in ("rpn", "roi") for name in ("classification", "box_regression")]
    assert rows[0].keys() == {"step", "learning_rate", "total", *terms}
    assert rows[0]["total"] == pytest.approx(sum(rows[0][term] for term in terms), rel=1e-6)
    for stage in ("rpn", "roi"):
        assert rows[-1][f"{stage}_classification"] < 0.93 * rows[0][f"{stage}_classification"]


def test_every_stages_loss_is_compiled_where_the_study_says_so(workspace, make_study):
    for compiled in (False, True):
        study = make_study(train={"compile_loss": compiled}, **ADDED)
        for name in study.experiments:
            model = initial_model(study, Layout.of(study), name)
            assert {method.compiled for method in model.methods.values()} == {compiled}


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"optimizer": {"name": "adamw", "lr": 0.005, "weight_decay": 0.01}},
        {"schedule": {"name": "multistep", "warmup_steps": 2, "milestones": [0.8], "factor": 0.1}},
        {"precision": "bf16"},
    ],
    ids=["sgd", "adamw", "multistep", "bf16"],
)
def test_training_lowers_the_loss(workspace, make_study, train):
    """A row is the mean of one epoch, so that rows compare the same images."""
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0001}
    _, rows = trained(make_study(train={"steps": 30, "log_every": 6, "optimizer": sgd} | train))
    assert rows[-1]["total"] < 0.93 * rows[0]["total"]


def test_batches_without_any_foreground_train(workspace, make_study, monkeypatch):
    """Images without boxes: the box loss is exactly zero, and the class loss still teaches the background."""
    complete = TrainingBatches.iterate

    def empty(self, start_step=0):
        for batch in complete(self, start_step):
            batch.gt_boxes, batch.gt_labels, batch.gt_images = (
                part[:0] for part in (batch.gt_boxes, batch.gt_labels, batch.gt_images)
            )
            yield batch

    monkeypatch.setattr(TrainingBatches, "iterate", empty)
    weights, rows = trained(make_study(train={"log_every": 1}))
    assert {row["box_regression"] for row in rows} == {0.0}
    assert rows[-1]["classification"] < rows[0]["classification"]
    assert all(value.isfinite().all() for value in weights.values())


def test_diverging_training_names_the_images_of_its_step(workspace, make_study):
    study = make_study(train={"optimizer": {"lr": 1e30}, "clip_norm": None})
    layout = Layout.of(study)
    with pytest.raises(UserError, match="the loss is not finite") as caught:
        run(study, layout, EXPERIMENT)
    step = int(str(caught.value).split(":")[0].removeprefix("step "))
    ids = TrainingBatches(study, layout, EXPERIMENT).batch_ids(step - 1)
    assert f"images {ids.tolist()}" in str(caught.value)
    assert not layout.weights(EXPERIMENT).exists()


def test_loss_curve_and_tensorboard_say_the_same(workspace, make_study):
    _, rows = trained(make_study(train={"tensorboard": True}))
    (folder,) = (workspace / "logs" / "tensorboard").glob("tiny/*/seed-1")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(rows[0]) - {"step"}
    for name in events.Tags()["scalars"]:
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]


def test_no_events_are_written_unless_asked(workspace, make_study):
    trained(make_study())
    assert not (workspace / "logs").exists()


def test_record_of_a_training(workspace, make_study):
    study = make_study()
    layout = Layout.of(study)
    run(study, layout, EXPERIMENT)
    text = layout.training(EXPERIMENT).read_text()
    content = json.loads(text)
    keys = {"study", "experiment", "config", "data_sha256", "code", "versions", "hardware", "steps", "measured"}
    keys |= {"weights_sha256"}
    assert content.keys() == keys
    assert content["config"]["seed"] == study.seed
    assert content["config"].keys() == {"seed", "data", "detector", "train", "methods"}
    assert content["config"]["methods"] == study.experiments[EXPERIMENT].methods
    assert content["config"]["detector"] == json.loads(study.detector(EXPERIMENT).model_dump_json(exclude={"train"}))
    assert content["config"]["train"] == json.loads(study.train.model_dump_json())
    assert content["steps"] == study.train.steps
    assert content["measured"]["seconds"] > 0
    assert math.isfinite(content["measured"]["images_per_second"])
    assert content["measured"]["peak_memory_mb"]["host"] > 50
    assert content["versions"]["torch"] == version("torch")
    assert str(workspace) not in text
    assert '"/' not in text


def test_a_detectors_own_training_values_are_those_that_count(workspace, make_study):
    """Given there or in the study, they are one training: equal weights, fingerprints and recorded configurations."""
    values = {"steps": 4, "batch_size": 2, "flip": 0.0}
    own, plain = make_study(detectors={"retinanet": {"train": values}}), make_study(train=values)
    layout = Layout.of(own)
    origins = [record.origin(study, layout, EXPERIMENT) for study in (own, plain)]
    assert origins[0] == origins[1] != record.origin(make_study(), layout, EXPERIMENT)
    results = []
    for study in (own, plain):
        weights, rows = trained(study)
        assert rows[-1]["step"] == 4
        results.append((weights, rows, json.loads(layout.training(EXPERIMENT).read_text())["config"]))
    assert all(equal(results[0][0], results[1][0]).values())
    assert results[0][1:] == results[1][1:]


def test_files_that_a_training_leaves(workspace, make_study):
    before = {path for path in workspace.rglob("*") if path.is_file()}
    run(make_study(), Layout.of(make_study()), EXPERIMENT)
    after = {path for path in workspace.rglob("*") if path.is_file()}
    assert {str(path.relative_to(workspace)) for path in after - before} == {
        f"models/tiny/{EXPERIMENT}/seed-1.pt",
        f"results/tiny/{EXPERIMENT}/seed-1/training.json",
        f"results/tiny/{EXPERIMENT}/seed-1/loss_curve.csv",
        f"scratch/tiny/{EXPERIMENT}/seed-1/lock",
    }
