"""Files that are whole or absent: each is written beside its place, flushed to disk, then renamed over it."""

import hashlib
import json
import os
import zipfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imbdet.errors import UserError

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: equal content shall give equal bytes


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, with its parent folders. A reader sees the old file or the new one, never a part.

    Once this returns, the file survives a loss of power. Raises :class:`UserError` where the disk is full or the
    folder cannot be written to; the old file, if any, is as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}; it needs {len(content):,} bytes. Make room, or "
            "have the folder writable, and run the same command again"
        ) from error
    finally:
        with suppress(OSError):  # where the folder is not one, or cannot be written to, there is nothing to remove
            partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    """Have the disk know the names in a folder, without which a file that was renamed may be gone after a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: Path, name: str = "*") -> None:
    """Remove what killed writers left of the file ``name`` in a folder, or of all; for the only one to write there."""
    for partial in folder.glob(f".{name}.*.partial"):
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as given."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: keys sorted, floats in full. NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: Path, **arrays: NDArray[Any]) -> None:
    """Write a compressed npz atomically; equal arrays give equal bytes, which ``numpy.savez`` does not promise."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE)
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=6)
    write_bytes(path, buffer.getvalue())
