"""Two processes that torchrun starts train on what one process would, and write one set of files."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from studies import ADDED, DETECTOR, merged

from imbdet.layout import Layout

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
EXPERIMENT = "focal-g2.0"
BOX = {"box_beta": 0.11, "prior_prob": 0.01}
FOCAL = {"alpha": 0.25, "gamma": 2.0}
NOISY = {"variant": "code", "top_n": 9, "localization_share": 0.75, "normalizer": "ema"}
SWN = {"variant": "paper", "averaging": "group", "activation": "sigmoid", "normalizer": "batch", "clamp": 2.0}
SWN |= {"class_regularizer": 0.5, "background_regularizer": None, "box_regularizer": 0.5}
SWN |= {"learning_rate": 0.001, "weight_decay": 0.0001}
DENSE = {
    "noisy-anchors": {"name": "noisy_anchors", **FOCAL, **BOX, **NOISY},
    "swn": {"name": "sample_weighting", **FOCAL, **BOX, **SWN},
}
# Processes draw for themselves. Where samplers keep all that there is, draws change nothing.
ALL = {"sampled": 5000, "foreground_share": 1.0}
KEEPING_ALL = DETECTOR | {"rpn": DETECTOR["rpn"] | ALL, "roi": DETECTOR["roi"] | ALL}
CHANGES = {
    "train": {"steps": 4, "batch_size": 4, "log_every": 1, "checkpoint_every": 2},
    "detectors": {"faster_rcnn": KEEPING_ALL},
    "experiments": ADDED["experiments"]
    | {name: {"label": name, "detector": "retinanet", "methods": {"dense": spec}} for name, spec in DENSE.items()},
}
EXPERIMENTS = ["ce", EXPERIMENT, *DENSE, "two-stage"]
# The training command for each experiment, one after the other, each with a group of its own; each process leaves what
# it ends with in memory. Batch normalisation sees half a batch in each of two processes: with it frozen the two runs
# compute the same sums.
COMMANDS = """
import os, sys, torch
import torch.distributed as dist
from torchvision.ops.misc import FrozenBatchNorm2d
import imbdet.detectors.backbones as backbones
import imbdet.training.run as run
from imbdet.__main__ import main

def train(state, *rest):
    seconds = loop(state, *rest)
    torch.save(state.model.state_dict(), f"{experiment}-{os.environ.get('RANK', 'alone')}.pt")
    return seconds

def join_group(backend):
    meeting = f"file://{os.getcwd()}/{experiment}.group"
    join(backend, init_method=meeting, rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))

backbones.nn.BatchNorm2d = FrozenBatchNorm2d
join, dist.init_process_group = dist.init_process_group, join_group
loop, run.train = run.train, train
study, *experiments = sys.argv[1:]
for experiment in experiments:
    sys.argv = ["imbdet", "train", study, experiment]
    main()
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def started(*command, folder="."):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ)


@pytest.fixture(scope="module")
def folders(prepared, tmp_path_factory):
    """The experiments trained by one process, and by two, each in a folder of its own."""
    study, found = merged(yaml.safe_load(TINY.read_text()), CHANGES), []
    for launcher in ([sys.executable], TORCHRUN):
        folder = tmp_path_factory.mktemp("processes")
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        (folder / "commands.py").write_text(COMMANDS)
        done = started(*launcher, "commands.py", "tiny.yaml", *EXPERIMENTS, folder=folder)
        assert done.returncode == 0, done.stderr
        found.append(folder)
    return found


@pytest.fixture
def layout(make_study):
    return Layout.of(make_study(**CHANGES))


def curve(path):
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_two_processes_train_as_one(folders, layout, experiment):
    """The same images, the same divisors and the mean of the gradients: only the order of fp32 sums differs."""
    alone, together = (curve(folder / layout.loss_curve(experiment)) for folder in folders)
    assert len(alone) == 4
    assert together == [pytest.approx(row, rel=1e-4) for row in alone]
    assert together[0] == pytest.approx(alone[0], rel=1e-6)
    one, two = (torch.load(folder / layout.weights(experiment), weights_only=True) for folder in folders)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_both_processes_end_with_the_weights_that_are_written(folders, layout, experiment):
    """Running means and learned weights of a method among them; to the bit, or they would drift apart."""
    _, folder = folders
    written = torch.load(folder / layout.weights(experiment), weights_only=True)
    for rank in range(2):
        held = torch.load(folder / f"{experiment}-{rank}.pt", weights_only=True)
        assert held.keys() == written.keys()
        assert all(torch.equal(held[name], value) for name, value in written.items())


def test_two_processes_write_one_set_of_files(folders):
    alone, together = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pt"}
        for folder in folders
    )
    assert together == alone
    assert any(path.name == "training.json" for path in together)


def test_every_process_stops_at_a_loss_that_one_of_them_meets(workspace, config):
    """The losses are averaged before they are checked, so that no process waits for one that has stopped."""
    changes = {"optimizer": {"name": "sgd", "lr": 1e30, "momentum": 0.9, "weight_decay": 0.0}, "clip_norm": None}
    done = started(*TORCHRUN, "-m", "imbdet", "train", config(train=changes), EXPERIMENT)
    assert done.returncode != 0
    assert "the loss is not finite" in done.stderr
    assert not (workspace / "models").exists()


def test_the_command_itself_starts_as_many_processes_as_it_is_told(workspace, config, layout):
    study = config(train={"steps": 1, "schedule": {"warmup_steps": 0}})
    done = started(sys.executable, "-m", "imbdet", "train", study, EXPERIMENT, "--processes", "2")
    assert done.returncode == 0, done.stderr
    record = json.loads(layout.training(EXPERIMENT).read_text())
    assert (record["hardware"]["processes"], record["steps"]) == (2, 1)
