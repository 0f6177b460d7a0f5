"""Resumable, verified downloads, and COCO 2017 from its three official archives."""

import os
import time
import zipfile
from pathlib import Path

import requests
from tqdm import tqdm

from imbdet.data.archives import require_space
from imbdet.errors import UserError

ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
CHUNK = 1 << 16  # bytes written at a time; a connection that breaks loses less than one chunk


class _Interrupted(Exception):
    """A failure that another attempt may mend."""


def fetch(url: str, target: Path) -> None:
    """Download a zip archive to ``target``, unless it is there.

    Bytes go to ``target.part`` first, where an interrupted download, of this run or of an earlier one, goes on. The
    file gets its name once its size and the CRC of every member are right. Raises :class:`UserError` where the server
    refuses, stays out of reach for :data:`ATTEMPTS` attempts or sends a corrupt archive, and where the disk is full.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    for attempt in range(ATTEMPTS):
        try:
            _receive(url, part)
            break
        except (_Interrupted, requests.RequestException) as error:
            if attempt + 1 == ATTEMPTS:
                raise UserError(
                    f"{url}: {error} ({ATTEMPTS} attempts); what has arrived is kept in {part}: run the command again, "
                    "or check data.base_url and the network"
                ) from error
            time.sleep(PAUSE * 2**attempt)
    _verify(url, part)
    os.replace(part, target)


def _receive(url: str, part: Path) -> None:
    """One attempt: append to ``part`` where the server can resume, start over where it cannot."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        total = _total(response)
        if response.status_code == 416:  # nothing to send from there on: complete, or longer than the file
            if total == have:
                return
            part.unlink()
            raise _Interrupted(f"{part} has {have} bytes, the server's file {total}")
        if response.status_code >= 500:
            raise _Interrupted(f"the server answered {response.status_code} {response.reason}")
        if response.status_code not in (200, 206):
            raise UserError(f"{url}: the server answered {response.status_code} {response.reason}; check data.base_url")
        start = have if response.status_code == 206 else 0
        require_space(part.parent, (total or 0) - start, f"downloading {url}")
        bar = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if start else "wb") as file, bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    have = part.stat().st_size
    if total is not None and have != total:
        raise _Interrupted(f"the connection ended after {have} of {total} bytes")


def _total(response: requests.Response) -> int | None:
    """Size of the whole file, where the server says: after the slash of Content-Range, or the answer's length."""
    whole = response.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status_code == 200:
        whole = response.headers.get("Content-Length", "")
    return int(whole) if whole.isdigit() else None


def _verify(url: str, part: Path) -> None:
    """Read every member of a zip against its CRC; a corrupt file is removed, so that the next run fetches it anew."""
    try:
        with zipfile.ZipFile(part) as archive:
            problem = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        problem = str(error)
    if problem is not None:
        part.unlink()
        raise UserError(f"{url} arrived as a corrupt zip file ({problem}); it was removed: run the command again")
