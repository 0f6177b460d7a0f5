"""The files that a study reads its data from, and their hashes: both pipeline tools compare these."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imbdet.errors import UserError
from imbdet.files import sha256, write_json
from imbdet.layout import SPLITS, Layout
from imbdet.settings import Data, FormatData, VocFormatData

SOURCE_CACHE = ".source-hashes.json"
ARCHIVE_CACHE = ".archive-hashes.json"
IMAGE_CACHE = ".image-hashes.json"
VOC_FOLDERS = ("Annotations", "JPEGImages")  # of one folder; its lists of images are optional
DEPTH = 3  # folders above that one, as in TrainVal/VOCdevkit/VOC2011


def annotation_file(split: str) -> Path:
    """Return where a source in COCO's format keeps the annotations of a split."""
    return Path("annotations") / f"instances_{split}.json"


def voc_roots(folder: Path) -> list[Path]:
    """Find the folders of VOC's layout in a folder, sorted: itself, or those below it."""
    found, level = list[Path](), [folder]
    for _ in range(DEPTH + 1):
        found += [path for path in level if all((path / name).is_dir() for name in VOC_FOLDERS)]
        inner = (child for path in level if path not in found for child in path.iterdir())
        level = [path for path in inner if path.is_dir() and not path.name.startswith(".")]
    return sorted(found)


def source_paths(data: Data) -> list[Path]:
    """List the files and folders that the data are read from; none for generated or downloaded data.

    Returns:
        The archive, the manifest of a download, or the annotation files and image folders of both splits and all
        folders that these link to, into which DVC does not look.
    """
    own = _own_paths(data)
    found = [Path(parent, name) for path in own for parent, names, _ in _walk(path) for name in names]
    return [*own, *(path.resolve() for path in found if path.is_symlink())]


def _own_paths(data: Data) -> list[Path]:
    """The same without linked folders, which a walk through the others enters."""
    if not isinstance(data, FormatData):
        return []
    if data.path is None:
        return [Path(data.manifest)] if data.manifest else []
    root = Path(data.path)
    if not root.is_dir():
        return [root]
    if isinstance(data, VocFormatData):
        names = (*VOC_FOLDERS, *(f"ImageSets/Main/{name}.txt" for name in (data.splits.train, data.splits.val) if name))
        return [found / name for found in voc_roots(root) for name in names]
    return [*(root / annotation_file(split) for split in SPLITS), *(root / split for split in SPLITS)]


def source_hashes(data: Data, layout: Layout) -> dict[str, str]:
    """Hash the files that the data are read from, as far as they exist.

    Returns:
        SHA-256 by path relative to ``data.path``; an archive has its own name.
    """
    files: dict[str, Path] = {}
    for path in _own_paths(data):
        files |= files_below(path) if path.is_dir() else {path.name: path}
    return cached_hashes(files, Path(layout.data_folder) / SOURCE_CACHE)


def archive_hashes(names: Mapping[str, str], layout: Layout) -> dict[str, str]:
    """Hash those downloaded archives of these names that are still there: SHA-256 by name."""
    folder = Path(layout.data_folder) / "archives"
    return cached_hashes({name: folder / name for name in names}, Path(layout.data_folder) / ARCHIVE_CACHE)


def image_hashes(layout: Layout) -> dict[str, str]:
    """Hash the prepared images of both splits: SHA-256 by path relative to the data folder."""
    files: dict[str, Path] = {}
    for split in SPLITS:
        files |= files_below(layout.images(split))
    return cached_hashes(files, Path(layout.data_folder) / IMAGE_CACHE)


def files_below(folder: Path) -> dict[str, Path]:
    """List the files of a folder tree, hidden ones left out, by path relative to the folder's parent."""
    found = (Path(parent, name) for parent, _, names in _walk(folder) for name in names if not name.startswith("."))
    return {path.relative_to(folder.parent).as_posix(): path for path in found}


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder tree and all that it links to, each folder once: links may lead in a circle."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(parent, name)) not in seen]
        yield parent, folders, files


def cached_hashes(files: Mapping[str, Path], cache: Path) -> dict[str, str]:
    """Hash files, reading only those whose size or times changed since the last call with this cache.

    Args:
        files: paths by name; one that does not exist is left out.
        cache: JSON file of size in bytes, times of modification and status change in ns, and SHA-256 by name.

    Returns:
        SHA-256 by name.
    """
    known, now = _read(cache), dict[str, list[Any]]()
    for name, path in files.items():
        try:
            status = path.stat()
            # Unpacking or copying may keep the modification time.
            state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            before = known.get(name, [])
            now[name] = before if before[:3] == state else [*state, sha256(path)]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); make it readable") from None
    if now != known:
        write_json(cache, now)
    return {name: state[-1] for name, state in now.items()}


def _read(cache: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(cache.read_bytes())
        return {name: [*map(int, state), str(value)] for name, (*state, value) in content.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):  # gone or damaged: it costs time alone
        return {}
