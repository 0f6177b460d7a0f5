"""Preparation: done once, done again only where something is missing, refused where the source is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prepared import coco_format, content, run, state

from imbdet.config import Study
from imbdet.data import prepare as module
from imbdet.data import shapes
from imbdet.errors import UserError
from imbdet.files import sha256
from imbdet.layout import Layout

MakeStudy = Callable[..., Study]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which images are drawn while a test runs."""
    indices: list[int] = []
    render = shapes.render

    def spy(data: Any, split: str, index: int) -> Any:
        indices.append(index)
        return render(data, split, index)

    monkeypatch.setattr(shapes, "render", spy)
    return indices


def test_the_manifest_says_what_the_files_hold(make_study: MakeStudy, data: dict[str, Any]) -> None:
    study = make_study(data)
    manifest = run(study)
    layout = Layout.of(study)
    assert manifest["categories"] == [{"id": i + 1, "name": n} for i, n in enumerate(shapes.CLASSES[:4])]
    assert "folder" not in manifest["source"]
    sides = []
    for split in ("train", "val"):
        record = manifest["splits"][split]
        annotations = json.loads(layout.annotations(split).read_text())
        boxes = annotations["annotations"]
        assert (record["images"], record["boxes"], record["crowds"]) == (len(annotations["images"]), len(boxes), 0)
        assert record["annotations_sha256"] == sha256(layout.annotations(split))
        for category in manifest["categories"]:
            images = [box["image_id"] for box in boxes if box["category_id"] == category["id"]]
            assert record["boxes_by_class"][str(category["id"])] == len(images)
            assert record["images_by_class"][str(category["id"])] == len(set(images))
        for index, image in enumerate(annotations["images"]):
            with Image.open(layout.images(split) / image["file_name"]) as picture:
                assert np.array_equal(np.asarray(picture), shapes.render(study.data, split, index))
        if split == "train":
            sides = [side / 48 for box in boxes for side in box["bbox"][2:]]
    assert manifest["smallest_box_share"] == pytest.approx(min(sides), abs=1e-6)


def test_a_second_run_writes_nothing(make_study: MakeStudy, drawn: list[int]) -> None:
    study = make_study()
    run(study)
    before, drawings = state("data", "results"), len(drawn)
    run(study)
    assert state("data", "results") == before
    assert len(drawn) == drawings == 15


def test_two_folders_get_the_same_bytes(make_study: MakeStudy, data: dict[str, Any]) -> None:
    first, manifest = run(make_study(data)), Path("results/test/data.json").read_bytes()
    second = run(make_study(data | {"folder": "elsewhere"}))
    assert first == second
    assert Path("results/test/data.json").read_bytes() == manifest
    ours, theirs = content("data"), content("elsewhere")
    assert {k: v for k, v in ours.items() if k != "prepared.json"} == {
        k: v for k, v in theirs.items() if k != "prepared.json"
    }


@pytest.mark.parametrize("lost", ["annotations/instances_train.json", "annotations/instances_val.json"])
def test_lost_or_changed_annotations_are_written_again_without_drawing(
    make_study: MakeStudy, drawn: list[int], lost: str
) -> None:
    study = make_study()
    run(study)
    before = content()
    drawn.clear()
    (Path("data") / lost).unlink()
    run(study)
    assert content() == before
    (Path("data") / lost).write_text("{}")
    run(study)
    assert content() == before
    assert not drawn


@pytest.mark.parametrize("damage", ["remove", "cut", "remove all"])
def test_lost_or_cut_images_are_drawn_again(make_study: MakeStudy, damage: str) -> None:
    study = make_study()
    run(study)
    before = content()
    image = Path("data/train/000004.bmp")
    if damage == "cut":
        image.write_bytes(image.read_bytes()[:-1])
    elif damage == "remove":
        image.unlink()
    else:
        shutil.rmtree("data/val")
    run(study)
    assert content() == before


def test_a_lost_manifest_is_written_again_from_the_stamp(make_study: MakeStudy, drawn: list[int]) -> None:
    study = make_study()
    run(study)
    before = content()
    drawn.clear()
    shutil.rmtree("results")
    run(study)
    assert content() == before
    assert not drawn


def test_a_manifest_and_annotations_alone_bring_the_images_back(make_study: MakeStudy) -> None:
    """As after a clone: records and annotations are there, images and the stamp are not."""
    study = make_study()
    run(study)
    before, dates = content(), state("data/annotations", "results")
    for path in ("data/train", "data/val"):
        shutil.rmtree(path)
    Path("data/prepared.json").unlink()
    run(study)
    assert content() == before
    assert state("data/annotations", "results") == dates


@pytest.mark.parametrize("change", [{"train_images": 4}, {"distractors": [3, 3]}, {"seed": 4}, {"image_size": 64}])
def test_generated_data_follow_their_settings(
    make_study: MakeStudy, data: dict[str, Any], change: dict[str, Any]
) -> None:
    run(make_study(data))
    after = run(make_study(data | change))
    files = content("data")
    shutil.rmtree("data")
    assert run(make_study(data | change)) == after
    assert content("data") == files


def test_generated_data_follow_the_code_that_draws_them(
    make_study: MakeStudy, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    run(study)
    drawn.clear()
    monkeypatch.setattr(module, "sha256", lambda path: "0" * 64 if path.name == "polygons.py" else sha256(path))
    run(study)
    assert len(drawn) == 15


def test_an_interrupted_drawing_starts_again(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study()
    whole = run(study)
    shutil.rmtree("data")
    render = shapes.render

    def breaks(data: Any, split: str, index: int) -> Any:
        if split == "val":
            raise KeyboardInterrupt
        return render(data, split, index)

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "render", breaks)
        with pytest.raises(KeyboardInterrupt):
            run(study)
    assert run(study) == whole


def test_images_of_somebody_else_are_left_alone(make_study: MakeStudy) -> None:
    Path("data/train").mkdir(parents=True)
    Path("data/train/holiday.jpg").write_bytes(b"dear to somebody")
    with pytest.raises(UserError, match=r"data.folder data holds images of unknown origin; choose another folder"):
        run(make_study())
    assert Path("data/train/holiday.jpg").read_bytes() == b"dear to somebody"


def test_a_folder_of_another_source_is_left_alone(make_study: MakeStudy, coco_folder: Path) -> None:
    run(make_study(coco_format(coco_folder)))
    before = content("data")
    with pytest.raises(UserError, match=r"data.folder data holds images of other settings, .*coco_format"):
        run(make_study())
    assert content("data") == before
