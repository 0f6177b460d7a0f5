"""Downloads that survive a bad network: resumed, verified, never mixed from two versions of a file.

With ``requests`` alone: pooch, which verifies as well, cannot go on with a file after a cut.
"""

import fcntl
import hashlib
import os
import re
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import requests
from requests import exceptions
from tqdm import tqdm

from imbdet.data.archives import require_space
from imbdet.data.coco import read_json
from imbdet.errors import UserError
from imbdet.files import sha256, write_json
from imbdet.urls import without_secrets

ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
LONGEST_PAUSE = 60.0  # seconds, also where a server's Retry-After asks for more
TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
CHUNK = 1 << 16  # bytes written at a time; a connection that breaks loses less than one chunk
BUSY = {408, 425, 429}  # answers, beside 500 and above, that another attempt may mend
HINTS = {
    401: "check {address}, and whether the server wants a password",
    403: "check {address}, and whether the server wants a password or you a proxy (data.proxy)",
    407: "check user and password of the proxy, in data.proxy or HTTP_PROXY and HTTPS_PROXY",
}
_UNUSABLE = (
    exceptions.InvalidURL,
    exceptions.MissingSchema,
    exceptions.InvalidSchema,
    exceptions.TooManyRedirects,
)
T = TypeVar("T")


@dataclass(frozen=True)
class Said:
    """What messages about a download name: the study's key for the address, and who says the hash."""

    address: str = "data.base_url"
    hash: str = "data.checksums says"


COCO_SERVER = Said()


class _Interrupted(Exception):
    """A failure that another attempt may mend, after ``pause`` seconds if the server asks for them."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


def fetch(
    url: str,
    target: Path,
    proxy: str | None = None,
    expected: Sequence[str] = (),
    said: Said = COCO_SERVER,
    bar: bool = True,
) -> str:
    """Download a file to ``target``, unless it is there, and return its SHA-256 in hexadecimal.

    Bytes go to ``target.part`` first, where an interrupted download, of this run or of an earlier one, goes on if the
    server still has the same file. The file gets its name once its size and its hashes are right; what arrives damaged
    is fetched once more.

    Args:
        proxy: goes before those of the environment.
        expected: hashes that the file must have, SHA-256 or MD5 in hexadecimal. Without any it must be a zip archive,
            and the CRC of every member is checked.
        said: what messages name.
        bar: whether the progress is shown.

    Raises:
        UserError: the server refuses, stays out of reach for :data:`ATTEMPTS` attempts or sends a damaged file;
            another process is at the same download; the disk is full.
    """
    if not target.exists():
        part = target.with_name(f"{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _held(part) as file:
                _receive_whole(url, file, proxy, expected, said, bar)
                os.replace(part, target)
                _origin(part).unlink(missing_ok=True)
        except OSError as error:
            kept = part.stat().st_size if part.exists() else 0
            raise UserError(
                f"{without_secrets(url)}: {part} cannot be written ({error.strerror}), {kept} bytes of it are kept; "
                "free some space or set data.folder to another disk, then run the command again"
            ) from None
    wrong = _wrong_hash(target, expected, said)
    if wrong:
        raise UserError(f"{target} has {wrong}; remove it to fetch it again, or correct the study")
    return sha256(target)


def fetch_small(url: str, largest: int, proxy: str | None = None) -> bytes:
    """Download a file of at most ``largest`` bytes into memory, with as many attempts; errors as of :func:`fetch`."""

    def attempt() -> bytes:
        content = bytearray()
        with _get(url, {}, proxy, COCO_SERVER) as response:
            for chunk in response.iter_content(CHUNK):
                content += chunk
                if len(content) > largest:
                    raise UserError(
                        f"{without_secrets(url)} is larger than {largest / 1e6:,.1f} MB; check data.base_url"
                    )
        return bytes(content)

    return _persist(url, attempt, "", COCO_SERVER)


@contextmanager
def _held(part: Path) -> Iterator[IO[bytes]]:
    """Open a part for appending, alone: the lock ends with the process, however that ends."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat())
        except BlockingIOError:
            alone = False
        if not alone:  # or the other one finished between our two calls, and what we hold has another name by now
            raise UserError(f"another process is downloading {part}; wait until it has ended, then run this again")
        yield file


def _receive_whole(
    url: str, file: IO[bytes], proxy: str | None, expected: Sequence[str], said: Said, bar: bool
) -> None:
    """Fill the part until it is whole and undamaged; a second damaged one is removed and refused."""
    part = Path(file.name)
    kept = f"what has arrived is kept in {part}: run the command again, or "
    for _ in range(2):
        _persist(url, lambda: _receive(url, file, proxy, said, bar), kept, said)
        file.flush()
        os.fsync(file.fileno())
        damage = _damage(part, expected, said)
        if damage is None:
            return
        file.truncate(0)
    part.unlink()
    _origin(part).unlink(missing_ok=True)
    raise UserError(
        f"{without_secrets(url)} arrived damaged twice ({damage}); it was removed: run the command again, or check "
        f"{said.address}, the hash and data.proxy"
    )


def _persist(url: str, attempt: Callable[[], T], kept: str, said: Said) -> T:
    """The result of the first attempt that is not interrupted, with longer and longer pauses between them."""
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except _UNUSABLE as error:
            raise UserError(without_secrets(f"{url}: {error}; check {said.address} and data.proxy")) from None
        except (_Interrupted, requests.RequestException) as error:
            problem, pause = str(error), max(PAUSE * 2**number, getattr(error, "pause", 0.0))
        if number + 1 < ATTEMPTS:
            time.sleep(min(pause, LONGEST_PAUSE))
    raise UserError(
        without_secrets(
            f"{url}: {problem} ({ATTEMPTS} attempts); {kept}check {said.address}, data.proxy and the network"
        )
    )


@contextmanager
def _get(url: str, headers: dict[str, str], proxy: str | None, said: Said) -> Iterator[requests.Response]:
    """An answer with a file, or a part of it (206), or none of it (416)."""
    headers = {"Accept-Encoding": "identity", **headers}
    proxies = {"http": proxy, "https": proxy} if proxy else None
    with requests.get(url, headers=headers, proxies=proxies, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        answer = f"the server answered {status} {response.reason}"
        if status in BUSY or status >= 500:
            raise _Interrupted(answer, _retry_after(response))
        if status not in (200, 206, 416):
            hint = HINTS.get(status, "check {address}, and that the server has this file").format(address=said.address)
            raise UserError(f"{without_secrets(url)}: {answer}; {hint}")
        if status != 416 and response.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(
                f"{without_secrets(url)}: the server answered with a web page in place of the file; "
                f"check {said.address}, data.proxy and whether the network wants a login"
            )
        yield response


def _retry_after(response: requests.Response) -> float:
    """Seconds that the server asks to wait, which it gives as a number or as a date; 0 without."""
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0


def _receive(url: str, file: IO[bytes], proxy: str | None, said: Said, bar: bool) -> None:
    """One attempt: append to the part where the server can go on with the same file, start over where it cannot."""
    file.flush()
    part = Path(file.name)
    have = os.fstat(file.fileno()).st_size
    origin = read_json(_origin(part)) if have and _origin(part).exists() else {}
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and origin.get("version"):
        headers["If-Range"] = origin["version"]
    with _get(url, headers, proxy, said) as response:
        total = _total(response)
        status = response.status_code
        if status == 416 and total == have and not _another(origin, response, total=None):
            return  # nothing was missing
        if status != 200 and (_start(response) != have or _another(origin, response, total)):
            file.truncate(0)
            raise _Interrupted(f"the server could not go on from byte {have} of the same file")
        start = have if status == 206 else 0
        file.truncate(start)
        require_space(part.parent, (total or 0) - start, f"downloading {without_secrets(url)}")
        if not start:
            write_json(_origin(part), {"version": _version(response), "size": total})
        shown = tqdm(
            desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None if bar else True
        )
        with shown:
            for chunk in response.iter_content(CHUNK):
                start += file.write(chunk)
                shown.update(len(chunk))
    if total not in (None, start):
        raise _Interrupted(f"the connection ended after {start} of {total} bytes")


def _origin(part: Path) -> Path:
    """Where it stands which version of the server's file a part is of, and that file's size."""
    return part.with_name(f"{part.name}.json")


def _version(response: requests.Response) -> str | None:
    """What a server calls this version of a file, where that is exact: a strong ETag, or the date of the change."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _another(origin: dict[str, Any], response: requests.Response, total: int | None) -> bool:
    """Whether the server now has another version of the file than the part is of, as far as it tells."""
    now = {"version": _version(response), "size": total}
    return any(origin.get(key) is not None and value not in (None, origin[key]) for key, value in now.items())


def _start(response: requests.Response) -> int | None:
    """The position of the first byte of a partial answer."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _total(response: requests.Response) -> int | None:
    """Size of the whole file, where the server says: after the slash of Content-Range, or the answer's length."""
    whole = response.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status_code == 200:
        whole = response.headers.get("Content-Length", "")
    return int(whole) if whole.isdigit() else None


def _damage(part: Path, expected: Sequence[str], said: Said) -> str | None:
    """What is wrong with a whole file: a hash or, where none is known, the CRC of a member."""
    if expected:
        return _wrong_hash(part, expected, said)
    try:
        with zipfile.ZipFile(part) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        return f"no zip file: {error}"
    return f"member {member} has a wrong CRC" if member else None


def _wrong_hash(path: Path, expected: Sequence[str], said: Said) -> str | None:
    """Name the first hash that a file should have and has not; its length tells its kind."""
    for wanted in expected:
        kind = "md5" if len(wanted) == 32 else "sha256"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != wanted:
            return f"{kind} {found}, but {said.hash} {wanted}"
    return None
