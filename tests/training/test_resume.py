"""A training that was interrupted and run again is the training that was not, to the last bit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from studies import ADDED, DETECTOR, ROI, RPN, merged

from imbdet.data.batch import Batch
from imbdet.data.loader import TrainingBatches
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.training import record
from imbdet.training.run import run
from imbdet.training.scratch import scratch_folder

EXPERIMENT = "focal-g2.0"
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "ema", "box_beta": 0.0}


class Interrupted(Exception):
    """Stands for whatever ends a process in the middle of a training."""


def outputs(layout, experiment=EXPERIMENT):
    return layout.weights(experiment).read_bytes(), layout.loss_curve(experiment).read_bytes()


def train_interrupted(study, layout, batches, experiment=EXPERIMENT):
    """Train until ``batches`` batches have been read, of those that are left."""
    complete = TrainingBatches.iterate

    def torn(self: TrainingBatches, start_step: int = 0) -> Iterator[Batch]:
        for count, batch in enumerate(complete(self, start_step)):
            if count == batches:
                raise Interrupted
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingBatches, "iterate", torn)
        with pytest.raises(Interrupted):
            run(study, layout, experiment)


def train_whole(study, layout, experiment=EXPERIMENT):
    """The outputs of a training in one go, which are then removed."""
    run(study, layout, experiment)
    result = outputs(layout, experiment)
    shutil.rmtree(layout.weights(experiment).parent)
    return result


def ema(gamma=2.0):
    """An experiment with state of its own: the running mean of its normalizer."""
    return {EXPERIMENT: {"label": "focal", "methods": {"dense": FOCAL | {"gamma": gamma}}}}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batches", [[1], [3], [5], [3, 2]])
def test_interrupted_and_run_again_is_bit_equal(workspace, make_study, batches, optimizer):
    """Checkpoints fall between the rows of the loss curve, so that a row spans the interruption."""
    chosen = {"name": "adamw", "lr": 0.001, "weight_decay": 0.01} if optimizer == "adamw" else {"lr": 0.02}
    study = make_study(train={"log_every": 4, "checkpoint_every": 3, "optimizer": chosen}, experiments=ema())
    layout = Layout.of(study)
    whole = train_whole(study, layout)
    for count in batches:
        train_interrupted(study, layout, count)
        assert not layout.weights(EXPERIMENT).exists()
    run(study, layout, EXPERIMENT)
    assert outputs(layout) == whole


SAMPLE_WEIGHTING = {
    "name": "sample_weighting",
    "variant": "paper",
    "averaging": "sample",
    "activation": "sigmoid",
    "alpha": 0.25,
    "gamma": 2.0,
    "prior_prob": 0.01,
    "normalizer": "batch",
    "box_beta": 0.11,
    "clamp": 2.0,
    "class_regularizer": 0.5,
    "background_regularizer": None,
    "box_regularizer": 0.5,
    "learning_rate": 0.01,
    "weight_decay": 0.0001,
}


def test_a_method_that_learns_with_an_optimizer_of_its_own_is_resumed_bit_equal(workspace, make_study):
    """Adam's averages and counts of steps are in the checkpoint, beside those of the common optimizer."""
    learned = {EXPERIMENT: {"label": "SWN", "methods": {"dense": SAMPLE_WEIGHTING}}}
    study = make_study(train={"log_every": 4, "checkpoint_every": 3}, experiments=learned)
    layout = Layout.of(study)
    whole = train_whole(study, layout)
    train_interrupted(study, layout, 5)
    (checkpoint,) = layout.scratch(EXPERIMENT).glob("*/step-*.pt")
    content = torch.load(checkpoint, weights_only=True)
    common, adam = content["optimizers"]
    own = [name for name in content["model"] if name.startswith("methods.dense.network.")]
    assert len(own) == len(adam["state"]) > 0
    assert all(state["step"] == 3 and state["exp_avg"].any() for state in adam["state"].values())
    assert len(common["state"]) > 0
    assert [schedule["last_epoch"] for schedule in content["schedules"]] == [3, 3]
    run(study, layout, EXPERIMENT)
    assert outputs(layout) == whole


@pytest.mark.parametrize("batches", [1, 5])
def test_a_detector_that_draws_its_samples_is_resumed_bit_equal(workspace, make_study, batches):
    """Each step's draws are a function of the step, so that a resume needs no generator's state."""
    study = make_study(train={"log_every": 4, "checkpoint_every": 3}, **ADDED)
    layout = Layout.of(study)
    whole = train_whole(study, layout, "two-stage")
    train_interrupted(study, layout, batches, "two-stage")
    run(study, layout, "two-stage")
    assert outputs(layout, "two-stage") == whole


def test_a_resume_repeats_no_step_before_the_checkpoint(workspace, make_study, capsys, monkeypatch):
    study = make_study()
    layout = Layout.of(study)
    train_interrupted(study, layout, 5)
    started = []
    complete = TrainingBatches.iterate
    monkeypatch.setattr(
        TrainingBatches, "iterate", lambda self, start=0: started.append(start) or complete(self, start)
    )
    run(study, layout, EXPERIMENT)
    assert started == [4]
    assert "resumed at step 4 of 6" in capsys.readouterr().out


def test_killed_process_is_resumed_bit_equal(workspace, config, make_study):
    """SIGKILL, which nothing can handle, while ``python -m imbdet train`` runs."""
    long = {"steps": 80, "checkpoint_every": 5}
    study = make_study(train=long)
    layout = Layout.of(study)
    whole = train_whole(study, layout)
    process = subprocess.Popen(
        [sys.executable, "-m", "imbdet", "train", config(train=long), EXPERIMENT],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(layout.scratch(EXPERIMENT).glob("*/step-*.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not layout.weights(EXPERIMENT).exists()
    run(study, layout, EXPERIMENT)
    assert outputs(layout) == whole


def test_scratch_folder_is_gone_when_the_training_is_finished(workspace, make_study):
    study = make_study()
    layout = Layout.of(study)
    run(study, layout, EXPERIMENT)
    assert [path.name for path in layout.scratch(EXPERIMENT).iterdir()] == ["lock"]


def test_state_of_another_configuration_is_not_resumed(workspace, make_study):
    study = make_study(experiments=ema(gamma=1.0))
    layout = Layout.of(study)
    whole = train_whole(study, layout)
    train_interrupted(make_study(experiments=ema(gamma=2.0)), layout, 5)
    run(study, layout, EXPERIMENT)
    assert outputs(layout) == whole


def fingerprint(study, experiment=EXPERIMENT):
    return record.fingerprint(record.origin(study, Layout.of(study), experiment))


class TestFingerprint:
    @pytest.fixture
    def key(self, workspace, make_study):
        study = make_study()
        return fingerprint(study)

    @pytest.mark.parametrize(
        "changes",
        [
            {"experiments": ema(gamma=1.0)},
            {"seeds": [2]},
            {"train": {"steps": 7}},
            {"train": {"optimizer": {"lr": 0.02}}},
            {"detectors": {"retinanet": {"fpn_channels": 16}}},
            {"data": {"tail_exponent": 2.0}},
        ],
    )
    def test_differs_with_what_determines_a_training(self, key, make_study, changes):
        study = make_study(**changes)
        assert fingerprint(study) != key

    @pytest.mark.parametrize(
        "changes",
        [
            {"description": "other words"},
            {"train": {"workers": 2, "checkpoint_every": 3, "tensorboard": True}},
            {"experiments": {EXPERIMENT: {"label": "another label"}}},
            {"experiments": {"ce": {"methods": {"dense": FOCAL}}}},
            ADDED,
            {"evaluate": {"nms_iou": 0.4}},
            {"report": {"gamma": []}},
        ],
    )
    def test_is_the_same_whatever_else_changes(self, key, make_study, changes):
        study = make_study(**changes)
        assert fingerprint(study) == key

    def test_differs_with_each_of_its_methods_and_with_its_detector(self, workspace, make_study):
        changes = [
            {},
            {"experiments": {"two-stage": {"methods": {"rpn": RPN | {"box_beta": 0.5}}}}},
            {"experiments": {"two-stage": {"methods": {"roi": ROI | {"box_beta": 0.5}}}}},
            {"detectors": {"faster_rcnn": DETECTOR | {"short_side": 48}}},
        ]
        studies = [make_study(**merged(ADDED, change)) for change in changes]
        keys = {fingerprint(study, "two-stage") for study in studies}
        assert len(keys) == len(changes)

    def test_differs_with_the_data(self, key, make_study):
        study = make_study()
        layout = Layout.of(study)
        layout.manifest.write_text(layout.manifest.read_text().replace('"boxes": ', '"boxes": 1'))
        assert fingerprint(study) != key

    def test_differs_with_the_code(self, key, make_study, monkeypatch, tmp_path):
        files = record.sources(
            "imbdet.training.run", "imbdet.methods.focal", root=record.Path(record.__file__).parents[2]
        )
        changed = tmp_path / "loop.py"
        changed.write_text("# changed\n")
        swapped = [changed if file.name == "loop.py" else file for file in files]
        monkeypatch.setattr(record, "sources", lambda *modules, root: swapped)
        study = make_study()
        assert len(set(swapped) - set(files)) == 1
        assert fingerprint(study) != key


def test_second_process_is_refused_with_the_path_of_the_lock(workspace, make_study):
    study = make_study()
    layout = Layout.of(study)
    lock = layout.scratch(EXPERIMENT) / "lock"
    with (
        scratch_folder(layout.scratch(EXPERIMENT), "held"),
        pytest.raises(UserError, match=f"another process is training here.*{lock}"),
    ):
        run(study, layout, EXPERIMENT)
    run(study, layout, EXPERIMENT)  # the lock is free again
