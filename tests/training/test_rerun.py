"""A training repeated from its record alone: identical to the bit, or what differs."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from promises import refused, said
from studies import ADDED

from imbdet.__main__ import main
from imbdet.layout import Layout
from imbdet.training import rerun
from imbdet.training.run import run

EXPERIMENT = "focal-g2.0"
REPEATED = pytest.mark.promise("A training is repeated to the bit from its record alone", "law")
BROKEN = pytest.mark.promise("A record that cannot be repeated is refused, with what is wrong", "bad input")


@pytest.fixture
def record(workspace, make_study):
    """The record of a training in the workspace."""
    study = make_study()
    run(study, Layout.of(study), EXPERIMENT)
    return Layout.of(study).training(EXPERIMENT)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@REPEATED
@pytest.mark.parametrize(("experiment", "with_data"), [(EXPERIMENT, True), ("two-stage", False)])
def test_from_the_record_alone(workspace, make_study, monkeypatch, capsys, tmp_path, experiment, with_data):
    """In a folder where nothing else is; the data are made there if they are missing."""
    study = make_study(**ADDED)
    run(study, Layout.of(study), experiment)
    fresh = tmp_path / "fresh"
    path = fresh / Layout.of(study).training(experiment)
    path.parent.mkdir(parents=True)
    shutil.copy(workspace / Layout.of(study).training(experiment), path)
    shutil.copy(workspace / Layout.of(study).loss_curve(experiment), path.with_name("loss_curve.csv"))
    if with_data:
        shutil.copytree(workspace / "data", fresh / "data")
    monkeypatch.chdir(fresh)
    monkeypatch.setattr(sys, "argv", ["imbdet", "rerun", str(path.relative_to(fresh))])
    main()
    said(
        rf"identical to the bit: weights \(sha256 [0-9a-f]{{64}}\) and loss curve of {experiment}",
        capsys.readouterr().out,
    )
    assert {entry.name for entry in fresh.iterdir()} == {"results", "data", "scratch"}
    assert {entry.name for entry in path.parent.iterdir()} == {"training.json", "loss_curve.csv"}


@REPEATED
def test_other_weights_are_told_with_the_likely_reasons(record, capsys):
    content = json.loads(record.read_text())
    change(record, weights_sha256="0" * 64, versions=content["versions"] | {"torch": "1.0"})
    with refused(
        rf"{EXPERIMENT} differs from {record}: weights have sha256 \w+, recorded is 0000.*versions.torch: 1.0 there"
    ):
        rerun.run(record)
    said("differs from the run of the record: versions.torch: 1.0 there", capsys.readouterr().out)


@REPEATED
def test_another_curve_is_told_with_the_row(record):
    curve = record.with_name("loss_curve.csv")
    lines = curve.read_text().splitlines()
    curve.write_text("\n".join([*lines[:2], lines[2].replace("4,", "4,9", 1), *lines[3:]]) + "\n")
    with refused(r"the loss curve \(step,.*\) parts with the row 4,9.*none known"):
        rerun.run(record)


@REPEATED
def test_another_commit_is_told_with_how_to_have_it(record, capsys):
    content = json.loads(record.read_text())
    change(record, code=content["code"] | {"commit": "abc123"})
    rerun.run(record)
    text = capsys.readouterr().out
    said("differs from the run of the record: code.commit: abc123 there", text)
    said("for its code: git checkout abc123", text)


@BROKEN
@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file or directory; expected results/STUDY/EXPERIMENT"),
        (lambda path: path.write_text("{"), "is not JSON"),
        (
            lambda path: path.write_text("[]"),
            "is not the record of a training, or of an earlier version: it lacks",
        ),
        (lambda path: change(path, config={"seed": 1}), "config lacks 'methods'"),
        (lambda path: set_config(path, seed=-1), "config: seeds"),
        (lambda path: set_config(path, trian={}), "config: unknown key 'trian'"),
    ],
)
def test_a_broken_record(record, break_it, message):
    break_it(record)
    with refused(message) as error:
        rerun.run(record)
    assert str(error.value).startswith(str(record))


def set_config(path, **values):
    change(path, config=json.loads(path.read_text())["config"] | values)


@BROKEN
def test_a_record_of_an_earlier_version(record):
    content = json.loads(record.read_text())
    del content["weights_sha256"]
    Path(record).write_text(json.dumps(content))
    with refused("it lacks weights_sha256. Train again"):
        rerun.run(record)


@BROKEN
def test_a_record_whose_configuration_has_changed_since(record):
    """The message names the commit whose code reads it."""
    content = json.loads(record.read_text())
    change(record, code=content["code"] | {"commit": "abc123"})
    set_config(record, detector=content["config"]["detector"] | {"pretrained": False})
    with refused(r"unknown key 'detectors.detector.pretrained'(.|\n)*that of the record does: git checkout abc123"):
        rerun.run(record)
