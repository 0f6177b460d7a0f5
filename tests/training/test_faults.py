"""Full disks, folders that cannot be written to, a full GPU: a message that helps, and the last checkpoint intact."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import torch
from promises import refused, said
from test_loop import ALONE, Line, batch_of, settings
from test_resume import EXPERIMENT, outputs, train_interrupted, train_whole

from imbdet import files
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.signals import StopRequest
from imbdet.training.checkpoint import State, load_tensors
from imbdet.training.loop import train
from imbdet.training.optimizer import build_optimizers, build_schedule
from imbdet.training.run import run

DISK = pytest.mark.promise("A full or read-only disk gives a clear message; the last checkpoint is intact", "fault")
GPU = pytest.mark.promise("Out of GPU memory: the message names the images' sizes and what to change", "fault")
ERRORS = {errno.ENOSPC: "No space left on device", errno.EROFS: "Read-only file system"}
ERRORS |= {errno.EACCES: "Permission denied", errno.EDQUOT: "Disk quota exceeded"}


def failing(monkeypatch, function, number, call):
    """Have the ``call``-th call of a function of ``os`` fail as a full or read-only disk has it."""
    original, calls = getattr(os, function), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] >= call:
            raise OSError(number, os.strerror(number))
        return original(*args, **kwargs)

    monkeypatch.setattr(os, function, counted)


@DISK
@pytest.mark.parametrize("number", ERRORS)
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_writing_fails(tmp_path, monkeypatch, function, number):
    path = tmp_path / "state.pt"
    files.write_bytes(path, b"old")
    with monkeypatch.context() as patch:
        failing(patch, function, number, 1)
        with refused(r"could not be written: .*; it needs 1,000 bytes\. Make room") as error:
            files.write_bytes(path, bytes(1000))
    assert f"{path} could not be written: {ERRORS[number]};" in str(error.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.pt"]


@DISK
@pytest.mark.parametrize("written", [1, 2, 3, 4, 5])
def test_the_disk_is_full_after_some_files(workspace, make_study, monkeypatch, written):
    """Of fingerprint.json, two checkpoints, weights and curve: the next training goes on from what is there."""
    study = make_study()
    layout = Layout.of(study)
    whole = train_whole(study, layout)
    layout.training(EXPERIMENT).unlink()
    with monkeypatch.context() as patch:
        failing(patch, "replace", errno.ENOSPC, written + 1)
        with refused("could not be written: No space left on device"):
            run(study, layout, EXPERIMENT)
    steps = [load_tensors(path, torch.device("cpu"))["step"] for path in layout.scratch(EXPERIMENT).glob("*/step-*.pt")]
    assert sorted(steps) == [2, 4][: written - 1]
    assert not layout.training(EXPERIMENT).exists()
    run(study, layout, EXPERIMENT)
    assert outputs(layout) == whole


@DISK
def test_a_real_limit_ends_the_command_with_one_line(workspace, config, make_study):
    """The system allows this process no file above 30 kB: small records are written, the first checkpoint is not."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    command = [sys.executable, "-m", "imbdet", "train", config(), EXPERIMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 1
    said(
        r"error: scratch/tiny/.*/step-00000002\.pt could not be written: File too large; it needs \d+,\d+", done.stderr
    )
    assert "Traceback" not in done.stderr
    assert [path.name for path in workspace.glob("scratch/*/*/*/*/*")] == ["fingerprint.json"]
    run(make_study(), Layout.of(make_study()), EXPERIMENT)


@DISK
def test_a_folder_of_state_that_cannot_be_made(workspace, make_study):
    study = make_study()
    (workspace / "scratch").write_text("a file")
    with refused(r"scratch/tiny/focal-g2\.0/seed-1 cannot be written to: Not a directory; checkpoints need a folder"):
        run(study, Layout.of(study), EXPERIMENT)


@DISK
def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_a_damaged_one(workspace, make_study, monkeypatch):
    """It may be whole: training does not start anew over it."""
    study = make_study()
    layout = Layout.of(study)
    train_interrupted(study, layout, 5)
    newest = max(layout.scratch(EXPERIMENT).glob("*/step-*.pt"))
    newest.unlink()
    newest.mkdir()
    with refused(r"step-00000004.pt cannot be read: Is a directory; make it readable"):
        run(study, layout, EXPERIMENT)


class Greedy(Line):
    """Asks for more memory than there is, at its third batch, in the forward or the backward pass."""

    def __init__(self, backward):
        super().__init__()
        self.backward, self.calls = backward, 0

    def forward(self, batch):
        self.calls += 1
        losses = super().forward(batch)
        if self.calls == 3 and self.backward:
            losses["classification"].register_hook(self.fail)
        elif self.calls == 3:
            self.fail(None)
        return losses

    def fail(self, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")


@GPU
@pytest.mark.parametrize("backward", [False, True])
def test_out_of_gpu_memory(backward):
    chosen, kept = settings(checkpoint_every=2), []
    batches = [batch_of(1), batch_of(2), batch_of(3, 4, 5)]
    batches[2].sizes[1] = torch.tensor([9, 7])
    model = Greedy(backward)
    optimizers = build_optimizers(model, chosen)
    state = State(model, optimizers, [build_schedule(optimizer, chosen) for optimizer in optimizers])
    with pytest.raises(UserError) as caught:
        train(state, model, batches, chosen, ALONE, StopRequest(), lambda s: kept.append(s.step), *[print] * 2)
    text = str(caught.value)
    said(r"step 3: out of GPU memory with 3 images padded to 4 x 4 pixels \(images \[3, 4, 5\]", text)
    said(r"the largest is 4 with 9 x 7\)", text)
    said(r"Lower train\.batch_size or the detector's short_side and long_side, or set train\.precision to bf16", text)
    assert text.endswith("PyTorch says: CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert kept == [2]
