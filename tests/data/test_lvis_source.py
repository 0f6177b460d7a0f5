"""LVIS v1 as it is published: its annotations with COCO's images."""

import json
import zipfile
from pathlib import Path

import pytest
from mirror import LVIS_CATEGORIES, checksums, jpeg, lvis_image, lvis_mirror, write_zip
from prepared import run, state
from promises import refused
from range_server import Fault

from imbdet.files import sha256

ARCHIVES = ("lvis_v1_train.json.zip", "lvis_v1_val.json.zip", "train2017.zip", "val2017.zip")


@pytest.fixture
def server(tmp_path, serve):
    server = serve(tmp_path / "remote")
    server.archives = lvis_mirror(server.folder)
    return server


def lvis(server, **more):
    more["checksums"] = checksums(server.folder) | more.get("checksums", {})
    return {"source": "lvis_v1", "folder": "data", "base_url": server.url, "annotations_url": f"{server.url}/", **more}


def annotations(split):
    return json.loads(Path(f"data/annotations/instances_{split}.json").read_text())


def files(split):
    return {str(path.relative_to(f"data/{split}")) for path in Path("data", split).rglob("*.jpg")}


def test_images_come_from_both_of_cocos_archives(make_study, server):
    study = make_study(lvis(server))
    manifest = run(study)
    assert files("train") == {f"train2017/{i:012}.jpg" for i in (9, 25, 30)}
    assert files("val") == {"train2017/000000000034.jpg", "val2017/000000000139.jpg"}
    assert {image["file_name"] for image in annotations("val")["images"]} == files("val")
    assert manifest["archives"].keys() == set(ARCHIVES)
    assert manifest["archives"]["val2017.zip"] == sha256(server.folder / "zips" / "val2017.zip")
    before = state("data", "results")
    run(study)
    assert state("data", "results") == before
    assert len(server.requests) == 4


def test_groups_and_lists_of_lvis_are_kept(make_study, server):
    run(make_study(lvis(server)))
    for split in ("train", "val"):
        assert [c["frequency"] for c in annotations(split)["categories"]] == [c["frequency"] for c in LVIS_CATEGORIES]
        for image in annotations(split)["images"]:
            assert image["neg_category_ids"] == [2]
            assert image["not_exhaustive_category_ids"] == [5]


@pytest.mark.promise("A subset fetches single images, none twice, and goes on where it was stopped", "fault")
def test_a_subset_fetches_single_images(make_study, server):
    server.by_path["/train2017/000000000034.jpg"] = Fault(403)
    study = make_study(lvis(server, subset={"train": 2, "val": [34]}))
    with refused("/train2017/000000000034.jpg: the server answered 403"):
        run(study)
    server.by_path.clear()
    manifest = run(study)
    assert files("val") == {"train2017/000000000034.jpg"}
    assert len(files("train")) == 2 == manifest["splits"]["train"]["images"]
    assert manifest["archives"].keys() == set(ARCHIVES[:2])
    assert len(server.requests) == 2 + 2 + 2


NAMELESS = {
    "another site": "http://some.host/000000000030.jpg",
    "leading out": "x/train2017/../000000000030.jpg",
    "none": None,
}


@pytest.mark.promise("Annotations of LVIS whose images cannot be found are refused", "bad input")
@pytest.mark.parametrize("url", NAMELESS.values(), ids=NAMELESS)
def test_an_image_without_cocos_address_is_refused(make_study, server, url):
    whole = {"images": [lvis_image(30, "train", (40, 48), coco_url=url)], "annotations": [], "categories": []}
    write_zip(server.folder / "lvis_v1_train.json.zip", {"lvis_v1_train.json": whole})
    with refused(r"lvis_v1_train.json: image 30 has coco_url .*; expected an end like train2017/000000000030.jpg"):
        run(make_study(lvis(server)))


@pytest.mark.promise("A download gets its name only when its size and hash or CRCs are right", "fault")
@pytest.mark.parametrize("name", ARCHIVES)
def test_hashes_of_a_study_are_checked(make_study, server, name):
    with refused(rf"/{name} arrived damaged twice \(sha256 .*, but data.checksums says 0000"):
        run(make_study(lvis(server, checksums={name: "0" * 64})))
    path = next(server.folder.rglob(name))
    assert run(make_study(lvis(server, checksums={name: sha256(path)})))["archives"][name] == sha256(path)


@pytest.mark.promise("A hash of a file that is not downloaded is refused", "bad input")
@pytest.mark.parametrize(
    ("checksums", "message"),
    [
        (
            {"train2017.tar": "0" * 64},
            "checksums names 'train2017.tar'; the archives are lvis_v1_train.json.zip, lvis_v1_",
        ),
        ({"train2017.zip": "0" * 63}, "checksums.train2017.zip is '0+': String should match pattern"),
    ],
)
def test_a_hash_of_nothing_is_refused(make_study, server, checksums, message):
    with refused(message):
        make_study(lvis(server, checksums=checksums))


def test_an_excerpt_of_the_real_annotations(make_study, serve, shared, tmp_path):
    """Five images of v0.5's excerpt, whose records have v1's keys and a file name of their own besides."""
    whole = json.loads((shared / "data" / "lvis-v0.5-val-100.json").read_text())
    images = whole["images"][:5]
    ids = {image["id"] for image in images}
    whole |= {"images": images, "annotations": [a for a in whole["annotations"] if a["image_id"] in ids]}
    server = serve(tmp_path / "remote")
    members = {f"val2017/{i['id']:012}.jpg": jpeg(i["id"], i["height"], i["width"]) for i in images}
    server.archives = (write_zip(server.folder / "zips" / "val2017.zip", members),)
    for split in ("train", "val"):
        write_zip(server.folder / f"lvis_v1_{split}.json.zip", {f"lvis_v1_{split}.json": whole})
    manifest = run(make_study(lvis(server)))
    assert len(manifest["categories"]) == 1230
    assert files("val") == set(members)
    kept = {image["id"]: image for image in annotations("val")["images"]}
    for image in images:
        assert kept[image["id"]]["neg_category_ids"] == image["neg_category_ids"]
        assert kept[image["id"]]["not_exhaustive_category_ids"] == image["not_exhaustive_category_ids"]
    with zipfile.ZipFile(server.archives[0]) as archive:
        for name in members:
            assert Path("data/val", name).read_bytes() == archive.read(name)
