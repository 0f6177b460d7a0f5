"""PASCAL VOC 2007 as published, and any folder or archive of its layout, made into COCO's format.

The layout: ``Annotations/NAME.xml``, ``JPEGImages/NAME.jpg`` and lists of names, ``ImageSets/Main/LIST.txt``. An image
has the name of its annotation file, as for VOC's own programs, which do not read ``<filename>`` either.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from imbdet.data.coco import write_annotations
from imbdet.data.places import Archive, Folder, open_place
from imbdet.data.published import Archives
from imbdet.data.subset import choose
from imbdet.data.voc_xml import VocImage, WrongFile, parse
from imbdet.errors import UserError, listed, nearest
from imbdet.layout import SPLITS, Layout
from imbdet.settings import Splits, Voc2007Data, VocFormatData

CLASSES: tuple[str, ...] = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
OFFICIAL = {"train": "trainval", "val": "test"}
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}  # endings
EXPECTED = "Annotations/ with XML files, JPEGImages/ and ImageSets/Main/ in one folder"


def make(data: Voc2007Data | VocFormatData, layout: Layout, with_images: bool) -> dict[str, str]:
    """Write the annotations and, if asked, the images of both splits; see :mod:`imbdet.data.sources`.

    An image's id is its name where all names are numbers, otherwise its place among the sorted names.

    Raises:
        UserError: no such layout; a list that is absent or names an image twice; an annotation file that is absent or
            wrong, with what is wrong.
    """
    if isinstance(data, Voc2007Data):
        archives = Archives(data, layout)
        base = f"{data.base_url.rstrip('/')}/voc2007"
        sets = {s: VocSet(Archive(archives.get(f"{base}/VOC{name}_06-Nov-2007.tar"))) for s, name in OFFICIAL.items()}
        stems = {split: sets[split].listed(name) for split, name in OFFICIAL.items()}
        hashes, corners = archives.hashes, "one_based"
        classes: tuple[str, ...] | None = CLASSES
    else:
        place, hashes = open_place(data, layout)
        sets = dict.fromkeys(SPLITS, VocSet(place))
        stems = _split(data.splits, sets["train"])
        classes, corners = data.classes, data.corners
    strict = data.validation.reaching_out == "error"
    images = {split: sets[split].parsed(stems[split], classes, corners, strict) for split in SPLITS}
    found = {o.name for of_split in images.values() for image in of_split.values() for o in image.objects}
    for split in SPLITS:
        where = sets[split].where / "Annotations"
        content = sets[split].content(images[split], classes or sorted(found))
        if data.subset is not None:
            content = choose(content, split, getattr(data.subset, split), where)
        annotations = write_annotations(layout.annotations(split), content, where)
        if with_images:
            sets[split].put(layout.images(split), annotations.file_names)
    return hashes


class VocSet:
    """The files of VOC's layout in a folder or archive. ids: of all annotated images, by name."""

    def __init__(self, place: Archive | Folder) -> None:
        roots = place.roots()
        if len(roots) != 1:
            several = f"{listed(roots)} each: set data.path to one of them, or pack it alone" if roots else "nowhere"
            raise UserError(f"{place.path}: expected {EXPECTED}; found {several}")
        self.place = place
        self.root = PurePosixPath(roots[0])
        self.where = place.path / self.root
        self.annotations = self._by_stem("Annotations", {".xml"})
        self.images = self._by_stem("JPEGImages", IMAGES)
        self.ids = _ids(self.annotations)

    def _by_stem(self, folder: str, endings: set[str]) -> dict[str, str]:
        """Files of a folder by name without its ending, hidden ones left out."""
        found: dict[str, str] = {}
        for path in map(PurePosixPath, self.place.names((self.root / folder).as_posix())):
            if path.name.startswith(".") or path.suffix.lower() not in endings:
                continue
            if path.stem in found:
                raise UserError(f"{self.where / folder} has {found[path.stem]} and {path.name}: remove one of the two")
            found[path.stem] = path.name
        return found

    def listed(self, name: str) -> list[str]:
        """The names of images in a list of ``ImageSets/Main``."""
        path = (self.root / "ImageSets/Main" / f"{name}.txt").as_posix()
        content = self.place.read_all([path]).get(path)
        if content is None:
            known = [PurePosixPath(p).stem for p in self.place.names((self.root / "ImageSets/Main").as_posix())]
            raise UserError(f"{self.place.path} has no {path}; there are the lists {listed(known)}: check data.splits")
        stems = [line.strip() for line in content.decode("utf-8-sig", "replace").splitlines() if line.strip()]
        where, seen = self.place.path / path, set[str]()
        for stem in stems:
            if stem not in self.annotations:
                raise UserError(
                    f"{where} names {stem!r:.80}, of which there is no {self.root / 'Annotations' / stem}.xml; "
                    "expected a name without its ending in each line, and no more"
                )
            if stem in seen:
                raise UserError(f"{where} names {stem} more than once; remove one of the lines")
            seen.add(stem)
        if not stems:
            raise UserError(f"{where} is empty; expected the name of an image in each line")
        return stems

    def parsed(
        self, stems: list[str], classes: Collection[str] | None, corners: str, strict: bool
    ) -> dict[str, VocImage]:
        """Read the annotation files of images, by name. Raises :class:`UserError` naming the first that is wrong."""
        paths = {stem: (self.root / "Annotations" / self.annotations[stem]).as_posix() for stem in stems}
        contents = self.place.read_all(paths.values())
        images, wrong = dict[str, VocImage](), dict[str, str]()
        for stem, path in paths.items():
            try:
                images[stem] = parse(contents[path], corners, strict)
                _check_names(images[stem], classes)
            except WrongFile as error:
                wrong[stem] = f"{self.place.path / path}: {error}"
        if wrong:
            first, *others = wrong
            more = f" (and {len(others)} more files are wrong: {listed(others)})" if others else ""
            raise UserError(wrong[first] + more)
        return images

    def content(self, images: Mapping[str, VocImage], classes: Sequence[str]) -> dict[str, Any]:
        """The annotations of images, by name, in COCO's format; categories have the ids 1, 2, ... in their order."""
        category = {name: number for number, name in enumerate(classes, start=1)}
        objects = [(self.ids[stem], o) for stem, image in images.items() for o in image.objects]
        return {
            "images": [
                {
                    "id": self.ids[stem],
                    "file_name": self.images.get(stem, f"{stem}.jpg"),
                    "height": image.height,
                    "width": image.width,
                }
                for stem, image in images.items()
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": category[o.name],
                    "bbox": list(o.box),
                    "difficult": int(o.difficult),
                }
                for number, (image, o) in enumerate(objects, start=1)
            ],
            "categories": [{"id": number, "name": name} for name, number in category.items()],
        }

    def put(self, folder: Path, names: Iterable[str]) -> None:
        """Put images (such as ``000005.jpg``) into a folder."""
        self.place.put(folder, {name: (self.root / "JPEGImages" / name).as_posix() for name in names})


def _check_names(image: VocImage, classes: Collection[str] | None) -> None:
    for number, o in enumerate(image.objects, start=1):
        if classes is not None and o.name not in classes:
            raise WrongFile(f"object {number} has name {o.name!r}, which is no class; {nearest(o.name, classes)}")


def _ids(stems: Collection[str]) -> dict[str, int]:
    """Ids of images: their names as numbers, where they are distinct numbers, else their places in sorted order."""
    if all(re.fullmatch("[0-9]{1,18}", stem) for stem in stems):
        numbers = {stem: int(stem) for stem in stems}
        if len(set(numbers.values())) == len(numbers):
            return numbers
    return {stem: place for place, stem in enumerate(sorted(stems), start=1)}


def _split(splits: Splits, voc: VocSet) -> dict[str, list[str]]:
    """The names of the images of both splits: those of two lists, or a share drawn by a seed from names alone."""
    if splits.train is not None and splits.val is not None:
        train, val = voc.listed(splits.train), voc.listed(splits.val)
        both = sorted(set(train).intersection(val))
        if both:
            raise UserError(
                f"{voc.where}: the lists {splits.train} and {splits.val} share {len(both)} images, first {both[0]}; "
                "data.splits needs two that share none"
            )
        return {"train": train, "val": val}
    order = sorted(voc.annotations, key=lambda stem: hashlib.sha256(f"{splits.seed}/{stem}".encode()).digest())
    count = round(float(splits.val_share or 0) * len(order))
    if not 0 < count < len(order):
        raise UserError(
            f"{voc.where}: data.splits.val_share {splits.val_share} of {len(order)} images is {count}; each split "
            "needs at least one"
        )
    return {"train": sorted(order[count:]), "val": sorted(order[:count])}
