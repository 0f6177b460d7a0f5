"""One annotation file of PASCAL VOC: the objects of an image, checked, with boxes as COCO has them.

The format is that of the VOC 2007 devkit (Everingham et al., "The PASCAL Visual Object Classes Challenge 2007
Development Kit", section 4). Corners there are pixels that are counted from 1, and both lie inside the box.
"""

import math
import re
from dataclasses import dataclass
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

CORNERS = ("xmin", "ymin", "xmax", "ymax")
# By data.corners: the number of the first pixel, and by how much the width exceeds xmax - xmin.
CONVENTIONS = {"one_based": (1, 1), "zero_based": (0, 1), "edges": (0, 0)}
LARGEST = 1e9  # pixels; beyond it a number is no position in an image


class WrongFile(Exception):
    """What is wrong with a file, what was expected and what to do, as a clause for people."""


@dataclass(frozen=True)
class VocObject:
    """An object. box: x, y, width, height in pixels, x and y from the image's upper left border."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocImage:
    """The objects of an image, in the order of its file. height, width: pixels."""

    height: int
    width: int
    objects: tuple[VocObject, ...]


def parse(content: bytes, corners: str, below_is_wrong: bool) -> VocImage:
    """Parse an annotation file.

    Args:
        corners: what the numbers of corners mean, a key of :data:`CONVENTIONS`.
        below_is_wrong: refuse corners below the first pixel, which tell of another convention.

    Raises:
        WrongFile: XML that cannot be read or declares entities; a size, name, box or corner that is absent, repeated
            or no number; swapped corners; a ``difficult`` other than 0 and 1.
    """
    root = _tree(content)
    if root.tag != "annotation":
        raise WrongFile(f"begins with <{root.tag}>; expected <annotation>")
    size = _one(root, "size", "the image")
    height, width = (_pixels(size, key) for key in ("height", "width"))
    objects = enumerate(root.findall("object"), start=1)
    return VocImage(height, width, tuple(_object(o, number, corners, below_is_wrong) for number, o in objects))


def _tree(content: bytes) -> Element:
    """The elements of XML without a document type, the only place where entities can be declared."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two of encodings
        raise WrongFile(f"cannot be read as XML ({error}); expected UTF-8 and nothing cut off: save it anew") from None
    return builder.close()


def _refuse_doctype(name: str, *_: object) -> None:
    raise WrongFile(
        f"has a document type ({name}), in which entities are declared; none is read: remove <!DOCTYPE ...>"
    )


def _one(parent: Element, tag: str, whose: str) -> Element:
    found = parent.findall(tag)
    if len(found) != 1:
        raise WrongFile(f"{whose} has {len(found) or 'no'} <{tag}>; expected one: add or remove it")
    return found[0]


def _text(parent: Element, tag: str, whose: str) -> str:
    return (_one(parent, tag, whose).text or "").strip()


def _pixels(size: Element, key: str) -> int:
    text = _text(size, key, "<size>")
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise WrongFile(f"the image has {key} {text!r}; expected its number of pixels: write it into <size>")
    return int(text)


def _object(element: Element, number: int, corners: str, below_is_wrong: bool) -> VocObject:
    name = _text(element, "name", f"object {number}")
    if not name:
        raise WrongFile(f"object {number} has an empty <name>; expected its class")
    whose = f"object {number} ({name})"
    values = _corners(_one(element, "bndbox", whose), whose)
    first, extra = CONVENTIONS[corners]
    if below_is_wrong and min(values) < first:
        found = next(f"{key} {value:g}" for key, value in zip(CORNERS, values, strict=True) if value < first)
        raise WrongFile(
            f"{whose} has {found}, but with data.corners {corners} the first pixel is {first}; if all files count from "
            "0, set data.corners to zero_based (or to edges, where xmax is the first pixel outside), and if this box "
            "alone is wrong, mend it or set data.validation.reaching_out"
        )
    left, top, right, bottom = values
    width, height = round(right - left + extra, 6), round(bottom - top + extra, 6)
    for low, high, side in (("xmin", "xmax", width), ("ymin", "ymax", height)):
        if side < 0 or (side == 0 and extra):
            shown = dict(zip(CORNERS, (f"{value:g}" for value in values), strict=True))
            raise WrongFile(f"{whose} has {low} {shown[low]} above {high} {shown[high]}; are the corners swapped?")
    return VocObject(name, (round(left - first, 6), round(top - first, 6), width, height), _difficult(element, whose))


def _corners(box: Element, whose: str) -> list[float]:
    return [_number(_text(box, key, f"the box of {whose}"), key, whose) for key in CORNERS]


def _number(text: str, key: str, whose: str) -> float:
    try:
        value = float(text.replace("_", "?"))  # Python reads 1_0 as 10
    except ValueError:
        value = math.nan
    if not abs(value) < LARGEST:
        raise WrongFile(f"{whose} has {key} {text!r}; expected a number of pixels")
    return value


def _difficult(element: Element, whose: str) -> bool:
    found = element.findall("difficult")
    text = _text(element, "difficult", whose) if found else "0"
    if text not in ("", "0", "1"):
        raise WrongFile(f"{whose} has difficult {text!r}; expected 0 or 1")
    return text == "1"
