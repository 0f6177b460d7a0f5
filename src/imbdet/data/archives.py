"""Zip and tar archives: checked, read and unpacked without ever writing outside the target folder."""

import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tqdm import tqdm

from imbdet.errors import UserError

# A regular file in an archive: name, size in bytes, and how to open it.
Member = tuple[str, int, Callable[[], IO[bytes]]]
_CORRUPT = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, size: int, purpose: str) -> None:
    """Raise :class:`UserError` where the disk of ``folder``, which must exist, has fewer than ``size`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{purpose} needs {size / 1e6:,.1f} MB in {folder}, where {free / 1e6:,.1f} MB are free; "
            "free some or set data.folder to another disk"
        )


def leads_out(name: str) -> bool:
    """Whether a path of an archive or annotation file would leave the folder that it is put into."""
    parts = name.replace("\\", "/").split("/")
    return not parts[0] or ".." in parts


@contextmanager
def _members(path: Path) -> Iterator[Iterator[Member]]:
    """The members of an archive that are regular files, in its order. Its errors become :class:`UserError`."""
    if not path.is_file():
        raise UserError(f"archive {path} does not exist; check data.path or data.folder")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield (_zip_member(archive, entry) for entry in archive.infolist() if not entry.is_dir())
        else:
            with tarfile.open(path) as tar:
                yield (_tar_member(tar, entry) for entry in tar if entry.isfile())
    except _CORRUPT as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's, such as a full disk; gzip and bz2 raise a bare OSError
        raise UserError(f"archive {path} is corrupt or no zip or tar file ({error}); fetch it again") from error


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Member:
    return entry.filename, entry.file_size, lambda: archive.open(entry)


def _tar_member(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Member:
    def stream() -> IO[bytes]:
        file = archive.extractfile(entry)
        assert file is not None  # extractfile returns None for directories and devices alone
        return file

    return entry.name.removeprefix("./"), entry.size, stream


def read_member(path: Path, name: str) -> bytes:
    """Return a file of an archive. Raises :class:`UserError` where either is absent or the archive is corrupt."""
    with _members(path) as members:
        for member, _, stream in members:
            if member == name:
                with stream() as file:
                    return file.read()
    raise UserError(f"archive {path} has no {name}")


def unpack(path: Path, targets: Mapping[str, Path]) -> None:
    """Write the files named in ``targets`` (name in the archive -> path), each whole or not at all.

    A target that is there with the right size is left alone, so that an interrupted run goes on where it stopped.
    Raises :class:`UserError` for an archive that is missing or corrupt, lacks a file or has a name that leads out.
    """
    missing = dict(targets)
    for folder in {target.parent for target in targets.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    with _members(path) as members, tqdm(total=len(targets), desc=path.name, unit="file", disable=None) as progress:
        for name, size, stream in members:
            if leads_out(name):
                raise UserError(
                    f"archive {path} has a file named {name!r}, which leads out of its folder; not unpacked"
                )
            target = missing.pop(name, None)
            if target is None:
                continue
            if not target.is_file() or target.stat().st_size != size:
                with stream() as source:
                    _write(source, target)
            progress.update()
    if missing:
        raise UserError(f"archive {path} lacks {len(missing)} of {len(targets)} files, first {min(missing)}")


def _write(source: IO[bytes], target: Path) -> None:
    """Copy to a temporary name first: the last read of a zip member checks its CRC."""
    partial = target.with_name(f".{target.name}.part")
    try:
        with partial.open("wb") as file:
            shutil.copyfileobj(source, file, length=1 << 20)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
