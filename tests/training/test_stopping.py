"""SIGTERM, SIGINT, and a parent that is gone: the step is finished, a checkpoint written, and the exit code says so."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from kills import copy_of, outputs, raw_study, start, train
from promises import refused, said

from imbdet import signals
from imbdet.data.prepare import prepare
from imbdet.layout import Layout
from imbdet.study_file import parse_study

ROOT = Path(__file__).resolve().parents[2]
LONG = {"steps": 60, "checkpoint_every": 1000}
STOPS = pytest.mark.promise("SIGTERM and Ctrl-C finish the step, write a checkpoint and exit with 143 and 130", "fault")
ORPHANS = pytest.mark.promise("A training whose parent was killed ends by itself, with a checkpoint", "fault")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def checkpoints(folder):
    return sorted(folder.glob("scratch/*/*/*/*/step-*.pt"))


def under_way(folder):
    """Whether the training has drawn its first bar, which it does with its first batch."""
    wait_for(lambda: "0/" in (folder / "output.txt").read_text())


@STOPS
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_group_stops_and_the_next_run_goes_on(prepared, tmp_path, number, code, workers):
    """The group has the workers in it, as a terminal's Ctrl-C and a cluster's preemption have."""
    raw = raw_study("focal-dense-ema", workers=workers, **LONG)
    folder = copy_of(prepared, tmp_path / "stopped")
    process = start(folder, raw)
    under_way(folder)
    os.killpg(process.pid, number)
    process.join(10)
    said(r"asked to stop; the same command resumes at step \d+", (folder / "output.txt").read_text())
    assert process.exitcode == code
    assert "Traceback" not in (folder / "output.txt").read_text()
    assert len(checkpoints(folder)) == 1
    whole = copy_of(prepared, tmp_path / "whole")
    assert [train(folder, raw)[0], train(whole, raw)[0]] == [0, 0]
    said(r"resumed at step \d+ of 60", (folder / "output.txt").read_text())
    assert outputs(folder) == outputs(whole)


@STOPS
def test_the_demo_stops_within_ten_seconds(tmp_path, monkeypatch):
    """On the demo's configuration with fewer images, which a step does not know of."""
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    raw["data"] |= {"train_images": 40, "val_images": 8}
    study = parse_study(raw, "tiny", "demo.yaml")
    prepare(study, Layout.of(study))
    process = start(tmp_path, raw, "faster-pisa")
    under_way(tmp_path)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)
    assert process.exitcode == 143
    assert time.monotonic() - began < 10
    assert checkpoints(tmp_path)


@STOPS
def test_processes_stop_after_the_same_step_when_one_is_asked(workspace, config):
    """Of two processes the second is sent SIGTERM; the first writes the checkpoint."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "imbdet", "train", config(train=LONG | {"steps": 5000}), "ce"]
    launched = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: list(workspace.glob("scratch/*/*/*/*/fingerprint.json")))
    time.sleep(1)
    (second,) = [pid for pid in children(launched.pid) if variable(pid, "RANK") == "1"]
    os.kill(second, signal.SIGTERM)
    output, _ = launched.communicate(timeout=60)
    assert launched.returncode != 0
    said(r"ce: asked to stop; the same command resumes at step \d+", output)
    step = int(re.search(r"resumes at step (\d+)", output)[1])
    assert [path.name for path in checkpoints(workspace)] == [f"step-{step:08d}.pt"]
    assert "exitcode  : 143" in output


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def variable(pid, name):
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.partition("=")[::2] for entry in entries).get(name)


@ORPHANS
def test_a_training_ends_when_its_parent_is_killed(workspace, config):
    """A shell stands between the two, as Snakemake has it; it goes on, so that the training's own parent is there."""
    parent = subprocess.Popen(["sleep", "60"])
    path = config(train=LONG | {"steps": 5000})
    shell = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} -m imbdet train {path} ce > output.txt 2>&1; exit $?"],
        env=os.environ | {signals.PARENT: str(parent.pid)},
    )
    wait_for(lambda: list(workspace.glob("scratch/*/*/*/*/fingerprint.json")))
    time.sleep(0.5)
    parent.kill()  # not waited for: what is left of it, a zombie, must not count as alive
    assert shell.wait(10) == 143
    parent.wait()
    assert len(checkpoints(workspace)) == 1
    said(r"ce: asked to stop", (workspace / "output.txt").read_text())


@ORPHANS
def test_a_command_whose_parent_is_gone_before_it_starts_ends(config):
    parent = subprocess.Popen(["true"])
    parent.wait()
    done = subprocess.run(
        [sys.executable, "-m", "imbdet", "train", config(train=LONG | {"steps": 5000}), "ce"],
        env=os.environ | {signals.PARENT: str(parent.pid)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode in (-signal.SIGTERM, 143)


@pytest.mark.promise("A wrong setting is refused with what was expected", "bad input")
def test_a_parent_that_is_no_pid_is_refused(monkeypatch):
    monkeypatch.setenv(signals.PARENT, "snakemake")
    with refused("IMBDET_PARENT is 'snakemake'; expected the pid"):
        signals.end_with_parent()


def test_a_process_is_told_from_another_with_its_pid_by_its_start():
    assert signals._started(os.getpid()) == signals._started(os.getpid())
    assert signals._started(os.getpid()) != signals._started(1)
    assert signals._started(2**22 + 1) is None  # above the largest pid


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with signals.stop_requests() as request:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal == signal.SIGINT, "the first counts"
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
