"""PASCAL VOC 2007 from a mirror, and folders and archives of its layout."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mirror import jpeg
from prepared import content, run, state, zipped
from promises import refused
from range_server import RIGHT, Fault
from voc_files import FILES, members, of, voc_mirror, write, write_tar, xml

from imbdet.data.coco import read_annotations
from imbdet.data.voc import CLASSES
from imbdet.files import sha256

LAID_OUT = pytest.mark.promise("A layout or split of VOC that is not clear is refused", "bad input")
WRONG_XML = pytest.mark.promise("Wrong XML of VOC is refused by file, with what is wrong and what to do", "bad input")
CHOSEN = pytest.mark.promise("A seeded split depends on the names of the images alone", "law")
SPLITS = {"train": "trainval", "val": "test"}
LAYOUT = r"expected Annotations/ with XML files, JPEGImages/ and ImageSets/Main/ in one folder"


@pytest.fixture
def voc_folder(tmp_path):
    return write(tmp_path / "own", members())


def voc_format(path, **more):
    return {"source": "voc_format", "folder": "data", "path": str(path), "splits": SPLITS} | more


def voc2007(server, **more):
    hashes = {path.name: sha256(path) for path in server.folder.rglob("*.tar")}
    return {"source": "voc2007", "folder": "data", "base_url": server.url, "checksums": hashes} | more


def annotations(split, folder="data"):
    return json.loads(Path(f"{folder}/annotations/instances_{split}.json").read_text())


def names(split, folder="data"):
    return {image["file_name"] for image in annotations(split, folder)["images"]}


def test_voc_2007_from_a_mirror(make_study, serve, tmp_path):
    server = serve(voc_mirror(tmp_path / "remote"))
    study = make_study(voc2007(server))
    manifest = run(study)
    assert manifest["archives"] == {path.name: sha256(path) for path in server.folder.rglob("*.tar")}
    assert [c["name"] for c in manifest["categories"]] == sorted(CLASSES)
    assert len(CLASSES) == 20
    assert {split: [r["images"], r["boxes"], r["crowds"]] for split, r in manifest["splits"].items()} == {
        "train": [4, 3, 1],
        "val": [2, 2, 1],
    }
    train = annotations("train")
    assert [image["id"] for image in train["images"]] == [5, 7, 9, 12]
    label = {name: number for number, name in enumerate(CLASSES, start=1)}
    cat, dog = ({"image_id": 5, "category_id": label[name]} for name in ("cat", "dog"))
    assert train["annotations"][:2] == [
        {"id": 1, "bbox": [0, 0, 60, 40], **cat},
        {"id": 2, "bbox": [10, 5, 20, 20], "iscrowd": 1, **dog},
    ]
    assert Path("data/train/000005.jpg").read_bytes() == jpeg(0, 40, 60)
    before = state("data", "results")
    run(study)
    assert state("data", "results") == before
    assert [path for path, _ in server.requests] == [f"/voc2007/VOC{n}_06-Nov-2007.tar" for n in ("trainval", "test")]


@pytest.mark.promise("A download goes on where it was cut, in this run or in the next", "fault")
def test_voc_2007_from_a_faulty_mirror(make_study, serve, tmp_path, record_property):
    server = serve(voc_mirror(tmp_path / "remote"))
    faults = [Fault(503), Fault(cut=2000), Fault(flip=700), RIGHT, Fault(body=b"sorry"), RIGHT]
    server.faults = list(faults)
    manifest = run(make_study(voc2007(server)))
    assert not server.faults
    assert manifest["archives"] == {path.name: sha256(path) for path in server.folder.rglob("*.tar")}
    record_property("count", len(faults) - 2)


@pytest.mark.promise("A download that cannot succeed says why and keeps what has arrived", "fault")
def test_voc_2007_that_is_not_there(make_study, serve, tmp_path):
    with refused("VOCtrainval_06-Nov-2007.tar: the server answered 404 .*check data.base_url"):
        run(make_study(voc2007(serve(tmp_path))))


@pytest.mark.parametrize(("choice", "crowds", "boxes"), [("crowd", 1, 3), ("drop", 0, 3)])
def test_difficult_objects_are_no_boxes(make_study, voc_folder, choice, crowds, boxes):
    manifest = run(make_study(voc_format(voc_folder, validation={"marked": choice})))
    train = manifest["splits"]["train"]
    assert (train["crowds"], train["boxes"]) == (crowds, boxes)
    objects = read_annotations(Path("data/annotations/instances_train.json")).objects
    assert [10, 5, 30, 25] not in objects.boxes.tolist()


def test_difficult_objects_are_ignored_also_where_another_policy_is_set(make_study, voc_folder):
    manifest = run(make_study(voc_format(voc_folder, validation={"crowds": "ignore"})))
    assert manifest["splits"]["train"]["crowds"] == 1
    with refused("annotation 2 of image 5 has difficult 1, by which other programs leave it out; mend it, or set"):
        run(make_study(voc_format(voc_folder, folder="strict", validation={"marked": "error"})))


def placed(tmp_path, kind, root):
    """The data set below ``root`` in a folder or archive, beside what tools leave there."""
    junk = {"README.txt": b"hello", f"{root}Annotations/._000005.xml": b"\0", f"{root}JPEGImages/000005.txt": b"\0"}
    everything = members(root=root) | junk
    if kind == "folder":
        return write(tmp_path / "place", everything | {".cache/Annotations/x.xml": b"", ".cache/JPEGImages/x.jpg": b""})
    if kind == "zip":
        return zipped(write(tmp_path / "unpacked", everything), tmp_path / "place.zip")
    return write_tar(tmp_path / f"place.{kind}", everything, "w:gz" if kind == "tar.gz" else "w")


@pytest.mark.parametrize("root", ["", "VOCdevkit/VOC2012/", "a/b/c/"])
@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_folders_and_archives_give_the_same_data_however_deep(make_study, voc_folder, tmp_path, root, kind):
    expected = run(make_study(voc_format(voc_folder, folder="expected")))
    study = make_study(voc_format(placed(tmp_path, kind, root)))
    assert run(study)["splits"] == expected["splits"]
    for split in ("train", "val"):
        assert content(f"data/{split}") == content(f"expected/{split}")
        assert annotations(split) == annotations(split, "expected")
    before = state("data", "results")
    run(study)
    assert state("data", "results") == before


def test_a_changed_annotation_file_is_read_again(make_study, voc_folder):
    study = make_study(voc_format(voc_folder))
    boxes = run(study)["splits"]["train"]["boxes"]
    (voc_folder / "Annotations/000009.xml").write_text(xml(of("dog", (1, 1, 5, 5))))
    assert run(study)["splits"]["train"]["boxes"] == boxes + 1
    (voc_folder / "ImageSets/Main/trainval.txt").write_text("000009\n000012\n")
    assert run(study)["splits"]["train"]["images"] == 2


def test_the_source_is_left_as_it_is(make_study, voc_folder):
    before = state(str(voc_folder))
    run(make_study(voc_format(voc_folder)))
    assert state(str(voc_folder)) == before
    with refused("data.folder .* and data.path .* lie in one another"):
        run(make_study(voc_format(voc_folder, folder=str(voc_folder / "JPEGImages" / "mine"))))


def test_names_that_are_no_numbers_are_numbered_in_order(make_study, tmp_path):
    files = dict(zip(("b-2", "a", "c.1", "d"), FILES.values(), strict=False))
    folder = write(tmp_path / "own", members(files, {"one": ["c.1", "b-2"], "two": ["a"]}))
    (folder / "JPEGImages/c.1.jpg").rename(folder / "JPEGImages/c.1.JPEG")
    run(make_study(voc_format(folder, splits={"train": "one", "val": "two"})))
    assert [(i["id"], i["file_name"]) for i in annotations("train")["images"]] == [(3, "c.1.JPEG"), (2, "b-2.jpg")]
    assert [(i["id"], i["file_name"]) for i in annotations("val")["images"]] == [(1, "a.jpg")]


def test_classes_are_those_of_the_study_or_all_that_there_are(make_study, voc_folder):
    assert [c["name"] for c in run(make_study(voc_format(voc_folder)))["categories"]] == ["cat", "dog", "person"]
    chosen = ["person", "cat", "bird", "dog"]
    manifest = run(make_study(voc_format(voc_folder, folder="other", classes=chosen)))
    assert [c["name"] for c in manifest["categories"]] == chosen
    assert manifest["splits"]["train"]["boxes_by_class"] == {"1": 1, "2": 1, "3": 0, "4": 1}


def test_corners_from_0_as_the_study_says(make_study, tmp_path):
    files = {f"{n}": xml(of("cat", box)) for n, box in enumerate([(0, 0, 59, 39), (10, 5, 29, 24)])}
    folder = write(tmp_path / "own", members(files, {"trainval": "0", "test": "1"}))
    with refused("Annotations/0.xml: object 1 .cat. has xmin 0, but with data.corners one_based the first pixel is 1"):
        run(make_study(voc_format(folder)))
    run(make_study(voc_format(folder, corners="zero_based")))
    assert [a["bbox"] for split in ("train", "val") for a in annotations(split)["annotations"]] == [
        [0, 0, 60, 40],
        [10, 5, 20, 20],
    ]
    run(make_study(voc_format(folder, folder="cut", validation={"reaching_out": "clip"})))
    assert annotations("train", "cut")["annotations"][0]["bbox"] == [0, 0, 59, 39]


@CHOSEN
def test_a_seeded_split_is_a_function_of_names_and_seed(make_study, tmp_path):
    files = {f"image {n}": xml(of("cat", (1, 1, 9, 9))) for n in range(20)}
    folder = write(tmp_path / "own", members(files, {}))
    shutil.rmtree(folder / "ImageSets", ignore_errors=True)

    def split(name, seed, share=0.3):
        run(make_study(voc_format(folder, folder=name, splits={"val_share": share, "seed": seed})))
        return names("train", name), names("val", name)

    train, val = split("first", 1)
    assert (len(train), len(val)) == (14, 6)
    assert train | val == {f"{stem}.jpg" for stem in files}
    assert split("other", 2)[1] != val
    assert split("larger", 1, share=0.5)[1] > val
    for stem in files:
        (folder / f"Annotations/{stem}.xml").write_text(xml(of("dog", (2, 2, 5, 5))))
    assert split("again", 1) == (train, val)


@pytest.mark.promise("Which images a subset has depends on their ids alone, and a smaller one is part of it", "law")
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_subsets_are_nested_and_all_is_all(make_study, tmp_path, kind):
    place = placed(tmp_path, kind, "VOC2007/")
    kept = []
    for number in (1, 2, 3):
        name = f"of-{number}"
        study = make_study(voc_format(place, folder=name, subset={"train": number, "val": "all"}))
        assert run(study)["splits"]["val"]["images"] == 2
        assert names("train", name) == {path.name for path in Path(name, "train").iterdir()}
        kept.append(names("train", name))
    assert list(map(len, kept)) == [1, 2, 3]
    assert kept[0] < kept[1] < kept[2]
    run(make_study(voc_format(place, folder="named", subset={"train": [12], "val": [1]})))
    assert (names("train", "named"), names("val", "named")) == ({"000012.jpg"}, {"000001.jpg"})
    with refused("data.subset.train is 5, but .*Annotations has 4 images; ask for fewer"):
        run(make_study(voc_format(place, folder="more", subset={"train": 5, "val": "all"})))


def test_a_missing_image_is_named_by_the_validation(make_study, voc_folder):
    (voc_folder / "JPEGImages/000007.jpg").unlink()
    with refused("image 7: .*JPEGImages/000007.jpg is missing.*mend it, or set data.validation.missing to drop"):
        run(make_study(voc_format(voc_folder)))


ELSEWHERE = {
    "no layout": ({"images/a.jpg": b""}, rf"{LAYOUT}; found nowhere"),
    "no images": ({"VOC2007/Annotations/1.xml": b""}, rf"{LAYOUT}; found nowhere"),
    "two of them": (
        members(root="x/VOC2007/") | members(root="VOC2012/"),
        rf"{LAYOUT}; found VOC2012, x/VOC2007 each: set data.path to one of them, or pack it alone",
    ),
}
UNCLEAR = {
    "an empty list": ({"ImageSets/Main/test.txt": b"\n"}, "Main/test.txt is empty; expected the name of an image in"),
    "an unknown image": (
        {"ImageSets/Main/test.txt": b"000001\n77\n"},
        r"Main/test.txt names '77', of which there is no Annotations/77.xml; expected a name without its ending",
    ),
    "a list of one class": ({"ImageSets/Main/test.txt": b"000001 -1\n"}, "names '000001 -1', of which .* and no more"),
    "an image twice": ({"ImageSets/Main/test.txt": b"000001\n000001\n"}, "names 000001 more than once; remove one"),
    "lists that overlap": (
        {"ImageSets/Main/test.txt": b"000001\n000005\n000007\n"},
        "the lists trainval and test share 2 images, first 000005; data.splits needs two that share none",
    ),
    "two images of a name": ({"JPEGImages/000005.png": b""}, "JPEGImages has 000005.jpg and 000005.png: remove one"),
}


@LAID_OUT
@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(("files", "message"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_source_of_another_layout_is_refused(make_study, tmp_path, kind, files, message):
    folder = write(tmp_path / "place", files)
    with refused(message):
        run(make_study(voc_format(folder if kind == "folder" else zipped(folder, tmp_path / "place.zip"))))


@LAID_OUT
@pytest.mark.parametrize(("changed", "message"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_not_clear_is_refused(make_study, voc_folder, changed, message):
    write(voc_folder, changed)
    with refused(message):
        run(make_study(voc_format(voc_folder)))


@LAID_OUT
def test_a_list_that_is_absent_is_named_with_those_that_there_are(make_study, voc_folder):
    with refused("has no ImageSets/Main/val.txt; there are the lists test, trainval: check data.splits"):
        run(make_study(voc_format(voc_folder, splits={"train": "trainval", "val": "val"})))


@LAID_OUT
def test_a_share_that_leaves_a_split_empty_is_refused(make_study, voc_folder):
    with refused(r"data.splits.val_share 0.01 of 6 images is 0; each split needs at least one"):
        run(make_study(voc_format(voc_folder, splits={"val_share": 0.01, "seed": 1})))


BAD_SETTINGS = {
    "no way to split": (
        {"splits": {}},
        "data.splits: expected either train and val, names of lists .* or val_share and",
    ),
    "two ways": ({"splits": SPLITS | {"val_share": 0.5, "seed": 1}}, "data.splits: expected either train and val"),
    "half a way": ({"splits": {"val_share": 0.5}}, "data.splits: expected either train and val"),
    "a share of all": ({"splits": {"val_share": 1.0, "seed": 1}}, "val_share is 1.0: Input should be less than 1"),
    "one list": ({"splits": {"train": "all", "val": "all"}}, "train and val are both 'all': nothing would be left"),
    "a path": ({"splits": {"train": "../x", "val": "test"}}, "train is '../x'; expected the name of a list in"),
    "a class twice": ({"classes": ["cat", "cat"]}, "classes names one more than once"),
    "a blank class": ({"classes": ["cat", " "]}, "classes has ' '; expected lines of text"),
    "no class": ({"classes": []}, "data.classes is .*at least 1 item"),
    "other corners": ({"corners": "half"}, "data.corners is 'half'.*'one_based', 'zero_based' or 'edges'"),
    "another key": ({"split": SPLITS}, "unknown key 'data.split'; did you mean 'splits'"),
    "words for a subset": ({"subset": {"train": "some", "val": "all"}}, "data.subset.train.* is 'some'.*'all'"),
}


@LAID_OUT
@pytest.mark.parametrize(("more", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_settings_that_cannot_be_are_refused(make_study, voc_folder, more, message):
    with refused(message):
        make_study(voc_format(voc_folder, **more))


@WRONG_XML
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_wrong_file_is_named_and_how_many_more_there_are(make_study, tmp_path, kind):
    wrong = {"000007": xml(width="wide"), "000012": xml(of("dog", (9, 1, 3, 4))), "000002": "<annotation>"}
    folder = write(tmp_path / "place", members(FILES | wrong))
    place = folder if kind == "folder" else zipped(folder, tmp_path / "place.zip")
    with refused(
        r"place.*/Annotations/000007.xml: the image has width 'wide'.* \(and 1 more files are wrong: 000012\)$"
    ):
        run(make_study(voc_format(place)))
    assert not Path("data/annotations").exists()


@WRONG_XML
def test_a_class_that_is_not_listed_is_named(make_study, voc_folder, serve, tmp_path, monkeypatch):
    with refused("Annotations/000007.xml: object 1 has name 'person', which is no class; .*Known: cat, dog"):
        run(make_study(voc_format(voc_folder, classes=["cat", "dog"])))
    monkeypatch.setitem(FILES, "000012", xml(of("doge", (1, 1, 9, 9))))
    server = serve(voc_mirror(tmp_path / "remote"))
    with refused("000012.xml: object 1 has name 'doge', which is no class; did you mean 'dog'"):
        run(make_study(voc2007(server)))


def test_the_mirror_of_real_photographs(shared, make_study, serve, tmp_path):
    """Its XML was written from the boxes of another archive, rounded to two digits."""
    subprocess.run([sys.executable, str(shared / "data" / "voc_mirror.py"), str(tmp_path / "remote")], check=True)
    manifest = run(make_study(voc2007(serve(tmp_path / "remote"), subset={"train": 40, "val": 20})))
    assert {split: record["images"] for split, record in manifest["splits"].items()} == {"train": 40, "val": 20}
    with zipfile.ZipFile(shared / "data" / "voc2007-256.zip") as archive:
        for split in ("train", "val"):
            original, found = json.loads(archive.read(f"annotations/instances_{split}.json")), annotations(split)
            label = {c["id"]: c["name"] for c in original["categories"]}
            boxes = {image["id"]: [] for image in found["images"]}
            for a in original["annotations"]:
                if a["image_id"] in boxes:
                    boxes[a["image_id"]].append((label[a["category_id"]], *a["bbox"]))
            for a in found["annotations"]:
                name, *box = boxes[a["image_id"]].pop(0)
                assert CLASSES[a["category_id"] - 1] == name
                assert a["bbox"] == pytest.approx(box, abs=0.0101)
            assert not any(boxes.values())


def test_the_archive_of_blood_cells_from_a_mirror(shared, make_study, serve):
    mirror = shared / "data" / "bccd-mirror"
    server = serve(mirror)
    server.faults = [Fault(cut=3_000_000)]
    place = {"url": f"{server.url}/BCCD_Dataset.zip", "sha256": sha256(mirror / "BCCD_Dataset.zip")}
    data = {"source": "voc_format", "folder": "data", "splits": SPLITS, "classes": ["RBC", "WBC", "Platelets"]}
    splits = run(make_study(data | place))["splits"].values()
    assert sum(split["images"] for split in splits) == 364
    assert [sum(split["boxes_by_class"][c] for split in splits) for c in "123"] == [4155, 372, 361]
