"""Archives: what is unpacked is whole, lies inside the folder, and is not unpacked twice."""

import io
import json
import shutil
import stat
import struct
import tarfile
import zipfile
from collections import namedtuple

import numpy as np
import pytest
from promises import refused

from imbdet.data.archives import leads_out, read_member, require_space, unpack
from imbdet.files import sha256

STAYS_INSIDE = pytest.mark.promise(
    "An archive writes nothing outside its folder, and only what annotations name", "bad input"
)
FILLS_NO_DISK = pytest.mark.promise("A small archive cannot fill the disk", "bad input")
REFUSED = pytest.mark.promise("A damaged or odd archive is refused and leaves no part of a file", "bad input")

FILES = {"train/a.bin": b"a" * 5000, "train/deep/b.bin": np.random.default_rng(0).bytes(3000), "notes.txt": b"hello"}


def make_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def make_tar_gz(path, files):
    return make_tar(path, files, "w:gz")


every_kind = pytest.mark.parametrize("make", [make_zip, make_tar, make_tar_gz])


@every_kind
def test_the_named_files_are_unpacked_and_no_others(tmp_path, make):
    archive = make(tmp_path / "archive", FILES)
    targets = {name: tmp_path / "out" / name for name in FILES if name.startswith("train")}
    unpack(archive, targets)
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {name: FILES[name] for name in targets}
    assert read_member(archive, "notes.txt") == b"hello"


@every_kind
def test_what_is_there_is_left_alone_and_what_is_cut_is_mended(tmp_path, make):
    archive = make(tmp_path / "archive", FILES)
    targets = {name: tmp_path / "out" / name for name in FILES}
    unpack(archive, targets)
    kept, cut = targets["train/a.bin"], targets["train/deep/b.bin"]
    before = kept.stat().st_ino
    cut.write_bytes(FILES["train/deep/b.bin"][:100])
    unpack(archive, targets)
    assert kept.stat().st_ino == before
    assert cut.read_bytes() == FILES["train/deep/b.bin"]


@STAYS_INSIDE
@every_kind
@pytest.mark.parametrize(
    "name", ["../evil", "train/../../evil", "/evil", "C:/evil", "C:\\evil", "..\\evil", "\\\\host\\evil"]
)
def test_an_archive_that_reaches_outside_is_refused(tmp_path, make, name):
    if make is not make_zip and name.startswith("/"):
        name = "../" + name  # the maker puts "./" in front, which takes the slash its meaning
    archive = make(tmp_path / "archive", {name: b"x", **FILES})
    with refused(r"archive .*archive: '.*evil' is or has a name that leads out of its folder; nothing is unpacked"):
        unpack(archive, {"train/a.bin": tmp_path / "in" / "out" / "a.bin"})
    assert not list(tmp_path.rglob("*evil"))
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    ("name", "out"),
    [("a/b", False), ("..a/b..", False), ("a/b:c", False), ("A:30.jpg", False), ("", True), ("a\\..\\..\\b", True)],
)
def test_names_that_lead_out(name, out):
    assert leads_out(name) is out


KINDS = {
    "symbolic link": (tarfile.SYMTYPE, "a link"),
    "hard link": (tarfile.LNKTYPE, "a link"),
    "character device": (tarfile.CHRTYPE, "a device"),
    "block device": (tarfile.BLKTYPE, "a device"),
    "pipe": (tarfile.FIFOTYPE, "a device"),
}


@STAYS_INSIDE
@pytest.mark.parametrize(("kind", "fault"), KINDS.values(), ids=KINDS)
def test_links_and_devices_in_a_tar_file_are_refused(tmp_path, kind, fault):
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("train/a.bin", "unwanted"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/hostname"
            tar.addfile(entry)
    with refused(f"archive.tar: 'train/a.bin' is or has {fault}; nothing is unpacked, fetch it anew"):
        unpack(archive, {"train/a.bin": tmp_path / "out" / "a.bin"})
    assert not (tmp_path / "out").exists()


@STAYS_INSIDE
def test_links_in_a_zip_file_are_refused(tmp_path):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        entry = zipfile.ZipInfo("train/a.bin")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(entry, "/etc/hostname")
    with refused("'train/a.bin' is or has a link"):
        unpack(archive, {"train/a.bin": tmp_path / "out" / "a.bin"})


@STAYS_INSIDE
@every_kind
def test_only_the_named_files_are_written_whatever_else_there_is(tmp_path, make):
    archive = make(tmp_path / "archive", FILES | {"train/a.bin/nested": b"x", "boot.py": b"import os"})
    unpack(archive, {"notes.txt": tmp_path / "out" / "notes.txt"})
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["notes.txt"]


@REFUSED
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_two_files_of_one_name_are_refused(tmp_path, kind):
    archive = tmp_path / "archive"
    if kind == "zip":
        make_zip(archive, FILES)
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr("notes.txt", b"other")
    else:
        make_tar(archive, FILES)
        with tarfile.open(archive, "a") as tar:
            tar.addfile(tarfile.TarInfo("./notes.txt"))
    with refused("'notes.txt' is or has a second file of the same name"):
        unpack(archive, {"notes.txt": tmp_path / "out" / "notes.txt"})


@REFUSED
def test_a_name_that_is_a_file_and_a_folder_is_refused(tmp_path):
    archive = make_zip(tmp_path / "archive", {"a": b"x", "a/b": b"y"})
    with refused("out/a would be a file and a folder; each name must be one of them"):
        unpack(archive, {name: tmp_path / "out" / name for name in ("a", "a/b")})


@REFUSED
def test_an_encrypted_zip_file_is_called_so(tmp_path):
    archive = make_zip(tmp_path / "archive", FILES)
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # a flag in the central directory
    archive.write_bytes(content)
    with refused("'train/a.bin' is or has encrypted content"):
        unpack(archive, {"train/a.bin": tmp_path / "out" / "a.bin"})


BOMBS = {"zip": zipfile.ZIP_DEFLATED, "zip, bzip2": zipfile.ZIP_BZIP2, "tar.gz": "w:gz", "tar.xz": "w:xz"}


@FILLS_NO_DISK
@pytest.mark.parametrize("wanted", ["bomb", "after"])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_that_would_become_huge_is_refused(tmp_path, kind, wanted, monkeypatch):
    """Of 4 MB of zeros; also where it only stands before what is wanted, as a compressed tar must be read through."""
    monkeypatch.setattr("imbdet.data.archives.HARMLESS", 1 << 16)
    archive, zeros = tmp_path / "archive", bytes(4 << 20)
    if kind.startswith("zip"):
        with zipfile.ZipFile(archive, "w", BOMBS[kind]) as file:
            file.writestr("bomb", zeros)
            file.writestr("after", b"x")
    else:
        make_tar(archive, {"bomb": zeros, "after": b"x"}, BOMBS[kind])
    with refused(r"4,194,30\d"):
        unpack(archive, {wanted: tmp_path / "out" / "x"})
    with refused(r"nothing is unpacked, fetch it anew"):
        read_member(archive, wanted)
    assert not (tmp_path / "out").exists()


@FILLS_NO_DISK
def test_a_bomb_among_photographs_is_refused(tmp_path, monkeypatch):
    """All files together shrink no more than JSON does."""
    monkeypatch.setattr("imbdet.data.archives.HARMLESS", 1 << 16)
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("photograph", np.random.default_rng(0).bytes(1 << 20))
        file.writestr("bomb", bytes(4 << 20))
    with refused(r"'bomb' is or has [\d,]+ bytes that would become 4,194,304; nothing is unpacked"):
        unpack(archive, {"bomb": tmp_path / "out" / "x"})
    unpack(archive, {"photograph": tmp_path / "out" / "x"})


@FILLS_NO_DISK
def test_many_files_made_of_the_same_bytes_are_refused(tmp_path):
    """Each of them shrinks to a bearable size, all of them together do not; no single ratio gives them away."""
    archive = make_zip(tmp_path / "archive", {"a": bytes(100)})
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(40):
            file.writestr(f"{i}", bytes(1 << 20))
    with refused(r"is or has files of [\d,]+ bytes up to here, in an archive of [\d,]+; nothing is unpacked"):
        unpack(archive, {"0": tmp_path / "out" / "0"})


@FILLS_NO_DISK
def test_more_bytes_than_the_list_says_are_refused(tmp_path):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(5_000_000))
    content = bytearray(archive.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 1000)  # the size in the central directory
    archive.write_bytes(content)
    with refused("archive.zip is corrupt .*Bad CRC-32"):
        unpack(archive, {"a": tmp_path / "out" / "a"})
    assert not list((tmp_path / "out").iterdir())


@FILLS_NO_DISK
@every_kind
def test_the_sizes_that_an_archive_declares_must_fit_the_disk(tmp_path, make, monkeypatch):
    archive = make(tmp_path / "archive", FILES)
    targets = {name: tmp_path / "out" / name for name in FILES}
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 8004, 8004))
    with refused(r"unpacking .*archive needs 0.0 MB in .*out, where 0.0 MB are free; free some or set data.folder"):
        unpack(archive, targets)
    targets["notes.txt"].write_bytes(FILES["notes.txt"])  # what is there needs no space
    unpack(archive, targets)


def test_json_and_photographs_are_no_bombs(tmp_path, monkeypatch):
    """Not even such as repeat themselves more than any real ones do."""
    monkeypatch.setattr("imbdet.data.archives.HARMLESS", 0)
    records = [{"id": i, "image_id": i // 7, "bbox": [i % 640, i % 480, 30.5, 20.25]} for i in range(20_000)]
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.json", json.dumps(records))
    assert json.loads(read_member(archive, "a.json")) == records


@REFUSED
@every_kind
def test_a_file_that_is_not_in_the_archive_is_named_or_not_written(tmp_path, make):
    archive = make(tmp_path / "archive", FILES)
    with refused(r"archive .*archive has no val/x; it holds notes.txt, train/; check that it is the right one"):
        read_member(archive, "val/x")
    unpack(archive, {name: tmp_path / "out" / name for name in ("notes.txt", "val/x")})
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["notes.txt"]


@REFUSED
def test_a_member_with_a_wrong_checksum_is_never_written(tmp_path):
    archive = make_zip(tmp_path / "archive.zip", FILES)
    data = bytearray(archive.read_bytes())
    data[data.index(b"a" * 5000) + 17] ^= 1
    archive.write_bytes(data)
    with refused(r"archive .*archive.zip is corrupt .*train/a.bin"):
        unpack(archive, {"train/a.bin": tmp_path / "out" / "a.bin"})
    assert not list((tmp_path / "out").iterdir())


@REFUSED
@every_kind
@pytest.mark.parametrize("keep", [0.0, 0.3])
def test_a_cut_archive_is_named(tmp_path, make, keep):
    archive = make(tmp_path / "archive", FILES)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * min(len(content), 9000))])
    with refused(r"archive .*archive is corrupt or no zip or tar file"):
        unpack(archive, {name: tmp_path / "out" / name for name in FILES})


@REFUSED
def test_a_missing_archive_is_named(tmp_path):
    with refused(r"archive .*none.zip does not exist"):
        read_member(tmp_path / "none.zip", "x")


@pytest.mark.promise("A disk that fills up while an archive is unpacked leaves no part of a file", "fault")
def test_a_full_disk_is_not_called_a_corrupt_archive(tmp_path, monkeypatch):
    def full(source, file, length):
        file.write(source.read(2))
        raise OSError(28, "No space left on device")

    archive = make_zip(tmp_path / "archive.zip", FILES)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with refused("archive.zip cannot be unpacked .*No space left on device.*free some space"):
        unpack(archive, {"notes.txt": tmp_path / "out" / "notes.txt"})
    assert not list((tmp_path / "out").iterdir())


def test_space_is_asked_for_before_it_is_used(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path, free // 2, "a test")
    with refused(r"a test needs .* MB in .*free some or set data.folder"):
        require_space(tmp_path, 10 * free, "a test")


def test_sha256_of_the_empty_file_and_of_another(tmp_path):
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.write_bytes(b"")
    other.write_bytes(b"abc")
    assert sha256(empty) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4
    assert sha256(other) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
