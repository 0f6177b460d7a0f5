"""Where a source's files are: a folder or an archive, on this machine or downloaded to the data folder first."""

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from tqdm import tqdm

from imbdet.data.archives import leads_out, member_names, read_member, read_members, unpack
from imbdet.data.download import Said, fetch
from imbdet.data.source_files import VOC_FOLDERS, voc_roots
from imbdet.errors import UserError, listed
from imbdet.files import sha256
from imbdet.layout import Layout
from imbdet.settings import FormatData

THREADS = 8
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")  # of sha256sum
_BY_URL = Said("data.url", "data.sha256 says")
_BY_MANIFEST = Said("data.url", "data.manifest says")


class Folder:
    """Files of a folder. They stay where they are and are linked to.

    files: paths relative to the folder, where those that count are known.
    """

    def __init__(self, path: Path, files: list[str] | None = None) -> None:
        self.path = path
        self.files = files

    def roots(self) -> list[str]:
        """Paths of the folders inside that have VOC's layout; "." is the folder itself."""
        if self.files is not None:
            return _roots(self.files)
        return [root.relative_to(self.path).as_posix() for root in voc_roots(self.path)]

    def names(self, inside: str) -> list[str]:
        """Paths of the files directly in a folder inside, sorted; none where there is no such folder."""
        if self.files is not None:
            return _directly_in(inside, self.files)
        folder = self.path / inside
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(path.relative_to(self.path).as_posix() for path in found if path.is_file())

    def read(self, name: str, layout: str) -> bytes:
        """The content of a file. Raises :class:`UserError`, which names the expected ``layout``, where it is absent."""
        if not (self.path / name).is_file():
            raise UserError(
                f"data.path {self.path} has no {name}; expected {layout}. "
                f"It holds {listed(f'{path.name}/' if path.is_dir() else path.name for path in self.path.iterdir())}"
            )
        return (self.path / name).read_bytes()

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of those files that there are."""
        return {name: (self.path / name).read_bytes() for name in names if (self.path / name).is_file()}

    def put(self, folder: Path, images: Mapping[str, str]) -> None:
        """Link the files ``images`` (name in ``folder`` -> name here) into a folder; older links are removed first.

        A link of an earlier run may lead to what is a folder of the source by now.
        """
        for parent, folders, files in os.walk(folder):
            for path in (Path(parent, name) for name in (*folders, *files)):
                if path.is_symlink():
                    path.unlink()
        for name, own in images.items():
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to((self.path / own).absolute())  # a missing image is reported by its own path


class Archive:
    """Files of a zip or tar archive, of which those that are wanted are unpacked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _files(self) -> list[str]:
        return member_names(self.path)

    def roots(self) -> list[str]:
        """As of :meth:`Folder.roots`."""
        return _roots(self._files)

    def names(self, inside: str) -> list[str]:
        """As of :meth:`Folder.names`."""
        return _directly_in(inside, self._files)

    def read(self, name: str, layout: str) -> bytes:
        """As of :meth:`Folder.read`."""
        return read_member(self.path, name)

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """As of :meth:`Folder.read_all`."""
        return read_members(self.path, names)

    def put(self, folder: Path, images: Mapping[str, str]) -> None:
        """Unpack files as :meth:`Folder.put` links them."""
        targets = {own: folder / name for name, own in images.items()}
        for own in unpack(self.path, targets):
            targets[own].symlink_to((self.path / own).absolute())  # leads nowhere, but says what was looked for


def open_place(data: FormatData, layout: Layout) -> tuple[Folder | Archive, dict[str, str]]:
    """Open the place where a source's files are, downloaded if they have an address.

    Returns:
        The place, and the SHA-256 of its archive or manifest by name; none of a folder.

    Raises:
        UserError: a path that does not exist or has another hash, a manifest that is none, or a failed download.
    """
    if data.url is not None:
        return _downloaded(data, data.url, Path(layout.data_folder))
    path = Path(str(data.path))
    if path.is_dir():
        if data.sha256 is not None:
            raise UserError(f"data.sha256 is for archives, but data.path {path} is a folder; remove the key")
        return Folder(path), {}
    if not path.is_file():
        raise UserError(f"data.path {path} does not exist; expected a zip or tar archive or a folder")
    found = sha256(path)
    if data.sha256 not in (None, found):
        raise UserError(f"archive {path} has sha256 {found}, but data.sha256 says {data.sha256}")
    return Archive(path), {path.name: found}


def _downloaded(data: FormatData, url: str, folder: Path) -> tuple[Folder | Archive, dict[str, str]]:
    if data.manifest is None:
        archive = folder / "archives" / data.archive_name
        return Archive(archive), {archive.name: fetch(url, archive, data.proxy, [str(data.sha256)], _BY_URL)}
    manifest = Path(data.manifest)
    files = _read_manifest(manifest)
    _fetch_all(url.rstrip("/"), files, folder / "files", data.proxy)
    return Folder(folder / "files", sorted(files)), {manifest.name: sha256(manifest)}


def _read_manifest(path: Path) -> dict[str, str]:
    """Read SHA-256 by name of file from a manifest. Raises :class:`UserError` naming a line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.manifest {path} cannot be read ({error}); write it with sha256sum") from None
    files: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        found = _LINE.fullmatch(line)
        if found is None or leads_out(found[2]):
            raise UserError(
                f"data.manifest {path}: line {number} is {line!r:.120}; expected a SHA-256, two blanks and a path "
                "inside the folder, as sha256sum writes them"
            )
        name = PurePosixPath(found[2]).as_posix()
        if name in files:
            raise UserError(f"data.manifest {path}: line {number} names {name} again; each file stands once")
        files[name] = found[1].lower()
    if not files:
        raise UserError(f"data.manifest {path} is empty; write it with sha256sum")
    return files


def _fetch_all(url: str, files: Mapping[str, str], folder: Path, proxy: str | None) -> None:
    """Download files, a few at a time; those that are there are checked alone."""

    def get(name: str) -> None:
        fetch(f"{url}/{quote(name)}", folder / name, proxy, [files[name]], _BY_MANIFEST, bar=False)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in tqdm(pool.map(get, files), "fetching files", len(files), unit="file", disable=None):
            pass  # the first error ends the loop, which cancels what has not begun


def _directly_in(folder: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if PurePosixPath(name).parent.as_posix() == folder)


def _roots(names: Iterable[str]) -> list[str]:
    """Folders that hold all of VOC's, by the names of the files in them; one inside of another does not count."""
    parents = {PurePosixPath(name).parent for name in names}
    held = [{folder.parent.as_posix() for folder in parents if folder.name == name} for name in VOC_FOLDERS]
    found = set.intersection(*held)
    return sorted(f for f in found if not any(f != o and PurePosixPath(f).is_relative_to(o) for o in found))
