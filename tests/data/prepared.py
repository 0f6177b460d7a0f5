"""Prepare a study's data and look at what was written; sources in COCO's format."""

import json
import zipfile
from pathlib import Path
from typing import Any

from imbdet.config import Study
from imbdet.data.prepare import prepare
from imbdet.layout import Layout


def run(study: Study) -> dict[str, Any]:
    """Prepare a study's data and return its manifest."""
    layout = Layout.of(study)
    prepare(study, layout)
    manifest: dict[str, Any] = json.loads(layout.manifest.read_text())
    return manifest


def state(*folders: str) -> dict[str, tuple[int, int]]:
    """Inode and time of every file but the hidden caches: equal before and after a run that wrote nothing."""
    found = (path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    files = [path for path in found if not path.name.startswith(".")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def content(folder: str = ".") -> dict[str, bytes]:
    """Bytes of every file but the hidden ones, which hold time stamps."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def coco_format(path: Path, **more: str) -> dict[str, str]:
    return {"source": "coco_format", "folder": "data", "path": str(path), **more}
