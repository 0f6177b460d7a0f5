"""Zip and tar archives: checked before anything is written, and never written outside the target folder.

Of an archive only the files that the caller names are unpacked. What it says of them is not trusted: names that lead
out, links, devices, encrypted and repeated files are refused, and sizes that no photograph and no JSON file shrinks to.
"""

import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import IO

from tqdm import tqdm

from imbdet.errors import UserError, listed

# JSON shrinks to a tenth or twentieth, photographs not at all; what is small may shrink as far as it can.
LARGEST_RATIO = 200
HARMLESS = 16 << 20  # bytes
DRIVE = re.compile(r"[A-Za-z]:/")  # of Windows; other colons are part of a name, as in 12:30.png
_CORRUPT = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class Member:
    """An entry of an archive that is no folder. size: bytes unpacked. fault: why it must not be unpacked, if so."""

    name: str
    size: int
    fault: str | None
    open: Callable[[], IO[bytes]]


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
    name = name.replace("\\", "/")
    return not name or name.startswith("/") or ".." in name.split("/") or DRIVE.match(name) is not None


def read_member(path: Path, name: str) -> bytes:
    """Return a file of an archive. Raises :class:`UserError` where either is absent or the archive is not sound."""
    with _members(path) as members:
        chosen_from, listing = tee(members)
        member = _chosen(path, chosen_from, {name}).get(name)
        if member is None:
            raise UserError(f"archive {path} has no {name}; {_instead(name, [entry.name for entry in listing])}")
        with member.open() as file:
            return file.read()


def member_names(path: Path) -> list[str]:
    """List the files of an archive, in its order. Raises :class:`UserError` where it is absent or not sound."""
    with _members(path) as members:
        checked, listing = tee(members)
        _chosen(path, checked, ())
        return [member.name for member in listing]


def read_members(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return those files of an archive that it has, by name; errors as of :func:`read_member`."""
    with _members(path) as members:
        found = {}
        for name, member in _chosen(path, members, names).items():
            with member.open() as file:
                found[name] = file.read()
        return found


def _instead(name: str, names: list[str]) -> str:
    """Say what an archive holds in place of a file, for people."""
    for found in names:
        if found.replace("\\", "/").endswith(name) and "\\" in found:
            return f"it has {found}: names with \\ in place of / are folders on Windows alone, pack it with /"
        if found.endswith(f"/{name}"):
            return f"it has {found}: pack the content of {found.removesuffix(name)}, not that folder itself"
    top = (first + slash for first, slash, _ in (known.partition("/") for known in names))
    return f"it holds {listed(top)}; check that it is the right one"


def unpack(path: Path, targets: Mapping[str, Path]) -> set[str]:
    """Write the files named in ``targets`` (name in the archive -> path), each whole or not at all.

    A target with the content that the archive has is left alone, and one that the archive lacks is removed. Returns the
    names that the archive lacks. Raises :class:`UserError` for an archive that is missing or corrupt or that has a file
    that must not be unpacked, and for a disk that is too small for what the archive says, or full.
    """
    folders = {target.parent for target in targets.values()}
    for target in targets.values():
        if any(target in (folder, *folder.parents) for folder in folders):
            raise UserError(f"archive {path}: {target} would be a file and a folder; each name must be one of them")
    with _members(path) as members:
        found = _chosen(path, members, targets)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        if folders:
            missing = sum(member.size for name, member in found.items() if not _has_size(targets[name], member.size))
            require_space(min(folders), missing, f"unpacking {path}")
        lacking = targets.keys() - found.keys()
        for name in lacking:
            targets[name].unlink(missing_ok=True)
        for name, member in tqdm(found.items(), path.name, unit="file", disable=None):
            if not _is_unpacked(member, targets[name]):
                with member.open() as source:
                    _write(source, targets[name])
    return lacking


def _has_size(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def _is_unpacked(member: Member, target: Path) -> bool:
    """Whether a file has the content of an archive's member: sizes and dates are equal after some corrections too."""
    if not _has_size(target, member.size):
        return False
    with member.open() as ours, target.open("rb") as theirs:
        while block := ours.read(1 << 20):
            if theirs.read(len(block)) != block:
                return False
    return True


@contextmanager
def _members(path: Path) -> Iterator[Iterable[Member]]:
    """The members of an archive, in its order. Its errors become :class:`UserError`."""
    if not path.is_file():
        raise UserError(f"archive {path} does not exist; check data.path or data.folder")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield (_zip_member(archive, entry) for entry in archive.infolist() if not entry.is_dir())
        else:
            with tarfile.open(path) as tar:
                yield (_tar_member(tar, entry) for entry in tar if not entry.isdir())
    except _CORRUPT as error:
        if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 raise OSError without a number
            raise UserError(f"archive {path} cannot be unpacked ({error}); free some space or mend the disk") from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"archive {path} is corrupt or no zip or tar file ({reason}); fetch it again") from error


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Member:
    fault = "encrypted content" if entry.flag_bits & 1 else None
    if stat.S_ISLNK(entry.external_attr >> 16):
        fault = "a link"
    if entry.file_size > HARMLESS + LARGEST_RATIO * entry.compress_size:
        fault = f"{entry.compress_size:,} bytes that would become {entry.file_size:,}"
    return Member(entry.filename.removeprefix("./"), entry.file_size, fault, lambda: archive.open(entry))


def _tar_member(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Member:
    def stream() -> IO[bytes]:
        file = archive.extractfile(entry)
        assert file is not None  # extractfile returns None for directories and devices alone
        return file

    fault = None if entry.isfile() else "a link" if entry.issym() or entry.islnk() else "a device"
    return Member(entry.name.removeprefix("./"), entry.size, fault, stream)


def _chosen(path: Path, members: Iterable[Member], names: Iterable[str]) -> dict[str, Member]:
    """Those of these names that there are, in the archive's order. All that follows from its list is checked here.

    The sizes of all members count, also of those that nobody wants: to pass one in a compressed tar is to unpack it.
    """
    wanted, found, total = set(names), dict[str, Member](), 0
    allowed = HARMLESS + LARGEST_RATIO * path.stat().st_size
    for member in members:
        total += member.size
        fault = member.fault if member.name in wanted else None
        if leads_out(member.name):
            fault = "a name that leads out of its folder"
        elif member.name in found:
            fault = "a second file of the same name"
        elif total > allowed:
            fault = f"files of {total:,} bytes up to here, in an archive of {path.stat().st_size:,}"
        if fault:
            raise UserError(f"archive {path}: {member.name!r} is or has {fault}; nothing is unpacked, fetch it anew")
        if member.name in wanted:
            found[member.name] = member
    return found


def _write(source: IO[bytes], target: Path) -> None:
    """Copy to a temporary name first: the last read of a zip member checks its CRC."""
    partial = target.with_name(f".{target.name}.part")
    try:
        with partial.open("wb") as file:
            shutil.copyfileobj(source, file, length=1 << 20)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
