"""Data in a known format from an address: one archive with its hash, or the files of a manifest."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from urllib.parse import quote

import pytest
from prepared import coco_format, content, run, state, zipped
from promises import refused
from range_server import RIGHT, Fault
from voc_files import members, write

from imbdet.files import sha256

GOES_ON = pytest.mark.promise("A download goes on where it was cut, in this run or in the next", "fault")
VERIFIED = pytest.mark.promise("A download gets its name only when its size and hash or CRCs are right", "fault")
EXPLAINED = pytest.mark.promise("A download that cannot succeed says why and keeps what has arrived", "fault")
NAMED = pytest.mark.promise("An address without a hash, and a manifest that is none, are refused", "bad input")


@pytest.fixture
def server(tmp_path, serve, coco_folder):
    """Serves the folder of a data set in COCO's format, and archives of it and of one in VOC's."""
    server = serve(coco_folder)
    (coco_folder / "train" / "three.png").rename(coco_folder / "train" / "three & a half.png")
    text = (coco_folder / "annotations/instances_train.json").read_text()
    (coco_folder / "annotations/instances_train.json").write_text(text.replace("three.png", "three & a half.png"))
    listed(coco_folder, tmp_path / "coco.sha256")
    archive = zipped(coco_folder, tmp_path / "coco.zip")
    voc = zipped(write(tmp_path / "voc", members(root="VOC/")), tmp_path / "voc.zip")
    for path in (archive, voc):
        shutil.move(path, coco_folder / path.name)
    return server


def listed(folder, path):
    """Write a manifest as `sha256sum` does."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    path.write_text("".join(f"{sha256(file)}  {file.relative_to(folder)}\n" for file in files))


def archive(server, name="coco", **more):
    place = {"url": f"{server.url}/{name}.zip?download=1", "sha256": sha256(server.folder / f"{name}.zip")}
    splits = {"splits": {"train": "trainval", "val": "test"}} if name == "voc" else {}
    return {"source": f"{name}_format", "folder": "data", **place, **splits, **more}


def manifest(server, **more):
    return {"source": "coco_format", "folder": "data", "url": f"{server.url}/", "manifest": "coco.sha256", **more}


def asked(server):
    return [path for path, _ in server.requests]


@GOES_ON
@pytest.mark.parametrize("name", ["coco", "voc"])
def test_an_archive_from_an_address_is_that_archive(make_study, server, name):
    size = (server.folder / f"{name}.zip").stat().st_size
    server.faults = [Fault(503), Fault(cut=size // 2), Fault(flip=size // 2), RIGHT]
    here = {k: v for k, v in archive(server, name).items() if k not in ("url", "sha256")}
    local = run(make_study(here | {"folder": "local", "path": str(server.folder / f"{name}.zip")}))
    fetched = run(make_study(archive(server, name)))
    assert not server.faults
    assert fetched["splits"] == local["splits"]
    assert fetched["archives"] == local["archives"] == {f"{name}.zip": sha256(server.folder / f"{name}.zip")}
    for split in ("train", "val"):
        assert content(f"data/{split}") == content(f"local/{split}")
    requests, before = len(server.requests), state("data", "results")
    run(make_study(archive(server, name)))
    Path(f"data/archives/{name}.zip").unlink()  # once all is prepared it may go
    run(make_study(archive(server, name)))
    assert {k: v for k, v in before.items() if "archives" not in k} == state("data", "results")
    assert len(server.requests) == requests


@VERIFIED
def test_an_archive_of_another_hash_is_refused(make_study, server):
    with refused(
        "coco.zip.* arrived damaged twice .sha256 .*, but data.sha256 says 0000.*check data.url, the hash and"
    ):
        run(make_study(archive(server, sha256="0" * 64)))
    assert not list(Path("data").rglob("*.zip*"))
    run(make_study(archive(server)))
    Path("data/archives/coco.zip").write_bytes(b"another")
    with refused("data/archives/coco.zip has sha256 .*, but data.sha256 says .*; remove it to fetch it again"):
        run(make_study(archive(server)))


@EXPLAINED
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(404), "coco.zip.*: the server answered 404 .*; check data.url, and that the server has this file"),
        (Fault(403), "coco.zip.*: the server answered 403 .*; check data.url, and whether .* a proxy .data.proxy"),
        (Fault(body=b"<p>", headers={"Content-Type": "text/html"}), "a web page in place of the file; check data.url"),
        (Fault(503), "coco.zip.*: the server answered 503 .*5 attempts.*check data.url, data.proxy and the network"),
    ],
)
def test_messages_name_the_key_of_the_address(make_study, server, fault, message):
    server.faults = [fault] * 5
    with refused(message):
        run(make_study(archive(server)))


@EXPLAINED
def test_a_disk_that_is_too_small_is_noticed_first(make_study, server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 10))
    with refused(
        r"downloading http.*coco.zip.* needs 0.0 MB in .*, where 0.0 MB are free; free some or set data.folder"
    ):
        run(make_study(archive(server)))


def test_an_archive_is_fetched_through_the_study_s_proxy(make_study, server):
    proxy, server.url = server.url, "http://data.example"
    study = make_study(archive(server, proxy=proxy))
    assert run(study)["splits"]["train"]["images"] == 3
    assert {headers["Host"] for headers in server.headers} == {"data.example"}
    assert "proxy" not in study.data.model_dump()


@pytest.mark.promise("A password in an address is in no message, manifest or record", "law")
def test_a_password_in_the_address_is_not_told(make_study, server):
    plain, server.url = server.url, server.url.replace("://", "://someone:hush@")
    server.faults = [Fault(404)]
    with refused("coco.zip.*: the server answered 404") as error:
        run(make_study(archive(server)))
    assert "hush" not in str(error.value)
    found = run(make_study(archive(server)))
    assert found["source"]["url"].startswith(plain)
    assert "hush" not in "".join(text.decode() for text in content("results").values())


@GOES_ON
def test_the_files_of_a_manifest_are_those_of_the_folder(make_study, server, coco_folder):
    server.faults = [Fault(503), Fault(cut=100), Fault(flip=50)]
    local = run(make_study(coco_format(coco_folder) | {"folder": "local"}))
    fetched = run(make_study(manifest(server)))
    assert fetched["splits"] == local["splits"]
    assert fetched["archives"] == {"coco.sha256": sha256(Path("coco.sha256"))}
    for split in ("train", "val"):
        assert content(f"data/{split}") == content(f"local/{split}")
    names = [line.split("  ", 1)[1] for line in Path("coco.sha256").read_text().splitlines()]
    assert len(names) == 7
    assert set(asked(server)) == {f"/{quote(name)}" for name in names}
    requests, before = len(server.requests), state("data", "results")
    run(make_study(manifest(server)))
    assert (len(server.requests), state("data", "results")) == (requests, before)


@GOES_ON
def test_files_that_arrived_are_not_fetched_again(make_study, server):
    server.by_path["/val/five.png"] = Fault(403)
    with refused("/val/five.png: the server answered 403 .*; check data.url"):
        run(make_study(manifest(server)))
    there = {path.name for path in Path("data/files").rglob("*.*") if path.is_file() and path.suffix != ".part"}
    server.by_path.clear()
    server.requests.clear()
    run(make_study(manifest(server)))
    assert len(server.requests) == 7 - len(there)
    assert "/val/five.png" in asked(server)


@VERIFIED
def test_a_file_that_is_not_the_manifest_s_is_refused(make_study, server, coco_folder):
    right = (coco_folder / "train/two.jpg").read_bytes()
    (coco_folder / "train/two.jpg").write_bytes(right + b"\0")
    with refused("/train/two.jpg arrived damaged twice .sha256 .*, but data.manifest says"):
        run(make_study(manifest(server)))
    assert not Path("data/files/train/two.jpg").exists()
    (coco_folder / "train/two.jpg").write_bytes(right)
    run(make_study(manifest(server)))
    Path("data/files/train/two.jpg").write_bytes(right + b"\0")
    with refused("data/files/train/two.jpg has sha256 .*, but data.manifest says .*; remove it to fetch it again"):
        run(make_study(manifest(server)))


def test_a_changed_manifest_is_read_again_and_what_it_left_out_is_no_data(make_study, server, tmp_path):
    folder = write(tmp_path / "voc-files", members())
    server.folder = folder
    listed(folder, tmp_path / "voc.sha256")
    data = {"source": "voc_format", "folder": "data", "url": server.url, "manifest": "voc.sha256"}
    data |= {"splits": {"val_share": 0.5, "seed": 1}}
    assert sum(split["images"] for split in run(make_study(data))["splits"].values()) == 6
    text = Path("voc.sha256").read_text().splitlines(keepends=True)
    Path("voc.sha256").write_text("".join(line for line in text if "000001" not in line))
    assert sum(split["images"] for split in run(make_study(data))["splits"].values()) == 5


@EXPLAINED
def test_a_disk_that_fills_up_is_named(make_study, server, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr("imbdet.data.download.tqdm.update", full)
        with refused(r".part cannot be written \(No space left on device\), \d+ bytes of it are kept; free some space"):
            run(make_study(manifest(server)))
    assert run(make_study(manifest(server)))["splits"]["train"]["images"] == 3


HASH = "0" * 64
MANIFESTS = {
    "no file": (None, "data.manifest coco.sha256 cannot be read .*; write it with sha256sum"),
    "empty": ("", "data.manifest coco.sha256 is empty"),
    "JSON": ("{}", r"coco.sha256: line 1 is '\{\}'; expected a SHA-256, two blanks and a path"),
    "MD5": (f"{HASH[:32]}  a.png\n", "line 1 is .*; expected a SHA-256"),
    "leading out": (f"{HASH}  a.png\n{HASH}  ../b.png\n", r"line 2 is .*\.\./b.png'; expected a SHA-256"),
    "absolute": (f"{HASH}  /etc/hostname\n", "line 1 is .*; expected a SHA-256"),
    "a name twice": (f"{HASH}  a.png\n{HASH} *./a.png\n", "line 2 names a.png again; each file stands once"),
}


@NAMED
@pytest.mark.parametrize(("text", "message"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none_is_refused(make_study, server, text, message):
    Path("coco.sha256").unlink()
    if text is not None:
        Path("coco.sha256").write_text(text)
    with refused(message):
        run(make_study(manifest(server)))
    assert not server.requests


PLACES = {
    "nowhere": ({}, "expected either path, an archive or folder on this machine, or url, an address"),
    "two places": ({"path": "a.zip", "url": "http://a.b/c.zip"}, "expected either path, .* or url"),
    "no hash": ({"url": "http://a.b/c.zip"}, "url needs either sha256, of an archive, or manifest"),
    "two hashes": ({"url": "http://a.b/c.zip", "sha256": HASH, "manifest": "x"}, "url needs either sha256"),
    "no name": ({"url": "http://a.b/", "sha256": HASH}, "url ends with ''; expected the name of an archive, such as"),
    "a hidden name": ({"url": "http://a.b/.x.zip", "sha256": HASH}, "url ends with '.x.zip'; expected the name"),
    "a name that leads out": ({"url": "http://a.b/..%2F", "sha256": HASH}, "url ends with '..'; expected the name"),
    "a file's address": ({"url": "file:///c.zip", "sha256": HASH}, "url does not start with http:// or https://"),
    "a manifest of a path": ({"path": "a.zip", "manifest": "x"}, "manifest and proxy are for a url, but path is on"),
    "a proxy of a path": ({"path": "a.zip", "proxy": "http://p.q"}, "manifest and proxy are for a url"),
    "a shell's path": ({"url": "http://a.b/c", "manifest": "~/x"}, "data.manifest is '~/x': ~ and .NAME are a shell"),
}


@NAMED
@pytest.mark.parametrize(("place", "message"), PLACES.values(), ids=PLACES)
def test_a_place_that_cannot_be_is_refused(make_study, place, message):
    with refused(message):
        make_study({"source": "coco_format", "folder": "data", **place})


def test_subsets_of_cocos_format_are_unpacked_alone(make_study, server):
    for folder, source in (("fetched", archive(server)), ("listed", manifest(server))):
        subset = {"subset": {"train": [5, 11], "val": "all"}}
        splits = run(make_study(source | subset | {"folder": folder}))["splits"]
        assert [splits[split]["images"] for split in ("train", "val")] == [2, 2]
        assert {path.name for path in Path(folder, "train").rglob("*.*")} == {"one.png", "two.jpg"}
