"""Image files: whatever is in them, looking at them ends with a name for it."""

import io
import struct
import zlib

import numpy as np
import pytest
from defects import HEIGHT, WIDTH, noise, orientation
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imbdet.data.image_files import DEFECTS, look, look_at_all
from imbdet.data.transforms import decode
from imbdet.errors import UserError
from imbdet.files import sha256
from imbdet.settings import Validation

LIMIT = Validation().max_pixels


def found(path, content, size=(HEIGHT, WIDTH), limit=LIMIT):
    path.write_bytes(content)
    return set(look(path, size, limit).defects)


def png(width, height, depth=8, colour=2, rows=b""):
    """A PNG file with any head."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.promise("An image that would fill the memory is never decoded", "bad input")
@pytest.mark.parametrize("side", [9_500, 20_000, 200_000])
def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch, side):
    """A side of 9,500 makes Pillow warn, and from 13,400 on refuse."""
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side))
    (seen,) = look_at_all([path], [(side, side)], LIMIT, "checking")
    assert set(seen.defects) == {"huge"}


def test_a_bomb_that_appears_after_the_validation_is_named(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(20_000, 20_000))
    with pytest.raises(UserError, match=r"image .*bomb.png cannot be read \(Image size"):
        decode(path)


def test_an_ordinary_image_has_no_defect(tmp_path):
    path = tmp_path / "image"
    for kind, mode in (("PNG", "RGB"), ("JPEG", "RGB"), ("BMP", "RGB"), ("WEBP", "RGB"), ("PNG", "P"), ("GIF", "P")):
        content = noise(mode=mode, kind=kind)
        assert found(path, content) == set(), (kind, mode)
        assert look(path, (HEIGHT, WIDTH), LIMIT)[:2] == (sha256(path), len(content))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", {"unreadable"}),
        (b"<html>404</html>", {"unreadable"}),
        (noise(kind="JPEG")[:300], {"unreadable"}),
        (noise(kind="JPEG")[:-200], {"truncated"}),
        (noise(kind="BMP")[:-1], {"truncated"}),
        (noise(mode="LA"), {"grey", "alpha"}),
        (noise(mode="1"), {"grey"}),
        (noise(mode="L", kind="JPEG"), {"grey"}),
        (noise(mode="P", transparency=0), {"alpha"}),
        (png(2, 2, depth=16, rows=b"\0" + b"\x12\x34" * 6 + b"\0" + b"\x12\x34" * 6), {"sixteen_bit", "other_size"}),
        (noise(kind="JPEG", exif=orientation(3)), {"rotated"}),
        (noise(kind="JPEG", exif=orientation(1)), set()),
        (noise(1, WIDTH), {"one_pixel", "other_size"}),
        (noise(WIDTH, HEIGHT), {"other_size"}),
    ],
)
@pytest.mark.promise("What is wrong with an image file is named", "bad input")
def test_a_file_is_told(tmp_path, content, names):
    assert found(tmp_path / "image", content) == names


def test_no_file_and_a_folder(tmp_path):
    assert set(look(tmp_path / "none", (1, 1), LIMIT).defects) == {"missing"}
    assert set(look(tmp_path, (1, 1), LIMIT).defects) == {"unreadable"}


def test_files_are_told_in_their_order(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        path.write_bytes(noise() if i % 3 else b"")
    seen = look_at_all(paths, [(HEIGHT, WIDTH)] * 40, LIMIT, "checking")
    assert [bool(file.defects) for file in seen] == [i % 3 == 0 for i in range(40)]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([("PNG", "RGB"), ("JPEG", "RGB"), ("PNG", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("WEBP", "RGB")]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0, 1),
)
@pytest.mark.promise("Damaged bytes of an image never end in a traceback", "bad input")
def test_damaged_bytes_are_survived(tmp_path_factory, form, changes, kept):
    """Bytes anywhere are changed and the end is cut; what passes the validation is decoded by the loader as well."""
    content = bytearray(noise(kind=form[0], mode=form[1]))
    for place, value in changes:
        content[int(place * len(content))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: max(1, round(len(content) * kept))])
    seen = look(path, (HEIGHT, WIDTH), 10_000)
    assert seen.defects.keys() <= set(DEFECTS)
    if not seen.defects.keys() & {"unreadable", "truncated", "huge", "other_mode"}:
        assert decode(path).shape[0] == 3


def test_a_picture_of_many_forms_is_read_as_it_is(tmp_path):
    """The two readers agree on what is grey: the loader gives it three equal channels."""
    path = tmp_path / "image"
    for kind, mode in (("PNG", "L"), ("PNG", "RGB"), ("JPEG", "L"), ("PNG", "LA")):
        grey = "grey" in found(path, noise(kind=kind, mode=mode))
        pixels = decode(path).numpy()
        assert bool((np.ptp(pixels, axis=0) == 0).all()) == grey
