"""COCO 2017 and LVIS v1 from the addresses where they are published, or a mirror of the same layout."""

import re
from pathlib import Path
from typing import Any

from imbdet.data.archives import read_member, unpack
from imbdet.data.coco import parse_json, write_annotations
from imbdet.data.download import Said, fetch
from imbdet.data.subset import RemoteImage, choose, fetch_images, records
from imbdet.errors import UserError
from imbdet.layout import SPLITS, Layout
from imbdet.settings import DownloadedData, LvisData

AS_PUBLISHED = Said(hash="the published one (of a mirror with other content, data.checksums names the hash) has")
COCO_NAME = re.compile(r"(train|val)2017/\d{12}\.jpg$")


def make(data: DownloadedData, layout: Layout, with_images: bool) -> dict[str, str]:
    """Write the annotations and, if asked, the images of both splits; see :mod:`imbdet.data.sources`.

    Archives are kept in ``archives/`` of the data folder; once all is prepared they may be removed. Returns the SHA-256
    of each by name. Raises :class:`UserError` where a server or an archive fails, and for a subset that is none.
    """
    archives = Archives(data, layout)
    images = [_write_annotations(data, archives, layout, split) for split in SPLITS]
    for of_split in images if with_images else ():
        _make_images(data, archives, of_split)
    return archives.hashes


class Archives:
    """Archives that are downloaded when asked for. hashes: SHA-256 by name, of those that were."""

    def __init__(self, data: DownloadedData, layout: Layout) -> None:
        self.data = data
        self.folder = Path(layout.data_folder) / "archives"
        self.hashes: dict[str, str] = {}

    def get(self, url: str) -> Path:
        """Download an archive, unless it is there, and check its hashes."""
        path = self.folder / url.rpartition("/")[2]
        if path.name not in self.hashes:
            said = Said() if path.name in self.data.checksums else AS_PUBLISHED
            self.hashes[path.name] = fetch(url, path, self.data.proxy, self.data.expected(path.name), said)
        return path


def _write_annotations(data: DownloadedData, archives: Archives, layout: Layout, split: str) -> list[RemoteImage]:
    """Write the annotations of a split and return its images. All else of their file, which is large, is let go."""
    url, member = _annotations(data, split)
    archive = archives.get(url)
    where = archive / member
    content = parse_json(read_member(archive, member), where)
    if isinstance(data, LvisData):
        _name_images(content, where)
    if data.subset is not None:
        content = choose(content, split, getattr(data.subset, split), where)
    table = write_annotations(layout.annotations(split), content, where)
    folder = "" if isinstance(data, LvisData) else f"{split}2017/"  # LVIS's names have it: its val split needs both
    return [
        RemoteImage(i, f"{folder}{name}", layout.images(split) / name, (height, width))
        for i, name, (height, width) in zip(
            table.image_ids.tolist(), table.file_names, table.sizes.tolist(), strict=True
        )
    ]


def _annotations(data: DownloadedData, split: str) -> tuple[str, str]:
    """The archive that has a split's annotations, and their name in it."""
    if isinstance(data, LvisData):
        return f"{data.annotations_url.rstrip('/')}/lvis_v1_{split}.json.zip", f"lvis_v1_{split}.json"
    archive = f"{data.base_url.rstrip('/')}/annotations/annotations_trainval2017.zip"
    return archive, f"annotations/instances_{split}2017.json"


def _make_images(data: DownloadedData, archives: Archives, images: list[RemoteImage]) -> None:
    """Write images: of a subset one by one, otherwise out of COCO's archives."""
    base_url = data.base_url.rstrip("/")
    if data.subset is not None:
        fetch_images(images, base_url, data.validation.max_pixels, data.proxy)
        return
    for folder in sorted({image.name.partition("/")[0] for image in images}):
        targets = {image.name: image.path for image in images if image.name.startswith(f"{folder}/")}
        unpack(archives.get(f"{base_url}/zips/{folder}.zip"), targets)


def _name_images(content: Any, where: Path) -> None:
    """Give LVIS's images a ``file_name`` such as ``train2017/000000000030.jpg``, which their ``coco_url`` ends with."""
    for record in records(content, "images", where):
        url = record.get("coco_url")
        name = COCO_NAME.search(str(url))
        if name is None:
            raise UserError(
                f"{where}: image {record['id']} has coco_url {url!r}; expected an end like train2017/000000000030.jpg"
            )
        record["file_name"] = name[0]
