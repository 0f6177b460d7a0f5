"""Archives: what is unpacked is whole, lies inside the folder, and is not unpacked twice."""

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imbdet.data.archives import leads_out, read_member, require_space, sha256, unpack
from imbdet.errors import UserError

FILES = {"train/a.bin": b"a" * 5000, "train/deep/b.bin": os.urandom(3000), "notes.txt": b"hello"}


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def make_tar_gz(path: Path, files: dict[str, bytes]) -> Path:
    return make_tar(path, files, "w:gz")


Maker = Callable[[Path, dict[str, bytes]], Path]
every_kind = pytest.mark.parametrize("make", [make_zip, make_tar, make_tar_gz])


@every_kind
def test_the_named_files_are_unpacked_and_no_others(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path / "archive", FILES)
    targets = {name: tmp_path / "out" / name for name in FILES if name.startswith("train")}
    unpack(archive, targets)
    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {name: FILES[name] for name in targets}
    assert read_member(archive, "notes.txt") == b"hello"


@every_kind
def test_what_is_there_is_left_alone_and_what_is_cut_is_mended(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path / "archive", FILES)
    targets = {name: tmp_path / "out" / name for name in FILES}
    unpack(archive, targets)
    kept, cut = targets["train/a.bin"], targets["train/deep/b.bin"]
    before = kept.stat().st_ino
    cut.write_bytes(FILES["train/deep/b.bin"][:100])
    unpack(archive, targets)
    assert kept.stat().st_ino == before
    assert cut.read_bytes() == FILES["train/deep/b.bin"]


@every_kind
@pytest.mark.parametrize("name", ["../evil", "train/../../evil", "/evil"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, make: Maker, name: str) -> None:
    if make is not make_zip and name.startswith("/"):
        name = "../" + name  # the maker puts "./" in front, which takes the slash its meaning
    archive = make(tmp_path / "archive", {name: b"x", **FILES})
    with pytest.raises(UserError, match=r"archive .*archive has a file named '.*evil', which leads out"):
        unpack(archive, {"train/a.bin": tmp_path / "in" / "out" / "a.bin"})
    assert not list(tmp_path.rglob("evil"))
    assert not list((tmp_path / "in" / "out").iterdir())


@pytest.mark.parametrize(("name", "out"), [("a/b", False), ("..a/b..", False), ("", True), ("a\\..\\..\\b", True)])
def test_names_that_lead_out(name: str, out: bool) -> None:
    assert leads_out(name) is out


def test_links_in_a_tar_file_are_not_followed(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    with tarfile.open(archive, "w") as tar:
        entry = tarfile.TarInfo("train/a.bin")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(entry)
    with pytest.raises(UserError, match=r"lacks 1 of 1 files, first train/a.bin"):
        unpack(archive, {"train/a.bin": tmp_path / "out" / "a.bin"})
    assert not (tmp_path / "out" / "a.bin").exists()


@every_kind
def test_a_file_that_is_not_in_the_archive_is_named(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path / "archive", FILES)
    with pytest.raises(UserError, match=r"archive .*archive lacks 2 of 3 files, first val/x"):
        unpack(archive, {name: tmp_path / "out" / name for name in ("notes.txt", "val/y", "val/x")})
    with pytest.raises(UserError, match=r"archive .*archive has no val/x"):
        read_member(archive, "val/x")


def test_a_member_with_a_wrong_checksum_is_never_written(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive.zip", FILES)
    data = bytearray(archive.read_bytes())
    data[data.index(b"a" * 5000) + 17] ^= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"archive .*archive.zip is corrupt .*train/a.bin"):
        unpack(archive, {"train/a.bin": tmp_path / "out" / "a.bin"})
    assert not list((tmp_path / "out").iterdir())


@every_kind
@pytest.mark.parametrize("keep", [0.0, 0.3])
def test_a_cut_archive_is_named(tmp_path: Path, make: Maker, keep: float) -> None:
    archive = make(tmp_path / "archive", FILES)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * min(len(content), 9000))])
    with pytest.raises(UserError, match=r"archive .*archive is corrupt or no zip or tar file"):
        unpack(archive, {name: tmp_path / "out" / name for name in FILES})


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"archive .*none.zip does not exist"):
        read_member(tmp_path / "none.zip", "x")


def test_a_full_disk_is_not_called_a_corrupt_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    archive = make_zip(tmp_path / "archive.zip", FILES)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, {"notes.txt": tmp_path / "notes.txt"})


def test_space_is_asked_for_before_it_is_used(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path, free // 2, "a test")
    with pytest.raises(UserError, match=r"a test needs .* MB in .*free some or set data.folder"):
        require_space(tmp_path, 10 * free, "a test")


def test_sha256_of_the_empty_file_and_of_another(tmp_path: Path) -> None:
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.write_bytes(b"")
    other.write_bytes(b"abc")
    assert sha256(empty) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4
    assert sha256(other) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
