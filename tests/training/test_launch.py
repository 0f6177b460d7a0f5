"""``train --processes N``: what ends one of the processes, or all, is told once and without what it broke."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from promises import refused, said
from test_stopping import LONG, STOPS, checkpoints, wait_for

from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.training.launch import share_out
from imbdet.training.process import join_processes

TOLD_ONCE = pytest.mark.promise("A mistake that several processes meet is told once", "bad input")
# Imported by every Python process: the second of a training's processes meets what stands below.
SECOND = """
import os, signal
if os.environ.get("RANK") == "1":
    import imbdet.data.loader
    imbdet.data.loader.TrainingBatches.iterate = lambda self, start: """


def start(*arguments, **variables):
    command = [sys.executable, "-m", "imbdet", "train", *arguments, "--processes", "2"]
    return subprocess.Popen(
        command,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def trained(*arguments, **variables):
    """Exit code, and output without the bar that shows how far the training is."""
    process = start(*arguments, **variables)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, re.sub(r"\n?\r?.*step/s.*\n", "", errors)


def second_process(workspace, does):
    (workspace / "sitecustomize.py").write_text(SECOND + does + "\n")
    return {"PYTHONPATH": str(workspace)}


MISTAKES = {
    "an experiment": (["nope"], {}, "error: study tiny: no experiment 'nope'; Known: ce, focal-g2.0\n"),
    "a batch": (["ce"], {"batch_size": 3}, "error: train.batch_size is 3: no multiple of the 2 processes\n"),
}


@TOLD_ONCE
@pytest.mark.parametrize(("arguments", "train", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_of_all_processes_is_one_line(config, arguments, train, message):
    assert trained(config(train=train), *arguments) == (1, "", message)


@TOLD_ONCE
def test_a_mistake_of_one_process_is_one_line(workspace, config, make_study):
    """The others cannot go on without it, which is no news."""
    image = min(Layout.of(make_study()).images("train").iterdir())
    image.unlink()
    code, output, errors = trained(config(), "ce")
    assert (code, output) == (1, "")
    assert errors == f"error: image {image} is missing; run `python -m imbdet data` with the study's config\n"


@TOLD_ONCE
def test_a_loss_that_is_not_finite_names_its_dump(config):
    optimizer = {"name": "sgd", "lr": 1e30, "momentum": 0.9, "weight_decay": 0.0}
    code, _, errors = trained(config(train={"optimizer": optimizer, "clip_norm": None}), "ce")
    assert code == 1
    said(r"\Aerror: step \d+: the loss is not finite .*replay` repeats this step from .*says where\n\Z", errors)


def test_a_crash_keeps_its_traceback(workspace, config):
    code, _, errors = trained(config(), "ce", **second_process(workspace, "1 / 0"))
    assert code == 1
    assert "process 1:\nTraceback" in errors
    assert "ZeroDivisionError: division by zero" in errors
    assert "ChildFailedError" not in errors


def test_a_process_that_is_killed_is_named(workspace, config):
    killed = second_process(workspace, "os.kill(os.getpid(), signal.SIGKILL)")
    code, _, errors = trained(config(), "ce", **killed)
    assert code == 1
    assert errors.endswith("error: process 1 of 2 was killed by SIGKILL\n")


@pytest.mark.parametrize("code", [7, 1])
def test_a_process_that_ends_without_a_word_is_named(workspace, config, code):
    ended, _, errors = trained(config(), "ce", **second_process(workspace, f"os._exit({code})"))
    assert ended == 1
    assert errors.endswith(f"error: process 1 of 2 ended with exit code {code} and no message\n")


def test_a_world_size_of_1_from_the_cluster_starts_the_processes_all_the_same(config):
    """A mistake in the batch, as only the processes see their number."""
    code, _, errors = trained(config(train={"batch_size": 3}), "ce", WORLD_SIZE="1", RANK="0")
    assert (code, errors) == (1, "error: train.batch_size is 3: no multiple of the 2 processes\n")


def test_processes_of_torchrun_start_no_others(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused("--processes is 2, but WORLD_SIZE says that this is one of 2 processes already; leave --processes"):
        share_out(2)


VARIABLES = {
    "empty": ({"WORLD_SIZE": ""}, "the environment variable WORLD_SIZE is '', expected a number from 1"),
    "a word": ({"WORLD_SIZE": "two"}, "the environment variable WORLD_SIZE is 'two', expected a number from 1"),
    "none": ({"WORLD_SIZE": "0"}, "the environment variable WORLD_SIZE is '0', expected a number from 1"),
    "rank": ({"WORLD_SIZE": "2", "RANK": "-1"}, "the environment variable RANK is '-1', expected a number from 0"),
    "no meeting": ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, but MASTER_ADDR, MASTER_PORT is not set"),
    "no rank": ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT is not set"),
    "rank too high": (
        {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        "RANK is 2 of WORLD_SIZE 2; expected 0 to 1",
    ),
}


@pytest.mark.parametrize(("variables", "message"), VARIABLES.values(), ids=VARIABLES)
def test_variables_that_describe_no_group_are_refused(monkeypatch, variables, message):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message), join_processes():
        pass


@STOPS
@pytest.mark.parametrize(("number", "whom"), [(signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)])
def test_several_processes_stop_as_one(workspace, config, number, whom):
    """SIGTERM as a cluster sends it to the command, Ctrl-C as a terminal to all processes."""
    process = start(config(train=LONG | {"steps": 5000}), "ce")
    wait_for(lambda: list(workspace.glob("scratch/*/*/*/*/fingerprint.json")))
    time.sleep(1)
    whom(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    said(r"\Ace: asked to stop; the same command resumes at step \d+\n\Z", output)
    assert re.fullmatch(r"(\s*.*step/s.*\s*)*", errors)
    assert len(checkpoints(workspace)) == 1


def test_the_processes_end_when_the_command_is_killed(workspace, config, tmp_path):
    process = start(config(train=LONG | {"steps": 5000}), "ce", TMPDIR=str(tmp_path))  # a killed one leaves its folder
    wait_for(lambda: list(workspace.glob("scratch/*/*/*/*/fingerprint.json")))
    trainers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    time.sleep(1)
    process.kill()
    output, _ = process.communicate(timeout=60)  # which the trainers hold open
    assert "ce: asked to stop" in output
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in trainers))
    assert len(checkpoints(workspace)) == 1


@TOLD_ONCE
def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with refused("2 GPUs are too few for 3 processes"), join_processes():
        pass


@TOLD_ONCE
def test_a_negative_number_of_processes_is_refused():
    with refused("--processes is -1; expected a number from 1"):
        share_out(-1)
