"""Subsets of COCO: a stated choice, fetched image by image, each verified."""

import errno
import hashlib
import json
import os
import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirror import checksums, coco_mirror, jpeg
from PIL import Image
from prepared import run, state
from promises import refused
from range_server import RIGHT, Fault

from imbdet.data.subset import choose

FETCHED = pytest.mark.promise("A subset fetches single images, none twice, and goes on where it was stopped", "fault")
VERIFIED = pytest.mark.promise("An image that arrives broken is fetched again, then refused by name", "fault")
REFUSED = pytest.mark.promise("A subset that the data do not have is refused", "bad input")
CHOSEN = pytest.mark.promise(
    "Which images a subset has depends on their ids alone, and a smaller one is part of it", "law"
)
NOWHERE = Path("some.json")


@pytest.fixture
def server(tmp_path, serve):
    server = serve(tmp_path / "remote")
    server.archives = coco_mirror(server.folder)
    return server


def coco(server, **subset):
    hashes = {"checksums": {name: value for name, value in checksums(server.folder).items() if "annotations" in name}}
    place = {"source": "coco2017", "folder": "data", "base_url": server.url}
    return place | hashes | {"subset": {"train": 4, "val": 2} | subset}


def images(folder="data"):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*.jpg")}


def fetched(server):
    return [path for path, _ in server.requests if path.endswith(".jpg")]


def content(ids):
    boxes = [{"id": n, "image_id": i} for n, i in enumerate(ids)]
    return {"images": [{"id": i} for i in ids], "annotations": boxes, "categories": [{"id": 1}], "info": {"a": 1}}


@CHOSEN
@given(st.sets(st.integers(1, 600_000), min_size=1, max_size=40), st.randoms(use_true_random=False), st.data())
def test_the_choice_is_a_function_of_the_ids(ids, rng, data):
    order = sorted(ids)
    small, large = sorted(data.draw(st.tuples(*[st.integers(1, len(ids))] * 2)))
    chosen = {i["id"] for i in choose(content(order), "train", large, NOWHERE)["images"]}
    rng.shuffle(order)
    assert {i["id"] for i in choose(content(order), "train", large, NOWHERE)["images"]} == chosen
    assert {i["id"] for i in choose(content(order), "train", small, NOWHERE)["images"]} <= chosen
    rest = sorted(ids - chosen)
    key = {i: hashlib.sha256(f"train/{i}".encode()).hexdigest() for i in ids}
    assert all(key[a] < key[b] for a in chosen for b in rest)
    assert len(chosen) == large


@CHOSEN
def test_a_subset_has_the_annotations_of_its_images_and_all_categories():
    reduced = choose(content(range(100)), "val", [7, 3], NOWHERE)
    assert reduced == content(range(100)) | {
        "images": [{"id": 3}, {"id": 7}],
        "annotations": [{"id": 3, "image_id": 3}, {"id": 7, "image_id": 7}],
    }


WRONG = {
    "more than there are": (
        {"train": 7},
        "data.subset.train is 7, but .*instances_train2017.json has 6 images; ask for",
    ),
    "an unknown id": ({"val": [139, 9, 10]}, "data.subset.val names 2 images that .*val2017.json lacks, first id 9"),
    "none": ({"train": 0}, "subset: train is 0; expected a number of images, at least 1, a list of ids, or all"),
    "fewer than none": ({"val": -3}, "subset: val is -3; expected"),
    "an empty list": ({"val": []}, "subset: val is a list of 0 ids; expected at least one, each once"),
    "an id twice": ({"train": [9, 25, 9]}, "subset: train is a list of 3 ids; expected at least one, each once"),
    "no ids": ({"train": ["nine"]}, "subset.train.* is .*'nine'.*valid integer"),
    "another key": ({"test": 3}, "unknown key 'data.*subset.test'"),
}


@REFUSED
@pytest.mark.parametrize(("subset", "message"), WRONG.values(), ids=WRONG)
def test_a_subset_that_cannot_be_is_refused(make_study, server, subset, message):
    with refused(message):
        run(make_study(coco(server, **subset)))
    assert not fetched(server)


@REFUSED
@pytest.mark.parametrize("raw", [[], {}, {"images": {}}, {"images": [1]}, {"images": [{"file_name": "a"}]}])
def test_what_is_no_annotation_file_has_no_subset(raw):
    with refused("some.json is no COCO annotation file: it needs a list of records with ids under 'images'"):
        choose(raw, "train", 1, NOWHERE)


@FETCHED
def test_single_images_are_fetched_in_place_of_the_archives(make_study, server):
    study = make_study(coco(server))
    manifest = run(study)
    assert {split: record["images"] for split, record in manifest["splits"].items()} == {"train": 4, "val": 2}
    assert manifest["archives"].keys() == {"annotations_trainval2017.zip"}
    asked = fetched(server)
    assert sorted(asked) == sorted(f"/{name[:-4].replace('/', '2017/')}.jpg" for name in images())
    for archive, split in zip(server.archives, ("train", "val"), strict=True):
        with zipfile.ZipFile(archive) as file:
            for name, got in images(f"data/{split}").items():
                assert got == file.read(f"{split}2017/{name}")
    before = state("data", "results")
    run(study)
    assert state("data", "results") == before
    assert fetched(server) == asked


@FETCHED
def test_named_images_are_those_that_come(make_study, server):
    run(make_study(coco(server, train=[42, 9], val=[632])))
    assert images().keys() == {"train/000000000009.jpg", "train/000000000042.jpg", "val/000000000632.jpg"}


@FETCHED
def test_an_interrupted_run_goes_on(make_study, server):
    """The third image is refused; later only what is missing or was cut on the disk is fetched."""
    study = make_study(coco(server, train=[9, 25, 30, 34], val=[139]))
    server.by_path["/train2017/000000000030.jpg"] = Fault(403)
    with refused("/train2017/000000000030.jpg: the server answered 403"):
        run(study)
    there = set(images())
    assert "train/000000000030.jpg" not in there
    assert not list(Path("data").rglob("*.partial"))
    server.by_path.clear()
    server.requests.clear()
    cut = Path("data/train/000000000009.jpg")
    cut.parent.mkdir(exist_ok=True)
    cut.write_bytes(jpeg(9, 40, 64)[:-200])
    run(study)
    wanted = {"train/000000000009.jpg", "train/000000000025.jpg", "train/000000000030.jpg", "train/000000000034.jpg"}
    missing = (wanted | {"val/000000000139.jpg"}) - there | {"train/000000000009.jpg"}
    assert sorted(fetched(server)) == sorted(f"/{name.replace('/', '2017/')}" for name in missing)
    assert images().keys() == wanted | {"val/000000000139.jpg"}


@FETCHED
def test_an_image_that_was_swapped_on_the_disk_is_fetched_again(make_study, server):
    study = make_study(coco(server, train=[9, 25], val=[139]))
    before = run(study)
    there = images()
    path = Path("data/train/000000000009.jpg")
    path.write_bytes(jpeg(25, *Image.open(path).size[::-1]))
    server.requests.clear()
    assert run(study) == before
    assert images() == there
    assert fetched(server) == ["/train2017/000000000009.jpg"]


FAULTS = {
    "a cut connection": Fault(cut=300),
    "too long a length": Fault(longer=7),
    "too short a length": Fault(longer=-300),
    "a busy server": Fault(503),
    "too many requests": Fault(429, {"Retry-After": "0"}),
    "no image": Fault(body=b"sorry"),
    "another image": Fault(body=jpeg(1, 33, 44)),
    "an image without its end": Fault(body=jpeg(9, 40, 64)[:-200]),
}


@VERIFIED
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_an_image_s_fault_is_survived_once(make_study, server, fault):
    server.faults = [RIGHT, fault]  # the annotations arrive
    run(make_study(coco(server, train=[9], val=[139])))
    with zipfile.ZipFile(server.archives[0]) as archive:
        assert images()["train/000000000009.jpg"] == archive.read("train2017/000000000009.jpg")
    assert len(fetched(server)) == 3


LASTING = {
    "no image": (Fault(body=b"sorry"), r"image 9: .*/000000000009.jpg arrived damaged twice \(.* is no image file"),
    "another image": (Fault(body=jpeg(1, 33, 44)), r"image 9: .*damaged twice \(.* 33 x 44 pixels .* says 40 x 64\)"),
    "an image without its end": (
        Fault(body=jpeg(9, 40, 64)[:-200]),
        r"image 9: .*damaged twice \(.*cannot be decoded \(.*truncated",
    ),
    "a missing image": (Fault(404), "000000000009.jpg: the server answered 404 .*that the server has this file"),
    "a web page": (
        Fault(body=b"<p>", headers={"Content-Type": "text/html"}),
        "000000000009.jpg: .*a web page in place",
    ),
    "a huge file": (Fault(body=bytes(70_000_000)), "000000000009.jpg is larger than 64.0 MB; check data.base_url"),
}


@VERIFIED
@pytest.mark.parametrize(("fault", "message"), LASTING.values(), ids=LASTING)
def test_an_image_that_stays_broken_is_refused_by_name(make_study, server, fault, message):
    server.by_path["/train2017/000000000009.jpg"] = fault
    with refused(message):
        run(make_study(coco(server, train=[9], val=[139])))
    assert not images()


@FETCHED
def test_a_full_disk_is_named(make_study, server, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("imbdet.data.subset.write_bytes", full)
    with refused(r"data/train/\d+.jpg cannot be written \(No space left on device\); free space.*there are kept"):
        run(make_study(coco(server)))


def test_real_images_one_by_one(make_study, serve, shared):
    """Of the official archives; the server also loses a connection and is busy now and then."""
    mirror = shared / "data" / "coco-mirror"
    server = serve(mirror)
    server.archives = tuple(mirror / "zips" / f"{split}2017.zip" for split in ("train", "val"))
    server.faults = [RIGHT, *random.Random(0).sample([Fault(503), Fault(cut=9000), Fault(flip=20), RIGHT], 4)]
    manifest = run(make_study(coco(server, train=6, val=3)))
    assert {split: record["images"] for split, record in manifest["splits"].items()} == {"train": 6, "val": 3}
    assert len(images()) == 9
    assert {
        i["file_name"] for i in json.loads(Path("data/annotations/instances_train.json").read_text())["images"]
    } == {path.name for path in Path("data/train").iterdir()}
