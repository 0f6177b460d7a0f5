"""A training that was interrupted and run again is the training that was not, to the last bit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from imbdet.data.batch import Batch
from imbdet.data.loader import TrainingBatches
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.training import record
from imbdet.training.checkpoint import scratch_folder
from imbdet.training.run import run

EXPERIMENT = "focal-g2.0"
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "ema", "box_beta": 0.0}


class Interrupted(Exception):
    """Stands for whatever ends a process in the middle of a training."""


def outputs(layout):
    return layout.weights(EXPERIMENT).read_bytes(), layout.loss_curve(EXPERIMENT).read_bytes()


def train_interrupted(study, layout, batches):
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
            run(study, layout, EXPERIMENT)


def train_whole(study, layout):
    """The outputs of a training in one go, which are then removed."""
    run(study, layout, EXPERIMENT)
    result = outputs(layout)
    shutil.rmtree(layout.weights(EXPERIMENT).parent)
    return result


def ema(gamma=2.0):
    """An experiment with state of its own: the running mean of its normalizer."""
    return {EXPERIMENT: {"label": "focal", "method": FOCAL | {"gamma": gamma}}}


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
    while process.poll() is None and not list(layout.scratch(EXPERIMENT).glob("*/checkpoint.pt")):
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


class TestFingerprint:
    @pytest.fixture
    def key(self, workspace, make_study):
        study = make_study()
        return record.fingerprint(study, Layout.of(study), EXPERIMENT)

    @pytest.mark.parametrize(
        "changes",
        [
            {"experiments": ema(gamma=1.0)},
            {"seed": 2},
            {"train": {"steps": 7}},
            {"train": {"optimizer": {"lr": 0.02}}},
            {"detector": {"fpn_channels": 16}},
            {"data": {"tail_exponent": 2.0}},
        ],
    )
    def test_differs_with_what_determines_a_training(self, key, make_study, changes):
        study = make_study(**changes)
        assert record.fingerprint(study, Layout.of(study), EXPERIMENT) != key

    @pytest.mark.parametrize(
        "changes",
        [
            {"description": "other words"},
            {"experiments": {EXPERIMENT: {"label": "another label"}}},
            {"evaluate": {"nms_iou": 0.4}},
            {"report": {"gamma": []}},
        ],
    )
    def test_is_the_same_whatever_else_changes(self, key, make_study, changes):
        study = make_study(**changes)
        assert record.fingerprint(study, Layout.of(study), EXPERIMENT) == key

    def test_differs_with_the_data(self, key, make_study):
        study = make_study()
        layout = Layout.of(study)
        layout.manifest.write_text(layout.manifest.read_text().replace('"boxes": ', '"boxes": 1'))
        assert record.fingerprint(study, layout, EXPERIMENT) != key

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
        assert record.fingerprint(study, Layout.of(study), EXPERIMENT) != key


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


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[: len(whole) // 2], lambda whole: b"junk"])
def test_damaged_checkpoint_is_named(workspace, make_study, damage):
    study = make_study()
    layout = Layout.of(study)
    train_interrupted(study, layout, 3)
    (checkpoint,) = layout.scratch(EXPERIMENT).glob("*/checkpoint.pt")
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(UserError, match=f"{checkpoint} cannot be read.*delete it and run again"):
        run(study, layout, EXPERIMENT)
    checkpoint.unlink()
    run(study, layout, EXPERIMENT)
