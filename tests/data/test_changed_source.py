"""A source that changed after its data were prepared is seen, whatever its sizes and dates; a touched one is not."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mirror import checksums
from PIL import Image
from prepared import coco_format, content, run, state, zipped
from promises import refused

from imbdet.config import Study
from imbdet.data import source_files
from imbdet.data.loader import EvaluationBatches, TrainingBatches
from imbdet.files import sha256
from imbdet.layout import Layout

MakeStudy = Callable[..., Study]
SEEN = pytest.mark.promise("A source that changed after the preparation is read again", "law")


def edit(folder: Path, split: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "annotations" / f"instances_{split}.json"
    annotations = json.loads(path.read_text())
    change(annotations)
    path.write_text(json.dumps(annotations))


def add_image(folder: Path) -> None:
    shutil.copy(folder / "val" / "four.png", folder / "val" / "six.png")
    record = {"id": 3, "file_name": "six.png", "height": 32, "width": 32}
    edit(folder, "val", lambda content: content["images"].append(record))


def swap_picture(folder: Path) -> None:
    """Put another picture of as many bytes and the same time stamp in the place of one."""
    path = folder / "train" / "bitmap.bmp"
    before = path.stat()
    pixels = 255 - np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def drop_picture(folder: Path) -> None:
    (folder / "train" / "three.png").unlink()
    edit(folder, "train", lambda content: content["images"].pop(2))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a label of as many bytes": lambda folder: edit(
        folder, "train", lambda content: content["annotations"][0].update(category_id=3)
    ),
    "a box more": lambda folder: edit(
        folder, "val", lambda content: content["annotations"].append(content["annotations"][0] | {"id": 9})
    ),
    "an image more": add_image,
    "an image fewer": drop_picture,
    "a picture of as many bytes": swap_picture,
}


@pytest.fixture
def folder(coco_folder: Path) -> Path:
    """The folder in COCO's format with one picture more, whose bytes do not depend on what it shows."""
    Image.fromarray(np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3)).save(coco_folder / "train/bitmap.bmp")
    record = {"id": 20, "file_name": "bitmap.bmp", "height": 20, "width": 20}
    edit(coco_folder, "train", lambda content: content["images"].append(record))
    return coco_folder


@SEEN
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["folder", "archive", "archive of the same date"])
def test_a_changed_source_is_read_again(
    make_study: MakeStudy, folder: Path, tmp_path: Path, kind: str, change: str
) -> None:
    archive = tmp_path / "some.zip"
    path = folder if kind == "folder" else zipped(folder, archive)
    before = run(make_study(coco_format(path)))
    date = archive.stat().st_mtime_ns if path == archive else 0
    CHANGES[change](folder)
    zipped(folder, archive)
    if kind == "archive of the same date":
        os.utime(archive, ns=(date, date))
    now = run(make_study(coco_format(path)))
    assert now["splits"] != before["splits"]
    fresh = run(make_study(coco_format(path) | {"folder": "fresh"}))
    assert now == fresh
    for name in ("train/bitmap.bmp", "annotations/instances_train.json", "annotations/instances_val.json"):
        assert Path("data", name).read_bytes() == Path("fresh", name).read_bytes()


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_touched_source_changes_nothing(make_study: MakeStudy, folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder if kind == "folder" else zipped(folder, tmp_path / "some.zip")
    study = make_study(coco_format(path))
    run(study)
    before = state("results", "data/annotations")
    for file in [path, *path.rglob("*")]:
        os.utime(file, (0, 0))
    run(study)
    assert state("results", "data/annotations") == before


def test_only_what_changed_is_hashed_again(
    make_study: MakeStudy, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(coco_format(folder))
    run(study)
    read: list[str] = []
    monkeypatch.setattr(source_files, "sha256", lambda path: read.append(path.name) or sha256(path))
    run(study)
    assert read == []
    (folder / "train" / "two.jpg").touch()
    run(study)
    assert set(read) == {"two.jpg"}


def test_a_picture_that_was_missing_is_taken_once_it_is_there(make_study: MakeStudy, folder: Path) -> None:
    (folder / "train" / "two.jpg").rename(folder / "away.jpg")
    policy = {"validation": {"missing": "drop", "quarantine_share": 1.0}}
    study = make_study(coco_format(folder) | policy)
    assert run(study)["splits"]["train"]["images"] == 3
    (folder / "away.jpg").rename(folder / "train" / "two.jpg")
    assert run(study)["splits"]["train"]["images"] == 4


def test_an_archive_may_be_gone_once_all_is_prepared(make_study: MakeStudy, folder: Path, tmp_path: Path) -> None:
    archive = zipped(folder, tmp_path / "some.zip")
    study = make_study(coco_format(archive))
    run(study)
    archive.unlink()
    before = state("data/train", "data/annotations", "results")
    run(study)
    assert state("data/train", "data/annotations", "results") == before
    Path("data/train/two.jpg").unlink()
    with refused(r"data.path .*some.zip does not exist; expected a zip or tar archive or a folder"):
        run(study)


def test_a_picture_swapped_in_the_data_folder_comes_back_from_the_archive(
    make_study: MakeStudy, folder: Path, tmp_path: Path
) -> None:
    study = make_study(coco_format(zipped(folder, tmp_path / "some.zip")))
    manifest = run(study)
    swap_picture(Path("data"))
    assert run(study) == manifest
    assert Path("data/train/bitmap.bmp").read_bytes() == (folder / "train/bitmap.bmp").read_bytes()


def test_a_generated_picture_that_was_swapped_is_drawn_again(make_study: MakeStudy) -> None:
    study = make_study()
    run(study)
    before = content("data")
    shutil.copy("data/train/000004.bmp", "data/train/000005.bmp")
    run(study)
    assert content("data") == before


@SEEN
def test_an_archive_that_was_downloaded_and_replaced_is_read_again(
    make_study: MakeStudy, shared: Path, serve: Callable[[Path], Any], tmp_path: Path
) -> None:
    server = serve(shared / "data" / "coco-mirror")
    hashes = checksums(server.folder)
    source = {"source": "coco2017", "folder": "data", "base_url": server.url, "checksums": hashes}
    manifest = run(make_study(source))
    requests = len(server.requests)
    archive = Path("data/archives/val2017.zip")
    with refused(rf"val2017.zip has sha256 {manifest['archives']['val2017.zip']}, but data.checksums says 0000"):
        run(make_study(source | {"checksums": hashes | {"val2017.zip": "0" * 64}}))
    first = Path("data/val/000000000139.jpg").read_bytes()
    swapped = tmp_path / "swapped"
    shutil.unpack_archive(archive, swapped)
    names = sorted(path.name for path in (swapped / "val2017").iterdir())
    (swapped / "val2017" / names[0]).write_bytes(first + b"\0")
    zipped(swapped, archive)
    with refused(rf"val2017.zip has sha256 {sha256(archive)}, but data.checksums says {hashes['val2017.zip']}"):
        run(make_study(source))
    now = run(make_study(source | {"checksums": hashes | {"val2017.zip": sha256(archive)}}))
    assert now["archives"]["val2017.zip"] == sha256(archive) != manifest["archives"]["val2017.zip"]
    assert Path("data/val", names[0]).read_bytes() == first + b"\0"
    assert len(server.requests) == requests


APART = r"data.folder .* and data.path .* lie in one another; the prepared data need a folder of their own"


@pytest.mark.promise("A data folder that is the source is refused", "bad input")
@pytest.mark.parametrize("place", [".", "../source", "train", "annotations", "train/a", "prepared"])
def test_a_data_folder_in_the_source_is_refused(make_study: MakeStudy, folder: Path, place: str) -> None:
    before = content(str(folder))
    with refused(APART):
        run(make_study(coco_format(folder) | {"folder": str(folder / place)}))
    assert content(str(folder)) == before


@pytest.mark.promise("A data folder that is the source is refused", "bad input")
def test_a_source_in_the_data_folder_s_images_is_refused(make_study: MakeStudy, folder: Path) -> None:
    moved = shutil.copytree(folder, "data/train")
    before = content("data")
    with refused(APART):
        run(make_study(coco_format(Path(moved))))
    assert content("data") == before


@pytest.mark.promise("A data folder that is the source is refused", "bad input")
def test_images_that_were_replaced_by_a_link_to_the_source_are_refused(make_study: MakeStudy, folder: Path) -> None:
    study = make_study(coco_format(folder))
    run(study)
    shutil.rmtree("data/train")
    Path("data/train").symlink_to(folder / "train")
    before = content(str(folder))
    with refused(APART):
        run(study)
    assert content(str(folder)) == before


@pytest.mark.promise("A data folder that is a file is refused", "bad input")
@pytest.mark.parametrize("place", ["data", "data/train", "data/annotations"])
def test_a_data_folder_that_is_a_file_is_refused(make_study: MakeStudy, place: str) -> None:
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).touch()
    with refused(r"data.* is a file, expected a folder for prepared data; set data.folder to another place"):
        run(make_study())


def test_a_picture_that_became_a_folder_costs_the_source_nothing(make_study: MakeStudy, folder: Path) -> None:
    """The link of an earlier run then leads to that folder, and what is in it is the source's own."""
    (folder / "train" / "two.jpg").rename(folder / "train" / "v")
    edit(folder, "train", lambda content: content["images"][1].update(file_name="v"))
    run(make_study(coco_format(folder)))
    (folder / "train" / "v").rename(folder / "away")
    (folder / "train" / "v").mkdir()
    (folder / "away").rename(folder / "train" / "v" / "1.jpg")
    edit(folder, "train", lambda content: content["images"][1].update(file_name="v/1.jpg"))
    before = content(str(folder))
    assert run(make_study(coco_format(folder)))["splits"]["train"]["images"] == 4
    assert content(str(folder)) == before
    assert not (folder / "train" / "v" / "1.jpg").is_symlink()


@SEEN
def test_pictures_behind_a_linked_folder_are_part_of_the_source(
    make_study: MakeStudy, folder: Path, tmp_path: Path
) -> None:
    (folder / "train" / "a").rename(tmp_path / "real")
    (folder / "train" / "a").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "circle").symlink_to(folder / "train")
    study = make_study(coco_format(folder))
    before = run(study)
    names = source_files.source_hashes(study.data, Layout.of(study))
    assert "train/a/one.png" in names
    assert not any(name.startswith("real/") for name in names)  # each file is hashed once
    assert tmp_path / "real" in source_files.source_paths(study.data)
    Image.new("RGB", (60, 40)).save(tmp_path / "real" / "one.png")
    assert source_files.source_hashes(study.data, Layout.of(study)) != names
    assert run(study) != before


def test_a_source_may_be_written_in_another_way_and_have_another_hash(
    make_study: MakeStudy, folder: Path, tmp_path: Path
) -> None:
    run(make_study(coco_format(folder)))
    assert run(make_study(coco_format(folder) | {"path": f"{folder}/./"}))
    archive = zipped(folder, tmp_path / "some.zip")
    first = {"folder": "unpacked", "sha256": sha256(archive)}
    run(make_study(coco_format(archive) | first))
    add_image(folder)
    zipped(folder, archive)
    with refused(r"archive .*some.zip has sha256 .*, but data.sha256 says"):
        run(make_study(coco_format(archive) | first))
    now = run(make_study(coco_format(archive) | {"folder": "unpacked", "sha256": sha256(archive)}))
    assert now["splits"]["val"]["images"] == 3


@pytest.mark.parametrize("damage", ["[]", "1", "{", '{"train/two.jpg": 1}', '{"train/two.jpg": []}', "\0"])
def test_a_damaged_cache_costs_time_alone(make_study: MakeStudy, folder: Path, damage: str) -> None:
    study = make_study(coco_format(folder))
    run(study)
    before = state("results", "data/annotations")
    for cache in (source_files.SOURCE_CACHE, source_files.IMAGE_CACHE):
        Path("data", cache).write_text(damage)
    run(study)
    assert state("results", "data/annotations") == before


@pytest.mark.parametrize("key", ["source", "manifest", "validation", "images", "files"])
def test_a_stamp_that_lacks_something_is_made_again(make_study: MakeStudy, folder: Path, key: str) -> None:
    study = make_study(coco_format(folder))
    run(study)
    before = content("data")
    stamp = json.loads(Path("data/prepared.json").read_text())
    Path("data/prepared.json").write_text(json.dumps({name: stamp[name] for name in stamp if name != key}))
    run(study)
    assert content("data") == before


@pytest.mark.promise("An image that is damaged or lost after the validation is named when it is loaded", "fault")
@pytest.mark.parametrize(("split", "name"), [("train", "two.jpg"), ("val", "five.png")])
def test_an_image_of_another_size_by_now_is_never_trained_on(
    make_study: MakeStudy, folder: Path, split: str, name: str
) -> None:
    study = make_study(coco_format(folder))
    run(study)
    Image.new("RGB", (60, 100)).save(folder / split / name)
    layout = Layout.of(study)
    with refused(
        rf"image data/{split}/{name} has 100 x 60 pixels \(height x width\), but its annotations say \d+ x \d+: it has "
        r"changed since the data were prepared; run `python -m imbdet data`"
    ):
        list(
            TrainingBatches(study, layout, "ce").iterate()
            if split == "train"
            else EvaluationBatches(study, layout, "ce", "val")
        )


@pytest.mark.promise("A source that changed after the preparation is read again", "law")
@pytest.mark.parametrize("split", ["train", "val"])
def test_prepared_annotations_that_were_edited_are_never_used(make_study: MakeStudy, folder: Path, split: str) -> None:
    study = make_study(coco_format(folder))
    run(study)
    edit(Path("data"), split, lambda content: content["annotations"][0].update(bbox=[0, 0, 5, 5]))
    batches = TrainingBatches if split == "train" else partial(EvaluationBatches, split="val")
    with refused(
        rf"data/annotations/instances_{split}.json has changed since results/test/data.json was written; change the "
        r"source instead, then run `python -m imbdet data`"
    ):
        batches(study, Layout.of(study), "ce")
    run(study)
    batches(study, Layout.of(study), "ce")
