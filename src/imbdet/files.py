"""Files that are whole or absent: each is written beside its place, flushed to disk, then renamed over it."""

import json
import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: equal content shall give equal bytes


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, with its parent folders. A reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
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
