"""Archives, folders and COCO's own server as sources: complete and right, or refused in words that name the fault."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from mirror import checksums
from PIL import Image
from prepared import coco_format, content, run, state, zipped
from promises import refused, said
from range_server import RIGHT, Fault, Server
from torchvision.datasets.voc import DATASET_YEAR_DICT

from imbdet.__main__ import main
from imbdet.config import Study
from imbdet.data.published import Archives
from imbdet.files import sha256
from imbdet.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
MakeStudy = Callable[..., Study]
NAMED = pytest.mark.promise("A source that is missing, damaged or not as its hash says is refused by name", "bad input")
GOES_ON = pytest.mark.promise("A download goes on where it was cut, in this run or in the next", "fault")


def test_a_folder_and_its_archive_give_the_same_data(make_study: MakeStudy, coco_folder: Path, tmp_path: Path) -> None:
    linked = run(make_study(coco_format(coco_folder)))
    archive = zipped(coco_folder, tmp_path / "some.zip")
    unpacked = run(make_study(coco_format(archive) | {"folder": "unpacked"}))
    assert linked["splits"] == unpacked["splits"]
    assert linked["splits"]["train"] | {"images": 3, "boxes": 3, "crowds": 1} == linked["splits"]["train"]
    assert unpacked["archives"] == {"some.zip": sha256(archive)}
    assert Path("data/train/a/one.png").is_symlink()
    assert not Path("unpacked/train/a/one.png").is_symlink()
    assert Path("unpacked/train/a/one.png").read_bytes() == (coco_folder / "train/a/one.png").read_bytes()
    before = state("data", "unpacked", "results")
    run(make_study(coco_format(archive) | {"folder": "unpacked"}))
    assert state("data", "unpacked", "results") == before


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_the_spelling_of_a_file_name_means_nothing(
    make_study: MakeStudy, coco_folder: Path, tmp_path: Path, kind: str
) -> None:
    expected = run(make_study(coco_format(coco_folder)))
    path = coco_folder / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace("a/one.png", "a//./one.png").replace("two.jpg", "./two.jpg"))
    source = coco_folder if kind == "folder" else zipped(coco_folder, tmp_path / "some.zip")
    assert run(make_study(coco_format(source) | {"folder": "spelt"}))["splits"] == expected["splits"]


def test_what_nobody_annotated_stays_out(make_study: MakeStudy, coco_folder: Path) -> None:
    Image.new("RGB", (9, 9)).save(coco_folder / "train" / "extra.png")
    run(make_study(coco_format(coco_folder)))
    assert not Path("data/train/extra.png").exists()


def test_lost_files_of_an_archive_come_back(make_study: MakeStudy, coco_folder: Path, tmp_path: Path) -> None:
    study = make_study(coco_format(zipped(coco_folder, tmp_path / "some.zip")))
    run(study)
    before = content("data")
    kept = os.stat("data/train/two.jpg").st_ino
    Path("data/train/three.png").unlink()
    Path("data/annotations/instances_val.json").unlink()
    run(study)
    assert content("data") == before
    assert os.stat("data/train/two.jpg").st_ino == kept


def break_annotations(folder: Path, split: str, **parts: Any) -> None:
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def cut_annotations(folder: Path) -> None:
    path = folder / "annotations" / "instances_val.json"
    path.write_text(path.read_text()[:-9])


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no annotations": (lambda f: (f / "annotations/instances_val.json").unlink(), r"instances_val.json"),
    "cut annotations": (cut_annotations, r"instances_val.json is not valid JSON"),
    "no image": (lambda f: (f / "train/two.jpg").unlink(), r"image 5: /.*(source|some.zip)/train/two.jpg is missing"),
    "no image file": (
        lambda f: void((f / "val/five.png").write_bytes(b"junk")),
        r"image 2: .*/val/five.png is no image file",
    ),
    "other size": (
        lambda f: Image.new("RGB", (9, 8)).save(f / "val/five.png"),
        r"image 2: .*/val/five.png has 8 x 9 pixels \(height x width\), but its annotation file says 32 x 48",
    ),
    "no boxes": (
        lambda f: break_annotations(f, "train", annotations=[]),
        r"instances_train.json has no foreground box",
    ),
    "other classes": (
        lambda f: break_annotations(f, "val", categories=[{"id": 7, "name": "cow"}, {"id": 3, "name": "dog"}]),
        r"instances_train.json and .*instances_val.json must list the same categories",
    ),
}


def void(_: object) -> None:
    """Drop a value."""


@NAMED
@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_source_is_named_and_can_be_mended(
    make_study: MakeStudy, coco_folder: Path, tmp_path: Path, damage: str, kind: str
) -> None:
    good = shutil.copytree(coco_folder, tmp_path / "good")
    spoil, message = DAMAGE[damage]
    spoil(coco_folder)
    archive = tmp_path / "some.zip"
    path = coco_folder if kind == "folder" else zipped(coco_folder, archive)
    with refused(message):
        run(make_study(coco_format(path)))
    assert not Path("results/test/data.json").exists()
    shutil.rmtree(coco_folder)
    shutil.copytree(good, coco_folder)
    zipped(coco_folder, archive)
    assert run(make_study(coco_format(path)))["splits"]["val"]["images"] == 2


@NAMED
def test_a_folder_without_annotations_says_what_it_holds(make_study: MakeStudy, coco_folder: Path) -> None:
    (coco_folder / "annotations/instances_val.json").rename(coco_folder / "annotations/val.json")
    with refused(
        r"data.path .*source has no annotations/instances_val.json; expected annotations/instances_train.json, "
        r"annotations/instances_val.json, train/ and val/. It holds annotations/, train/, val/$"
    ) as error:
        run(make_study(coco_format(coco_folder)))
    assert "python -m imbdet data" not in str(error.value)


@NAMED
def test_an_archive_with_a_folder_on_top_says_so(make_study: MakeStudy, coco_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(coco_folder, tmp_path / "packed" / "cats")
    archive = zipped(tmp_path / "packed", tmp_path / "some.zip")
    with refused(
        r"archive .*some.zip has no annotations/instances_train.json; it has cats/annotations/instances_train.json: "
        r"pack the content of cats/, not that folder itself"
    ):
        run(make_study(coco_format(archive)))


@NAMED
def test_an_archive_of_something_else_says_what_it_holds(make_study: MakeStudy, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for name in ("images/1.jpg", "images/2.jpg", "labels/1.txt", "data.yaml"):
            archive.writestr(name, b"x")
    with refused(
        r"some.zip has no annotations/instances_train.json; it holds data.yaml, images/, labels/; check that it is"
    ):
        run(make_study(coco_format(tmp_path / "some.zip")))


@NAMED
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "annotations\\instances_train.json",
            r"names with \\ in place of / are folders on Windows alone, pack it with /",
        ),
        ("cats\\annotations\\instances_train.json", r"names with \\ in place of / are folders on Windows alone"),
        ("./cats/annotations/instances_train.json", r"pack the content of cats/, not that folder itself"),
    ],
)
def test_an_archive_packed_in_another_way_says_so(
    make_study: MakeStudy, tmp_path: Path, name: str, message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr(name, b"{}")
    with refused(message):
        run(make_study(coco_format(tmp_path / "some.zip")))


def test_an_archive_may_write_the_current_folder_before_its_names(
    make_study: MakeStudy, coco_folder: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for file in coco_folder.rglob("*.*"):
            archive.writestr(f"./{file.relative_to(coco_folder)}", file.read_bytes())
    assert run(make_study(coco_format(tmp_path / "some.zip")))["splits"]["train"]["images"] == 3


@NAMED
@pytest.mark.parametrize("content", [b"", b"7z\xbc\xaf\x27\x1c and so on"])
def test_a_file_of_no_known_kind_is_refused_in_one_line(make_study: MakeStudy, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.zip").write_bytes(content)
    with refused(r"some.zip is corrupt or no zip or tar file \(.*\); fetch it again$") as error:
        run(make_study(coco_format(tmp_path / "some.zip")))
    assert "\n" not in str(error.value)


def test_a_project_of_a_doubled_name_gets_no_hint(make_study: MakeStudy, coco_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(coco_folder, tmp_path / "coco" / "coco")
    (folder / "train" / "two.jpg").unlink()
    with refused(r"coco/coco/train/two.jpg is missing; mend it"):
        run(make_study(coco_format(folder)))


def rename_image(folder: Path, name: str) -> None:
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = name
    path.write_text(json.dumps(content))


MISNAMED = {
    "a backslash": ("a\\two.jpg", r"a\\two.jpg is missing; its file_name has a backslash, expected / between folders"),
    "the folder twice": (
        "train/two.jpg",
        r"train/train/two.jpg is missing; its file_name may repeat the folder train/, expected a path inside of it",
    ),
}


@NAMED
@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("case", MISNAMED)
def test_a_file_name_with_a_likely_mistake_is_told(
    make_study: MakeStudy, coco_folder: Path, tmp_path: Path, case: str, kind: str
) -> None:
    name, message = MISNAMED[case]
    rename_image(coco_folder, name)
    path = coco_folder if kind == "folder" else zipped(coco_folder, tmp_path / "some.zip")
    with refused(rf"image 5: .*{message}; mend it, or set data.validation.missing to drop") as error:
        run(make_study(coco_format(path)))
    assert str(path / "train") in str(error.value).partition("image 5")[2]


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_colon_may_stand_in_a_file_name(make_study: MakeStudy, coco_folder: Path, tmp_path: Path, kind: str) -> None:
    """As in frames that are named by the time; nor does such a name among other files spoil an archive."""
    name = "frame 12:30:05.jpg"
    rename_image(coco_folder, name)
    (coco_folder / "train" / "two.jpg").rename(coco_folder / "train" / name)
    (coco_folder / "12:31 notes.txt").touch()
    path = coco_folder if kind == "folder" else zipped(coco_folder, tmp_path / "some.zip")
    assert run(make_study(coco_format(path)))["splits"]["train"]["images"] == 3
    assert Path("data/train", name).is_file()


@NAMED
def test_a_missing_source_is_named(make_study: MakeStudy) -> None:
    with refused(r"data.path nowhere.zip does not exist; expected a zip or tar archive"):
        run(make_study(coco_format(Path("nowhere.zip"))))


@NAMED
def test_an_archive_s_hash_is_checked_before_it_is_used(
    make_study: MakeStudy, coco_folder: Path, tmp_path: Path
) -> None:
    archive = zipped(coco_folder, tmp_path / "some.zip")
    found = sha256(archive)
    with refused(rf"some.zip has sha256 {found}, but data.sha256 says 0000"):
        run(make_study(coco_format(archive, sha256="0" * 64)))
    assert not Path("data/train").exists()
    assert run(make_study(coco_format(archive, sha256=found)))["archives"] == {"some.zip": found}
    with refused(r"data.sha256 is for archives, but data.path .*source is a folder"):
        run(make_study(coco_format(coco_folder, sha256=found) | {"folder": "other"}))


@NAMED
def test_a_corrupt_archive_is_named(make_study: MakeStudy, tmp_path: Path) -> None:
    (tmp_path / "some.zip").write_bytes(b"PK not really")
    with refused(r"archive some.zip is corrupt or no zip or tar file"):
        run(make_study(coco_format(Path("some.zip"))))


def coco2017(server: Server) -> dict[str, Any]:
    hashes = checksums(server.folder)
    return {"source": "coco2017", "folder": "data", "base_url": server.url, "checksums": hashes}


@GOES_ON
def test_coco_2017_from_a_mirror(shared: Path, make_study: MakeStudy, serve: Callable[[Path], Server]) -> None:
    server = serve(shared / "data" / "coco-mirror")
    server.faults = [Fault(cut=10_000), RIGHT, Fault(cut=3_000_000)]
    study = make_study(coco2017(server))
    manifest = run(study)
    assert manifest["archives"].keys() == {"annotations_trainval2017.zip", "train2017.zip", "val2017.zip"}
    for split, images, archive in (("train", 48, "train2017"), ("val", 48, "val2017")):
        assert manifest["splits"][split]["images"] == images == len(list(Path("data", split).iterdir()))
        assert manifest["archives"][f"{archive}.zip"] == sha256(shared / "data/coco-mirror/zips" / f"{archive}.zip")
        with zipfile.ZipFile(shared / "data/coco-mirror/zips" / f"{archive}.zip") as original:
            for name in original.namelist():
                assert Path("data", split, Path(name).name).read_bytes() == original.read(name)
    requests, before = len(server.requests), content()
    run(study)
    assert len(server.requests) == requests == 5
    Path("data/annotations/instances_train.json").unlink()
    Path("data/val/000000000139.jpg").unlink()
    run(study)
    assert len(server.requests) == requests
    assert content() == before
    for name in ("annotations/instances_val.json", "archives/train2017.zip", "archives/val2017.zip"):
        Path("data", name).unlink()  # the archives of images are not needed for the annotations
    assert run(study) == manifest
    assert len(server.requests) == requests


PUBLISHED = {
    "coco2017": ["annotations_trainval2017.zip", "train2017.zip", "val2017.zip"],
    "lvis_v1": ["train2017.zip", "val2017.zip"],
    "voc2007": ["VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"],
}


@pytest.mark.promise("A mirror with other content than the published archives has to say so", "fault")
@pytest.mark.parametrize(("source", "archive"), [(s, archive) for s, names in PUBLISHED.items() for archive in names])
def test_published_hashes_are_built_in(make_study: MakeStudy, source: str, archive: str) -> None:
    """A file of another content lies where the archive is downloaded to."""
    Path("data/archives").mkdir(parents=True)
    Path("data/archives", archive).write_bytes(b"another")
    data = make_study({"source": source, "folder": "data"}).data
    with refused(r"archives/.* has sha256 .*, but the published one \(of a mirror .*\) has [0-9a-f]{64}; remove"):
        Archives(data, Layout("test", "data", 1)).get(f"http://127.0.0.1:9/{archive}")


def test_the_md5_of_voc_are_torchvisions(make_study: MakeStudy) -> None:
    data = make_study({"source": "voc2007", "folder": "data"}).data
    for key in ("2007", "2007-test"):
        official = DATASET_YEAR_DICT[key]
        assert data.expected(official["filename"])[1:] == (official["md5"],)
        assert official["url"] == f"{data.base_url}/voc2007/{official['filename']}"


@pytest.mark.promise("COCO 2017 arrives whole from a server with every kind of fault", "fault")
def test_coco_2017_from_a_faulty_mirror(
    shared: Path,
    make_study: MakeStudy,
    serve: Callable[[Path], Server],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr("imbdet.data.download.TIMEOUT", (1.0, 0.2))
    mirror = shared / "data" / "coco-mirror"
    server = serve(mirror)
    busy = [Fault(500), Fault(503), Fault(429, {"Retry-After": "0"}), Fault(cut=9000)]
    lies = [Fault(flip=2_000_000), Fault(cut=3_000_000), Fault(shift=5), Fault(longer=1000), Fault(longer=-1000)]
    slow = [Fault(cut=10**6, stall=9.0), Fault(forgets=True, cut=10**6), Fault(body=b"sorry")]
    server.faults = [*busy, RIGHT, *lies, RIGHT, *slow]
    manifest = run(make_study(coco2017(server)))
    assert not server.faults
    for archive in mirror.rglob("*.zip"):
        assert manifest["archives"][archive.name] == sha256(archive)
    record_property("count", len([*busy, *lies, *slow]))


@GOES_ON
def test_coco_2017_without_images_of_an_archive(
    shared: Path, make_study: MakeStudy, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    """An interrupted run goes on where it stopped: the training images are not fetched again."""
    mirror = tmp_path / "mirror"
    shutil.copytree(shared / "data" / "coco-mirror", mirror, copy_function=os.symlink)
    (mirror / "zips" / "val2017.zip").rename(mirror / "away.zip")
    server = serve(mirror)
    with refused(r"/zips/val2017.zip: the server answered 404"):
        run(make_study(coco2017(server)))
    assert len(list(Path("data/train").iterdir())) == 48
    server.requests.clear()
    (mirror / "away.zip").rename(mirror / "zips" / "val2017.zip")
    assert run(make_study(coco2017(server)))["splits"]["val"]["images"] == 48
    assert server.requests == [("/zips/val2017.zip", None)]


@pytest.mark.promise("A download that cannot succeed says why and keeps what has arrived", "fault")
def test_the_command_ends_with_one_line_and_no_traceback(
    tmp_path: Path, serve: Callable[[Path], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = yaml.safe_load((ROOT / "config" / "coco-subset.yaml").read_text())
    raw["data"]["base_url"] = serve(tmp_path).url.replace("://", "://someone:hush@")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["imbdet", "data", "mine.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    said(
        r"^error: http://127.0.0.1:\d+/annotations/annotations_trainval2017.zip: the server answered 404 .*$",
        end.value.code,
    )


def test_real_images_of_a_coco_format_archive(shared: Path, make_study: MakeStudy, tmp_path: Path) -> None:
    """The first images of a real archive, packed anew so that the test stays short."""
    small = tmp_path / "voc.zip"
    with zipfile.ZipFile(shared / "data" / "voc2007-256.zip") as voc, zipfile.ZipFile(small, "w") as archive:
        for split in ("train", "val"):
            whole = json.loads(voc.read(f"annotations/instances_{split}.json"))
            images = list(islice(whole["images"], 12))
            ids = {image["id"] for image in images}
            whole |= {"images": images, "annotations": [a for a in whole["annotations"] if a["image_id"] in ids]}
            archive.writestr(f"annotations/instances_{split}.json", json.dumps(whole))
            for image in images:
                archive.writestr(f"{split}/{image['file_name']}", voc.read(f"{split}/{image['file_name']}"))
    manifest = run(make_study(coco_format(small)))
    assert manifest["splits"]["train"]["images"] == 12
    assert len(manifest["categories"]) == 20
