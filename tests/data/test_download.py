"""Downloads from a server that cuts, stalls, refuses, lies and sends rubbish."""

import errno
import hashlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections import namedtuple

import pytest
from mirror import packed
from promises import refused
from range_server import Fault

from imbdet.data.download import ATTEMPTS, CHUNK, LONGEST_PAUSE, fetch
from imbdet.files import sha256

GOES_ON = pytest.mark.promise("A download goes on where it was cut, in this run or in the next", "fault")
ASKS_AGAIN = pytest.mark.promise(
    "A server that is busy, silent or confused is asked again, more and more slowly", "fault"
)
ONE_VERSION = pytest.mark.promise("A file is never put together from two versions of it", "fault")
VERIFIED = pytest.mark.promise("A download gets its name only when its size and hash or CRCs are right", "fault")
EXPLAINED = pytest.mark.promise("A download that cannot succeed says why and keeps what has arrived", "fault")


@pytest.fixture
def archive(tmp_path):
    """A zip file of 600 kB that does not compress, in a folder of its own."""
    return packed(tmp_path / "remote" / "zips" / "some.zip", seed=0)


@pytest.fixture
def server(archive, serve):
    return serve(archive.parents[1])


@pytest.fixture
def target(tmp_path):
    return tmp_path / "local" / "some.zip"


def get(server, target, **more):
    return fetch(f"{server.url}/zips/some.zip", target, **more)


def part(target):
    return target.with_name("some.zip.part")


def begun(target, content):
    """An earlier run has left the first bytes of a file."""
    target.parent.mkdir()
    part(target).write_bytes(content)


@pytest.fixture
def unchecked(monkeypatch):
    """Nobody looks at hash or CRCs, which would find a mixed file in the end, after all of it has arrived."""
    monkeypatch.setattr("imbdet.data.download._damage", lambda part, expected, said: None)


def ranges(server):
    return [wanted for _, wanted in server.requests]


def test_a_download_arrives_whole_and_once(server, archive, target):
    assert get(server, target) == get(server, target) == sha256(archive)
    assert target.read_bytes() == archive.read_bytes()
    assert server.requests == [("/zips/some.zip", None)]
    assert list(target.parent.iterdir()) == [target]


@GOES_ON
def test_an_earlier_run_s_part_is_gone_on_with(server, archive, target):
    begun(target, archive.read_bytes()[:70_000])
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server) == ["bytes=70000-"]


@GOES_ON
@pytest.mark.parametrize("tag", [None, '"one"', 'W/"weak"'])
def test_a_cut_connection_is_resumed_at_once(server, archive, target, tag):
    server.tag = tag
    server.faults = [Fault(cut=CHUNK + 1000), Fault(cut=2 * CHUNK)]
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server) == [None, f"bytes={CHUNK}-", f"bytes={3 * CHUNK}-"]
    assert [h.get("If-Range") for h in server.headers] == [None] + 2 * [tag if tag == '"one"' else None]


@pytest.mark.promise("A download that was killed goes on, and no second one starts beside it", "kill")
def test_a_killed_download_is_gone_on_with(server, archive, target):
    server.faults = [Fault(cut=5 * CHUNK, stall=60.0)]
    code = "import sys, pathlib, imbdet.data.download as d; d.fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
    with subprocess.Popen([sys.executable, "-c", code, f"{server.url}/zips/some.zip", str(target)]) as other:
        while not part(target).exists() or part(target).stat().st_size < 5 * CHUNK:
            assert other.poll() is None
            time.sleep(0.01)
        with refused(r"another process is downloading .*some.zip.part; wait until it has ended"):
            get(server, target)
        other.kill()
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server) == [None, f"bytes={5 * CHUNK}-"]


@GOES_ON
def test_a_silent_server_is_left_and_asked_to_go_on(server, archive, target, monkeypatch):
    monkeypatch.setattr("imbdet.data.download.TIMEOUT", (1.0, 0.1))
    server.faults = [Fault(cut=2 * CHUNK, stall=5.0)]
    began = time.monotonic()
    get(server, target)
    assert time.monotonic() - began < 3
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server) == [None, f"bytes={2 * CHUNK}-"]


@GOES_ON
def test_a_part_that_is_already_whole_is_kept(server, archive, target):
    begun(target, archive.read_bytes())
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert len(server.requests) == 1


@ONE_VERSION
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", [Fault(forgets=True), Fault(shift=1), Fault(shift=-CHUNK)])
def test_a_server_that_does_not_send_the_wanted_range(server, archive, target, fault):
    server.faults = [Fault(cut=CHUNK), fault]
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server)[:2] == [None, f"bytes={CHUNK}-"]


@ONE_VERSION
def test_a_part_longer_than_the_file_starts_over(server, archive, target):
    begun(target, archive.read_bytes() + b"more")
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()


CHANGED = {
    "honours If-Range": ('"new"', {}),
    "ignores If-Range": ('"old"', {"ETag": '"new"'}),
    "has only dates": (None, {"Last-Modified": "Wed, 02 Sep 2020 00:00:00 GMT"}),
    "tells only sizes": (None, {}),
}


@ONE_VERSION
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("tag", "headers"), CHANGED.values(), ids=CHANGED)
def test_a_file_that_has_changed_is_fetched_anew(server, archive, target, tag, headers, monkeypatch):
    monkeypatch.setattr("imbdet.data.download.ATTEMPTS", 1)
    old = {"ETag": '"old"'} if tag else {"Last-Modified": "Tue, 01 Sep 2020 00:00:00 GMT"} if headers else {}
    server.faults = [Fault(cut=CHUNK, headers=old)]
    with refused("kept in"):
        get(server, target)
    monkeypatch.setattr("imbdet.data.download.ATTEMPTS", ATTEMPTS)
    packed(archive, seed=1)
    if not old:
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr("b.bin", b"more")
    server.tag = tag
    server.by_path["/zips/some.zip"] = Fault(headers=headers)
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server)[1] == f"bytes={CHUNK}-"
    assert server.headers[1].get("If-Range") == next(iter(old.values()), None)


@ASKS_AGAIN
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_busy_server_is_asked_again(server, archive, target, status):
    server.faults = [Fault(status)] * 2
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert len(server.requests) == 3


@ASKS_AGAIN
@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        ("100000", LONGEST_PAUSE, LONGEST_PAUSE),
        ("Fri, 01 Jan 2100 00:00:00 GMT", LONGEST_PAUSE, LONGEST_PAUSE),
        ("Tue, 01 Sep 2020 00:00:00 GMT", 0, 0),
        ("soon", 0, 0),
    ],
)
def test_the_server_says_how_long_to_wait_within_bounds(server, target, value, least, most, monkeypatch):
    pauses = []
    monkeypatch.setattr("imbdet.data.download.time.sleep", pauses.append)
    server.faults = [Fault(429, {"Retry-After": value})]
    get(server, target)
    assert len(pauses) == 1
    assert least <= pauses[0] <= most


@ASKS_AGAIN
def test_pauses_double(server, target, monkeypatch):
    pauses = []
    monkeypatch.setattr("imbdet.data.download.time.sleep", pauses.append)
    monkeypatch.setattr("imbdet.data.download.PAUSE", 1.0)
    server.faults = [Fault(503)] * ATTEMPTS
    with refused(rf"some.zip: the server answered 503 .*\({ATTEMPTS} attempts\)"):
        get(server, target)
    assert pauses == [1, 2, 4, 8]


@ASKS_AGAIN
def test_a_length_that_is_too_long_is_found_out(server, archive, target):
    server.faults = [Fault(longer=1000)]
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()


@GOES_ON
def test_a_range_that_ends_early_is_gone_on_with(server, archive, target):
    server.faults = [Fault(cut=CHUNK), Fault(longer=-1000)]
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server) == [None, f"bytes={CHUNK}-", f"bytes={archive.stat().st_size - 1000}-"]


@GOES_ON
def test_redirects_are_followed(server, archive, target):
    server.by_path["/old.zip"] = Fault(302, {"Location": "/zips/some.zip"})
    fetch(f"{server.url}/old.zip", target)
    assert target.read_bytes() == archive.read_bytes()


DAMAGED = {
    "a wrong byte": (Fault(flip=5000), "member a.bin has a wrong CRC"),
    "a length that is too short": (Fault(longer=-1000), "no zip file"),
    "something else": (Fault(body=b"not a zip file"), "no zip file"),
}


@VERIFIED
@pytest.mark.parametrize(("fault", "what"), DAMAGED.values(), ids=DAMAGED)
def test_what_arrives_damaged_is_fetched_once_more(server, archive, target, fault, what):
    server.faults = [fault]
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()


@VERIFIED
@pytest.mark.parametrize(("fault", "what"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_never_gets_its_name(server, archive, target, fault, what):
    server.by_path["/zips/some.zip"] = fault
    with refused(rf"/zips/some.zip arrived damaged twice \({what}.*run the command again"):
        get(server, target)
    assert not list(target.parent.iterdir())
    server.by_path.clear()
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()


@VERIFIED
def test_a_damaged_part_of_an_earlier_run_is_not_believed(server, archive, target):
    begun(target, b"x" * 70_000)
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server) == ["bytes=70000-", None]


@VERIFIED
def test_a_known_hash_is_checked_also_after_a_cut(server, archive, target):
    found = sha256(archive)
    server.faults = [Fault(cut=CHUNK), Fault()]
    assert get(server, target, expected=[found]) == found
    with refused(rf"some.zip has sha256 {found}, but data.checksums says 0000"):
        get(server, target, expected=["0" * 64])
    target.unlink()
    with refused(rf"arrived damaged twice \(sha256 {found}, but data.checksums says 0000"):
        get(server, target, expected=["0" * 64])
    assert not list(target.parent.iterdir())


@VERIFIED
def test_all_known_hashes_are_checked_and_a_short_one_is_md5(server, archive, target):
    right, md5 = sha256(archive), hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    with refused(rf"arrived damaged twice \(md5 {md5}, but data.checksums says 0000"):
        get(server, target, expected=[right, "0" * 32])
    assert get(server, target, expected=[right, md5]) == right


@EXPLAINED
def test_a_connection_that_keeps_breaking_gives_up_and_keeps_what_came(server, target):
    server.faults = [Fault(cut=CHUNK)] * ATTEMPTS
    with refused(rf"some.zip: .*\({ATTEMPTS} attempts\).*kept in .*some.zip.part: run the command again"):
        get(server, target)
    assert part(target).stat().st_size == CHUNK * ATTEMPTS
    assert not target.exists()


REFUSALS = {
    401: r"some.zip: the server answered 401 .*wants a password",
    403: r"some.zip: the server answered 403 .*proxy \(data.proxy\)",
    404: r"http://127.0.0.1:\d+/zips/some.zip: the server answered 404 .*check data.base_url, and that the server has",
    407: r"the server answered 407 .*password of the proxy",
    410: r"the server answered 410 .*check data.base_url",
}


@EXPLAINED
@pytest.mark.parametrize(("status", "message"), REFUSALS.items())
def test_a_refusal_is_explained_at_once(server, archive, target, status, message):
    begun(target, archive.read_bytes()[:1000])
    server.faults = [Fault(status)]
    with refused(message):
        get(server, target)
    assert len(server.requests) == 1
    assert part(target).stat().st_size == 1000


@EXPLAINED
def test_a_web_page_in_place_of_the_file_is_called_so(server, archive, target):
    begun(target, archive.read_bytes()[:1000])
    server.faults = [Fault(body=b"<html>" * 1000, headers={"Content-Type": "text/html; charset=utf-8"}, forgets=True)]
    with refused("some.zip: the server answered with a web page in place of the file; check data.base_url, data.proxy"):
        get(server, target)
    assert part(target).read_bytes() == archive.read_bytes()[:1000]


@EXPLAINED
@pytest.mark.parametrize(
    ("location", "message"), [("/zips/some.zip", r"30 redirects.*base_url"), ("file:///etc/hostname", "No connection")]
)
def test_a_redirect_that_leads_nowhere_is_named(server, target, location, message):
    server.by_path["/zips/some.zip"] = Fault(302, {"Location": location})
    with refused(message):
        get(server, target)
    assert len(server.requests) in (1, 31)  # all of one attempt
    assert not target.exists()


@EXPLAINED
@pytest.mark.usefixtures("serve")
def test_a_server_out_of_reach_is_named(target):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with refused(rf"http://127.0.0.1:{port}/x.zip: .*[Rr]efused.*\({ATTEMPTS} attempts\).*data.base_url"):
        fetch(f"http://127.0.0.1:{port}/x.zip", target)


@EXPLAINED
@pytest.mark.usefixtures("serve")
def test_a_host_without_an_address_is_named(target, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("NO_PROXY", "*")
    with refused(r"http://images.example/x.zip: .*Name or service not known.*check data.base_url, data.proxy and the"):
        fetch("http://images.example/x.zip", target)


@EXPLAINED
def test_a_disk_too_small_is_noticed_before_the_download(server, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 900_000, 100_000))
    with refused(r"downloading http.*some.zip needs 0.6 MB in .*, where 0.1 MB are free"):
        get(server, target)
    assert part(target).stat().st_size == 0


@EXPLAINED
def test_a_disk_that_fills_up_keeps_what_has_arrived(server, archive, target, monkeypatch):
    written = []

    def update(bar, count):
        written.append(count)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr("imbdet.data.download.tqdm.update", update)
        with refused(rf"some.zip.part cannot be written \(No space left on device\), {3 * CHUNK} bytes of it are kept"):
            get(server, target)
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
    assert ranges(server)[1] == f"bytes={3 * CHUNK}-"


@EXPLAINED
def test_a_file_too_large_for_its_disk_keeps_what_has_arrived(server, archive, target):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))  # as on a disk whose files end at 4 GB
    try:
        with refused(r"some.zip.part cannot be written \(File too large\), 300000 bytes of it are kept"):
            get(server, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    get(server, target)
    assert target.read_bytes() == archive.read_bytes()
