"""Checkpoints: the newest whole one is taken, two are kept, those of other settings are refused with the difference."""

import io
import json
import re
import zipfile

import pytest
import torch
from promises import refused, said
from test_resume import EXPERIMENT, ema, outputs, train_interrupted, train_whole

from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.training import record
from imbdet.training.checkpoint import State, load_tensors, serialise
from imbdet.training.run import run
from imbdet.training.scratch import Checkpoints

CPU = torch.device("cpu")
TORN = pytest.mark.promise("A damaged checkpoint is reported and skipped; the one before it is taken", "fault")
OTHER = pytest.mark.promise("State of other settings, data or code is refused with the difference", "bad input")
FILE = pytest.mark.promise("A damaged or foreign file of weights is refused, and nothing in it is run", "bad input")


def flip_a_bit_of_a_weight(whole):
    """In the largest tensor of the file, in the middle."""
    archive = zipfile.ZipFile(io.BytesIO(whole))
    largest = max(archive.infolist(), key=lambda member: member.file_size)
    place = largest.header_offset + 200 + largest.file_size // 2
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


DAMAGES = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut at the end": lambda whole: whole[:-1],
    "zeros": lambda whole: bytes(len(whole)),
    "junk": lambda whole: b"junk",
    "a flipped bit": flip_a_bit_of_a_weight,
    "weights alone": lambda whole: serialise({"weight": torch.zeros(2)}),
}
BY_DAMAGE = pytest.mark.parametrize("damage", DAMAGES)


@pytest.fixture
def study(make_study):
    return make_study(experiments=ema())


@pytest.fixture
def interrupted(workspace, study):
    """A training that stopped after step 5, with checkpoints of the steps 2 and 4, and what it would have given."""
    layout = Layout.of(study)
    whole = train_whole(study, layout)
    train_interrupted(study, layout, 5)
    return layout, whole, sorted(layout.scratch(EXPERIMENT).glob("*/step-*.pt"))


@TORN
@BY_DAMAGE
def test_the_newest_is_damaged(interrupted, study, damage, capsys):
    layout, whole, (_, newest) = interrupted
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    capsys.readouterr()
    run(study, layout, EXPERIMENT)
    said(
        rf"skipped a damaged checkpoint: {newest} cannot be read(.|\n)*resumed at step 2 of 6", capsys.readouterr().out
    )
    assert outputs(layout) == whole


@TORN
def test_all_are_damaged(interrupted, study, capsys):
    layout, whole, files = interrupted
    for file in files:
        file.write_bytes(b"")
    run(study, layout, EXPERIMENT)
    said("no checkpoint is whole: training starts from the beginning", capsys.readouterr().out)
    assert outputs(layout) == whole


@TORN
def test_a_damaged_one_is_removed_only_after_a_whole_one_is_written(interrupted, study):
    layout, whole, (oldest, newest) = interrupted
    newest.write_bytes(b"")
    train_interrupted(study, layout, 1)
    assert sorted(oldest.parent.glob("step-*.pt")) == [oldest, newest], "nothing new was written yet"
    train_interrupted(study, layout, 3)
    assert [load_tensors(path, CPU)["step"] for path in sorted(oldest.parent.glob("step-*.pt"))] == [2, 4]
    run(study, layout, EXPERIMENT)
    assert outputs(layout) == whole


def test_the_last_two_are_kept(workspace, make_study):
    study = make_study(train={"steps": 9, "checkpoint_every": 1})
    layout = Layout.of(study)
    for batches, kept in ((1, [1]), (4, [4, 5]), (2, [6, 7])):
        train_interrupted(study, layout, batches)
        found = sorted(path.name for path in layout.scratch(EXPERIMENT).glob("*/step-*.pt"))
        assert found == [f"step-{step:08d}.pt" for step in kept]


def test_what_killed_writers_left_is_removed(interrupted, study):
    layout, _, (oldest, _) = interrupted
    weights = layout.weights(EXPERIMENT)
    weights.parent.mkdir(parents=True)
    remains = [oldest.with_name(".step-00000006.pt.123.partial"), weights.with_name(f".{weights.name}.123.partial")]
    other = weights.with_name(".ce.pt.123.partial")
    for path in (*remains, other):
        path.write_bytes(b"half")
    run(study, layout, EXPERIMENT)
    assert not any(path.exists() for path in remains)
    assert other.exists(), "another training may be writing it"


@OTHER
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"train": {"steps": 7}}, "train.steps: 6 there, 7 here"),
        ({"seeds": [2]}, "seed: 1 there, 2 here"),
        ({"experiments": ema(gamma=1.0)}, "methods.dense.gamma: 2.0 there, 1.0 here"),
        ({"train": {"optimizer": {"lr": 0.02}}}, "train.optimizer.lr: 0.01 there, 0.02 here"),
    ],
)
def test_state_of_other_settings_is_listed_with_the_difference_and_not_used(
    interrupted, make_study, changes, difference, capsys
):
    layout, _, (file, _) = interrupted
    study = make_study(**({"experiments": ema()} | changes))
    run(study, layout, EXPERIMENT)
    line = (
        rf"unfinished state of other settings is in {file.parent} and is not used \({difference}\).*rm -r {file.parent}"
    )
    text = capsys.readouterr().out
    said(line, text)
    assert "resumed" not in text
    assert file.exists()


@OTHER
@pytest.mark.parametrize("key", ["config", "data_sha256", "code_sha256"])
def test_a_checkpoint_of_another_training_is_refused(interrupted, study, key):
    layout, _, (_, newest) = interrupted
    content = load_tensors(newest, CPU)
    content["origin"][key] = {"seed": 7} if key == "config" else "0" * 64
    newest.write_bytes(serialise(content))
    with refused("step-00000004.pt is state of another training: .* there, .* here") as error:
        run(study, layout, EXPERIMENT)
    assert {"config": "seed: 7 there, 1 here"}.get(key, f"{key}: {'0' * 64} there") in str(error.value)


@FILE
@BY_DAMAGE
def test_a_damaged_file_is_refused(tmp_path, damage):
    file = tmp_path / "weights.pt"
    file.write_bytes(DAMAGES[damage](serialise({"weight": torch.arange(1000.0)})))
    if damage == "weights alone":
        assert load_tensors(file, CPU)["weight"].tolist() == [0, 0]
        return
    with refused(r"weights.pt cannot be read \(.*\); delete it and run again"):
        load_tensors(file, CPU)


class Bomb:
    """Would make a file where it is unpickled."""

    def __reduce__(self):
        return (open, ("bomb.txt", "w"))


@FILE
def test_a_file_with_code_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "weights.pt")
    with refused(r"weights\.pt cannot be read: it holds more than tensors and plain values, which could be code"):
        load_tensors(tmp_path / "weights.pt", CPU)
    assert not (tmp_path / "bomb.txt").exists()


@FILE
def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path):
    """In a small file at 200 places, spread evenly."""
    file, value = tmp_path / "weights.pt", {"weight": torch.arange(50.0)}
    whole, found = serialise(value), 0
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert torch.equal(load_tensors(file, CPU)["weight"], value["weight"]), place
        except UserError:
            found += 1
    assert found > 20


@pytest.mark.promise("A loss that is not finite stops before the step and leaves a dump that replays", "fault")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_a_checkpoint(tmp_path, value):
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.bias, value)
    with refused(r"step 7: weights are not finite \(bias, 1 in all\), although the loss was; no checkpoint"):
        Checkpoints(tmp_path, {}).keep(State(model, [], [], step=7))
    assert not list(tmp_path.iterdir())


def test_differences_are_named_by_key():
    there = {"config": {"train": {"steps": 6, "flip": 0.5}}, "data_sha256": "a"}
    here = {"config": {"train": {"steps": 7, "flip": 0.5}, "seed": 1}, "data_sha256": "a"}
    assert record.differences(there, here) == ["seed: None there, 1 here", "train.steps: 6 there, 7 here"]
    assert record.differences(here, here) == []


def test_a_folder_says_what_it_belongs_to(interrupted, study):
    layout, _, (file, _) = interrupted
    origin = record.origin(study, layout, EXPERIMENT)
    assert json.loads((file.parent / "fingerprint.json").read_text()) == origin
    assert re.fullmatch("[0-9a-f]{16}", file.parent.name)
    assert Checkpoints(file.parent, origin).load(file)["step"] == 2
