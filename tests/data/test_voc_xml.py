"""VOC's XML: boxes in COCO's convention, and wrong files refused with what is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promises import said
from voc_files import HEAD, of, xml

from imbdet.data.voc_xml import CONVENTIONS, WrongFile, parse

REFUSED = pytest.mark.promise("Wrong XML of VOC is refused by file, with what is wrong and what to do", "bad input")


def read(text, corners="one_based", strict=True):
    return parse(text if isinstance(text, bytes) else text.encode(), corners, strict)


def boxes(*corners, by="one_based"):
    return [o.box for o in read(xml(*(of("cat", box) for box in corners)), by).objects]


def test_official_corners_are_pixels_from_1_inside_of_the_box():
    """Of a 60 x 40 image: the whole, its first pixel, its last one, and one between."""
    found = boxes((1, 1, 60, 40), (1, 1, 1, 1), (60, 40, 60, 40), (2.5, 3.25, 10, 20))
    assert found == [(0, 0, 60, 40), (0, 0, 1, 1), (59, 39, 1, 1), (1.5, 2.25, 8.5, 17.75)]


def test_other_conventions_of_the_same_pixels():
    assert boxes((0, 0, 59, 39), by="zero_based") == boxes((0, 0, 60, 40), by="edges") == [(0, 0, 60, 40)]
    assert boxes((59, 39, 59, 39), by="zero_based") == boxes((59, 39, 60, 40), by="edges") == [(59, 39, 1, 1)]


@given(*(st.integers(0, 500) for _ in range(4)), st.sampled_from(sorted(CONVENTIONS)))
def test_a_box_covers_its_pixels_by_every_convention(left, top, width, height, by):
    """Pixels left .. left + width of an image, counted from 0."""
    first, inside = {"one_based": (1, 1), "zero_based": (0, 1), "edges": (0, 0)}[by]
    right, bottom = (low + size + first + 1 - inside for low, size in ((left, width), (top, height)))
    box = (left + first, top + first, right, bottom)
    assert boxes(box, by=by) == [(left, top, width + 1, height + 1)]


def test_names_marks_and_size():
    image = read(
        xml(of(" cat\n", (1, 1, 2, 2), difficult=1), of("Größe", (1, 1, 2, 2), difficult=""), width=7, height=9)
    )
    assert (image.width, image.height) == (7, 9)
    assert [(o.name, o.difficult) for o in image.objects] == [("cat", True), ("Größe", False)]
    assert read(xml()).objects == ()


def test_parts_of_an_object_are_no_objects():
    (o,) = read(xml(of("person", (3, 4, 8, 9), more=HEAD))).objects
    assert (o.name, o.box) == ("person", (2, 3, 6, 6))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "windows-1252"])
def test_an_encoding_that_is_declared_is_read(encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?>{xml(of("Größe", (1, 1, 2, 2)))}'
    assert read(text.encode(encoding)).objects[0].name == "Größe"


def without(*tags):
    text = xml(of("cat", (1, 2, 3, 4)))
    for tag in tags:
        before, _, rest = text.partition(f"<{tag}>")
        text = before + rest.partition(f"</{tag}>")[2]
    return text


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FILE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
WRONG = {
    "empty": ("", r"cannot be read as XML \(no element found.*expected UTF-8 and nothing cut off: save it anew"),
    "cut off": (xml(of("cat", (1, 1, 2, 2)))[:-30], r"cannot be read as XML \(.*"),
    "JSON": ('{"images": []}', r"cannot be read as XML \(.*not well-formed"),
    "another root": ("<boxes/>", "begins with <boxes>; expected <annotation>"),
    "Latin-1 in disguise": (
        xml(of("Größe", (1, 1, 2, 2))).encode("latin-1"),
        r"cannot be read as XML \(not well-formed",
    ),
    "an encoding of several bytes": (
        f'<?xml version="1.0" encoding="gb2312"?>{xml()}',
        r"cannot be read as XML \(.*multi-byte.*expected UTF-8",
    ),
    "an unknown encoding": (f'<?xml version="1.0" encoding="nonsense"?>{xml()}', r"XML \(unknown encoding: .*UTF-8"),
    "an entity": (xml(of("&cat;", (1, 1, 2, 2))), r"cannot be read as XML \(undefined entity"),
    "entities that grow": (
        BOMB + xml(of("&b;", (1, 1, 2, 2))),
        r"has a document type \(a\), .*remove <!DOCTYPE \.\.\.>",
    ),
    "an entity of a file": (FILE + xml(of("&a;", (1, 1, 2, 2))), r"has a document type \(a\), in which entities"),
    "the same in UTF-16": ((FILE + xml()).encode("utf-16"), r"has a document type \(a\)"),
    "no size": (without("size"), "the image has no <size>; expected one: add or remove it"),
    "no width": (without("width"), "<size> has no <width>"),
    "two sizes": (xml().replace("<size>", "<size></size><size>"), "the image has 2 <size>; expected one"),
    "a size of zero": (xml(width=0), "the image has width '0'; expected its number of pixels: write it into <size>"),
    "a size that is no number": (xml(height="40px"), "the image has height '40px'; expected its number of pixels"),
    "no name": (without("name"), "object 1 has no <name>"),
    "an empty name": (xml(of("  ", (1, 1, 2, 2))), "object 1 has an empty <name>; expected its class"),
    "two names": (xml(of("cat</name><name>dog", (1, 1, 2, 2))), "object 1 has 2 <name>; expected one"),
    "no box": (without("bndbox"), r"object 1 \(cat\) has no <bndbox>"),
    "no corner": (without("ymax"), r"the box of object 1 \(cat\) has no <ymax>"),
    "an empty corner": (xml(of("cat", (1, 1, "", 2))), r"object 1 \(cat\) has xmax ''; expected a number of pixels"),
    "a corner that is no number": (xml(of("cat", (1, 1, "nan", 2))), "has xmax 'nan'; expected a number"),
    "an infinite corner": (xml(of("cat", (1, 1, 2, "inf"))), "has ymax 'inf'; expected a number"),
    "a number of Python's": (xml(of("cat", (1, 1, "1_0", 2))), "has xmax '1_0'; expected a number"),
    "left and right swapped": (
        xml(of("cat", (1, 1, 9, 9)), of("dog", (30, 1, 20, 2))),
        r"object 2 \(dog\) has xmin 30 above xmax 20; are the corners swapped",
    ),
    "top and bottom swapped": (xml(of("cat", (1, 20, 2, 19))), "has ymin 20 above ymax 19; are the corners swapped"),
    "corners from 0": (
        xml(of("cat", (1, 0, 2, 2))),
        r"object 1 \(cat\) has ymin 0, but with data.corners one_based the first pixel is 1; if all files count from "
        r"0, set data.corners to zero_based \(or to edges.*if this box alone is wrong, mend it or set data.validation",
    ),
    "a doubtful mark": (xml(of("cat", (1, 1, 2, 2), difficult=2)), r"has difficult '2'; expected 0 or 1"),
}


@REFUSED
@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_refused(text, message):
    with pytest.raises(WrongFile) as error:
        read(text)
    said(message, str(error.value))


@REFUSED
@pytest.mark.parametrize(("corners", "lowest"), [("zero_based", 0), ("edges", 0)])
def test_corners_below_the_first_pixel_of_each_convention(corners, lowest):
    assert read(xml(of("cat", (lowest, lowest, 5, 5))), corners).objects
    with pytest.raises(WrongFile) as error:
        read(xml(of("cat", (lowest - 1, 3, 5, 5))), corners)
    said("has xmin -1, but with data.corners .* the first pixel is 0", str(error.value))
    (o,) = read(xml(of("cat", (lowest - 1, 3, 5, 5))), corners, strict=False).objects
    assert o.box[0] == -1


def test_a_box_without_width_is_left_to_the_validation():
    """By edges it is no pixel, and no sign of swapped corners."""
    assert boxes((4, 4, 4, 8), by="edges") == [(4, 4, 0, 4)]


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_rubbish_is_refused_and_never_more(content):
    with pytest.raises(WrongFile):
        read(content)
