"""Downloads from a server that cuts, refuses, forgets how to resume and sends rubbish."""

import os
import shutil
import socket
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from range_server import Server

from imbdet.data.download import ATTEMPTS, CHUNK, fetch
from imbdet.errors import UserError

Serve = Callable[[Path], Server]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip file of 600 kB that does not compress, in a folder of its own."""
    path = tmp_path / "remote" / "zips" / "some.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.bin", os.urandom(600_000))
    return path


@pytest.fixture
def server(archive: Path, serve: Serve) -> Server:
    return serve(archive.parents[1])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "local" / "some.zip"


def get(server: Server, target: Path) -> None:
    fetch(f"{server.url}/zips/some.zip", target)


def part(target: Path) -> Path:
    return target.with_name("some.zip.part")


def test_a_download_arrives_whole_and_once(server: Server, archive: Path, target: Path) -> None:
    get(server, target)
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert server.requests == [("/zips/some.zip", None)]
    assert not part(target).exists()


def test_an_earlier_run_s_part_is_gone_on_with(server: Server, archive: Path, target: Path) -> None:
    target.parent.mkdir()
    part(target).write_bytes(archive.read_bytes()[:70_000])
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert server.requests == [("/zips/some.zip", "bytes=70000-")]


def test_a_cut_connection_is_resumed_at_once(server: Server, archive: Path, target: Path) -> None:
    server.limits = [CHUNK + 1000, 2 * CHUNK]
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={CHUNK}-", f"bytes={3 * CHUNK}-"]


def test_a_server_that_cannot_resume_sends_all_again(server: Server, archive: Path, target: Path) -> None:
    server.resumes = False
    server.limits = [CHUNK]
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={CHUNK}-"]


def test_a_part_that_is_already_whole_is_kept(server: Server, archive: Path, target: Path) -> None:
    target.parent.mkdir()
    shutil.copy(archive, part(target))
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert len(server.requests) == 1


def test_a_part_longer_than_the_file_starts_over(server: Server, archive: Path, target: Path) -> None:
    target.parent.mkdir()
    part(target).write_bytes(archive.read_bytes() + b"more")
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()


def test_a_busy_server_is_asked_again(server: Server, archive: Path, target: Path) -> None:
    server.statuses = [503, 500]
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()


def test_a_connection_that_keeps_breaking_gives_up_and_keeps_what_came(server: Server, target: Path) -> None:
    server.limits = [CHUNK] * ATTEMPTS
    with pytest.raises(UserError, match=rf"some.zip: .*\({ATTEMPTS} attempts\).*kept in .*some.zip.part: run the com"):
        get(server, target)
    assert part(target).stat().st_size == CHUNK * ATTEMPTS
    assert not target.exists()


def test_what_the_server_does_not_have_is_named(server: Server, target: Path) -> None:
    with pytest.raises(UserError, match=r"http://127.0.0.1:\d+/zips/other.zip: the server answered 404.*base_url"):
        fetch(f"{server.url}/zips/other.zip", target)
    assert len(server.requests) == 1
    assert not target.exists()


@pytest.mark.usefixtures("serve")
def test_a_server_out_of_reach_is_named(target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(UserError, match=rf"http://127.0.0.1:{port}/x.zip: .*\({ATTEMPTS} attempts\).*base_url"):
        fetch(f"http://127.0.0.1:{port}/x.zip", target)


@pytest.mark.parametrize("damage", ["flip a byte", "cut the end", "a web page"])
def test_a_corrupt_archive_never_gets_its_name(server: Server, archive: Path, target: Path, damage: str) -> None:
    good = archive.read_bytes()
    flipped = good[:5000] + bytes([good[5000] ^ 1]) + good[5001:]
    archive.write_bytes({"flip a byte": flipped, "cut the end": good[:-50], "a web page": b"<html>"}[damage])
    with pytest.raises(UserError, match=r"/zips/some.zip arrived as a corrupt zip file .*run the command again"):
        get(server, target)
    assert not list(target.parent.iterdir())
    archive.write_bytes(good)
    get(server, target)
    assert target.read_bytes() == good


def test_a_disk_too_small_is_noticed_before_the_download(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 900_000, 100_000))
    with pytest.raises(UserError, match=r"downloading http.*some.zip needs 0.6 MB in .*, where 0.1 MB are free"):
        get(server, target)
    assert not target.exists()
