"""SIGKILL at any moment, then the same command: the results are those of a training that nobody interrupted."""

import signal

import pytest
from kills import copy_of, draw_moment, one_case_a_method_and_stage, outputs, raw_study, train

from imbdet.seeding import generator

SEED = 1
KILLED = pytest.mark.promise(
    "A training that SIGKILL ended at any moment, run again, leaves what an uninterrupted one does, byte for byte: "
    "weights, optimizers, the method's state, losses, evaluation",
    "kill",
)
BY_CASE = pytest.mark.parametrize("case", one_case_a_method_and_stage())


def whole(prepared, folder, raw):
    """The outputs of an uninterrupted training, and the seconds that it took."""
    code, seconds = train(copy_of(prepared, folder), raw)
    assert code == 0, (folder / "output.txt").read_text()
    return outputs(folder), seconds


def killed(folder, raw, moment, seconds):
    """Train until killed at the moment; one by the clock that comes too late comes earlier next time."""
    code, _ = train(folder, raw, moment, seconds)
    while code == 0 and moment[0] == "time":
        seconds /= 2
        code, _ = train(folder, raw, moment, seconds)
    assert code == -signal.SIGKILL, f"{moment}: {code}\n{(folder / 'output.txt').read_text()}"


def finish(folder, raw, expected, moments):
    code, _ = train(folder, raw)
    assert code == 0, f"{moments}\n{(folder / 'output.txt').read_text()}"
    found = outputs(folder)
    assert found.keys() == expected.keys(), moments
    assert [name for name in found if found[name] != expected[name]] == [], moments


@KILLED
@BY_CASE
def test_killed_once(case, prepared, tmp_path):
    raw = raw_study(case)
    expected, seconds = whole(prepared, tmp_path / "whole", raw)
    moment = draw_moment(SEED, one_case_a_method_and_stage().index(case))
    folder = copy_of(prepared, tmp_path / "killed")
    killed(folder, raw, moment, 0.8 * seconds)
    finish(folder, raw, expected, moment)


@KILLED
def test_killed_again_and_again(prepared, tmp_path, record_property):
    """At every rename in turn: three kills without one whole step between some of them."""
    raw = raw_study("sample_weighting-dense")
    expected, _ = whole(prepared, tmp_path / "whole", raw)
    folder = copy_of(prepared, tmp_path / "killed")
    moments = [("before rename", 3), ("after rename", 2), ("in a step", 1)]
    for moment in moments:
        killed(folder, raw, moment, None)
    finish(folder, raw, expected, moments)
    record_property("count", len(moments))


@pytest.mark.soak
@KILLED
@BY_CASE
def test_soak(case, prepared, tmp_path, record_property):
    """Twenty kills of every method, each of a training that then goes on or starts anew."""
    raw = raw_study(case)
    expected, seconds = whole(prepared, tmp_path / "whole", raw)
    kills, folder = 0, tmp_path / "0"
    for number in range(20):
        again = generator(SEED, "again", number).random() < 0.5
        if not (again and folder.exists()):
            folder = copy_of(prepared, tmp_path / str(number))
        moment = draw_moment(SEED, one_case_a_method_and_stage().index(case), number)
        code, _ = train(folder, raw, moment, 0.8 * seconds)
        kills += code == -signal.SIGKILL
        if code == 0 or not again:
            finish(folder, raw, expected, (number, moment))
    record_property("count", kills)
    assert kills >= 15
