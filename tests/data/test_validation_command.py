"""Validation as a part of ``python -m imbdet data``: refused with one line, dropped on demand, free the second time."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from defects import policy
from prepared import coco_format, content, run, state
from promises import refused, said

from imbdet.data import shapes
from imbdet.data.coco import write_annotations
from imbdet.data.loader import TrainingBatches
from imbdet.data.validate import validate
from imbdet.layout import Layout
from imbdet.settings import Validation

DROP = {"truncated": "drop", "quarantine_share": 0.5}


def truncate(folder):
    path = folder / "train" / "two.jpg"
    path.write_bytes(path.read_bytes()[:-60])


def with_policy(folder, **chosen):
    return {**coco_format(folder), "validation": chosen}


def report():
    return json.loads(Path("results/test/validation.json").read_text())


def test_a_broken_image_is_refused_and_then_dropped_in_the_same_folder(make_study, coco_folder, capsys):
    truncate(coco_folder)
    with refused(r"image 5: .*source/train/two.jpg cannot be decoded .* set data.validation.truncated to drop"):
        run(make_study(coco_format(coco_folder)))
    assert not Path("results").exists()
    study = make_study(with_policy(coco_folder, **DROP))
    manifest = run(study)
    assert manifest["splits"]["train"]["images"] == 2
    assert manifest["source"]["validation"] == study.data.validation.model_dump()
    defects = report()["splits"]["train"]["defects"]
    assert defects["truncated"] == {"policy": "drop", "count": 1, "ids": [5]}
    table = Path("results/test/validation.md").read_text()
    assert capsys.readouterr().out.endswith(f"{table}\n")
    assert Path("data/quarantine.txt").read_text() == "train/two.jpg: truncated\n"
    for batch in TrainingBatches(study, Layout.of(study), "ce").iterate(6):
        assert 5 not in batch.image_ids


@pytest.mark.promise("An image that its source lacks can be dropped", "bad input")
def test_an_image_that_the_source_lacks_is_refused_or_dropped(make_study, coco_folder):
    (coco_folder / "train" / "two.jpg").unlink()
    with refused(r"image 5: .*source/train/two.jpg is missing; .* set data.validation.missing to drop"):
        run(make_study(coco_format(coco_folder)))
    study = make_study(with_policy(coco_folder, missing="drop", quarantine_share=0.5))
    assert run(study)["splits"]["train"]["images"] == 2
    before = state("data", "results")
    run(study)
    assert state("data", "results") == before


def test_a_second_run_is_free_with_images_in_quarantine(make_study, coco_folder, monkeypatch):
    truncate(coco_folder)
    study = make_study(with_policy(coco_folder, **DROP))
    run(study)
    before = state("data", "results")
    monkeypatch.setattr("imbdet.data.prepare.validate", None)
    run(study)
    assert state("data", "results") == before


def test_lost_reports_come_back_without_validation(make_study, monkeypatch):
    study = make_study()
    run(study)
    before = content()
    shutil.rmtree("results")
    monkeypatch.setattr("imbdet.data.prepare.validate", None)
    run(study)
    assert content() == before


def test_lost_annotations_come_back_without_reading_images(make_study, coco_folder, monkeypatch):
    truncate(coco_folder)
    study = make_study(with_policy(coco_folder, **DROP))
    run(study)
    before = content()
    shutil.rmtree("data/annotations")
    monkeypatch.setattr("imbdet.data.image_files.look", None)
    run(study)
    assert content() == before


def test_another_policy_validates_again_and_makes_no_image_again(make_study, data, monkeypatch):
    first = run(make_study())
    monkeypatch.setattr(shapes, "render", None)
    second = run(make_study({**data, "validation": {"empty_images": "drop"}}))
    empty = report()["splits"]["train"]["defects"]["empty_images"]
    assert 0 < empty["count"] == first["splits"]["train"]["images"] - second["splits"]["train"]["images"]
    assert run(make_study()) == first


def test_the_report_says_nothing_of_where_the_data_lie(make_study, coco_folder):
    run(make_study(coco_format(coco_folder)))
    first = Path("results/test/validation.json").read_bytes(), Path("results/test/validation.md").read_bytes()
    run(make_study(coco_format(coco_folder) | {"folder": "elsewhere"}))
    assert first == (Path("results/test/validation.json").read_bytes(), Path("results/test/validation.md").read_bytes())
    assert not any(word in first[0].decode() for word in ("elsewhere", str(coco_folder), "two.jpg"))


def command(data):
    """Run ``python -m imbdet data`` on a study with these data."""
    Path("test.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"data": data}))
    done = subprocess.run(
        [sys.executable, "-m", "imbdet", "data", "test.yaml"], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def make_voc(folder):
    (folder / "annotations" / "instances_val.json").write_text("<annotation><folder>VOC2007</folder></annotation>")


@pytest.mark.promise("`python -m imbdet data` refuses bad data with one line and no traceback", "bad input")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, r"^error: .*instances_train.json: image 5: .*source/train/two.jpg cannot be decoded .* to drop\n$"),
        (make_voc, r"^error: .*instances_val.json is not valid JSON .*looks like Pascal VOC's XML[^\n]*\n$"),
    ],
)
def test_the_command_refuses_with_one_line(tmp_path, monkeypatch, coco_folder, spoil, message):
    monkeypatch.chdir(tmp_path)
    spoil(coco_folder)
    code, out, err = command(coco_format(coco_folder))
    assert code == 1
    said(message, err)
    assert err.count("\n") == 1
    assert ("| defect | policy |" in out) == (spoil is not make_voc)


@pytest.mark.promise("What COCO itself has goes through by default", "law")
def test_official_annotations_and_images_go_through(tmp_path, monkeypatch, shared):
    monkeypatch.chdir(tmp_path)
    layout, mirror = Layout("test", "data", seed=1), shared / "data" / "coco-mirror"
    archive = zipfile.ZipFile(mirror / "annotations" / "annotations_trainval2017.zip")
    for split in ("train", "val"):
        raw = json.loads(archive.read(f"annotations/instances_{split}2017.json"))
        write_annotations(layout.annotations(split), raw, Path(split))
        layout.images(split).mkdir(parents=True)
        images = zipfile.ZipFile(mirror / "zips" / f"{split}2017.zip")
        for name in images.namelist():
            (layout.images(split) / Path(name).name).write_bytes(images.read(name))
    by_default, _ = validate(layout, Validation())
    for split in by_default["splits"].values():
        assert split["images_kept"] == split["images"] == 48
        assert split["annotations_kept"] == split["annotations"] > 400
        assert split["defects"]["category_gaps"]["ids"] == [12, 26, 29, 45, 66, 68, 71, 83]
        assert split["defects"]["empty_images"]["count"] == 1
    assert policy("drop").zero_size == Validation().zero_size == "drop"
