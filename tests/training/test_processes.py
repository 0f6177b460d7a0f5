"""Two processes that torchrun starts train on what one process would, and write one set of files."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from studies import ADDED, DETECTOR
from torchvision.ops.misc import FrozenBatchNorm2d

from imbdet.layout import Layout
from imbdet.training.run import run

EXPERIMENT = "focal-g2.0"
# Batch normalisation sees half a batch in each of two processes. With it frozen the two runs compute the same sums.
FROZEN = """
from torchvision.ops.misc import FrozenBatchNorm2d
import imbdet.detectors.backbones as backbones
backbones.nn.BatchNorm2d = FrozenBatchNorm2d
from imbdet.__main__ import main
main()
"""


def torchrun(*command):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*launcher, *command], capture_output=True, text=True, check=False, env=os.environ)


def curve(layout, experiment):
    with layout.loss_curve(experiment).open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


# Processes draw for themselves. Where samplers keep all that there is, draws change nothing.
ALL = {"sampled": 5000, "foreground_share": 1.0}
KEEPING_ALL = DETECTOR | {"rpn": DETECTOR["rpn"] | ALL, "roi": DETECTOR["roi"] | ALL}


@pytest.mark.parametrize("experiment", [EXPERIMENT, "two-stage"])
def test_two_processes_train_as_one(workspace, config, make_study, monkeypatch, experiment):
    changes = {"train": {"log_every": 1, "steps": 3, "checkpoint_every": 2}}
    changes |= ADDED | {"detectors": {"faster_rcnn": KEEPING_ALL}}
    study = make_study(**changes)
    layout = Layout.of(study)
    with monkeypatch.context() as patch:
        patch.setattr("imbdet.detectors.backbones.nn.BatchNorm2d", FrozenBatchNorm2d)
        run(study, layout, experiment)
    alone, weights = curve(layout, experiment), torch.load(layout.weights(experiment), weights_only=True)
    layout.loss_curve(experiment).unlink()
    layout.weights(experiment).unlink()
    (workspace / "frozen.py").write_text(FROZEN)
    done = torchrun("frozen.py", "train", config(**changes), experiment)
    assert done.returncode == 0, done.stderr
    together = curve(layout, experiment)
    # The same images, one foreground count and the mean of the gradients: only the order of fp32 sums differs.
    assert together == [pytest.approx(row, rel=1e-4) for row in alone]
    assert together[0] == pytest.approx(alone[0], rel=1e-6)
    for name, value in torch.load(layout.weights(experiment), weights_only=True).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-5)
    written = {str(path.relative_to(workspace)) for path in workspace.rglob(f"*{experiment}*/*") if path.is_file()}
    assert written == {f"results/tiny/{experiment}/{name}" for name in ("training.json", "loss_curve.csv")} | {
        f"scratch/tiny/{experiment}/lock"
    }


def test_every_process_stops_at_a_loss_that_one_of_them_meets(workspace, config):
    """The losses are averaged before they are checked, so that no process waits for one that has stopped."""
    changes = {"optimizer": {"name": "sgd", "lr": 1e30, "momentum": 0.9, "weight_decay": 0.0}, "clip_norm": None}
    done = torchrun("-m", "imbdet", "train", config(train=changes), EXPERIMENT)
    assert done.returncode != 0
    assert "the loss is not finite" in done.stderr
    assert not (workspace / "models").exists()
