"""Pixels: every mode that Pillow has is either read as it looks or refused, by the validation and the loader alike."""

import io

import numpy as np
import pytest
from defects import HEIGHT, WIDTH, noise
from PIL import Image
from promises import refused
from tiff import tiff

from imbdet.data import pixels
from imbdet.data.image_files import look
from imbdet.data.transforms import decode
from imbdet.settings import Validation

COLOURS = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)  # 0 to 383
READ = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I;16N"}
REFUSED = {"I", "F", "LAB", "HSV", "La", "RGBa"}


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def array(values, dtype):
    return saved(Image.fromarray(values.astype(dtype)), "TIFF")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image"


def found(path, content):
    path.write_bytes(content)
    return look(path, (HEIGHT, WIDTH), Validation().max_pixels).defects


def test_all_modes_of_pillow_are_decided():
    """A mode that a later Pillow adds is refused until somebody decides what it means."""
    assert set(Image.MODES) == READ | REFUSED


@pytest.mark.parametrize("mode", Image.MODES)
def test_a_mode_is_read_or_refused(mode):
    """An image in memory has no file that could say that its integers are of 16 bits."""
    image = Image.new(mode, (WIDTH, HEIGHT))
    if mode in READ:
        assert "other_mode" not in pixels.unusual(image)
        assert (pixels.as_rgb(image).shape, pixels.as_rgb(image).dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    else:
        assert set(pixels.unusual(image)) == {"other_mode"}
        with pytest.raises(ValueError, match=rf"has pixels of mode {mode} \(stored as {mode}\), which are not read"):
            pixels.as_rgb(image)


def test_a_mode_that_nobody_has_heard_of_is_refused(monkeypatch):
    image = Image.new("RGB", (WIDTH, HEIGHT))
    monkeypatch.setattr(type(image), "mode", "XYZ")
    assert set(pixels.unusual(image)) == {"other_mode"}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "YCbCr", "CMYK", "P", "L"])
def test_what_is_read_looks_as_it_did(mode):
    """A smooth picture keeps its colours, but for the loss of the mode itself."""
    ramp = np.stack(np.broadcast_arrays(np.arange(HEIGHT)[:, None] * 8, np.arange(WIDTH) * 8, 100), axis=2)
    grey = ramp.mean(axis=2, keepdims=True).repeat(3, axis=2) if mode == "L" else ramp
    picture = Image.fromarray(grey.astype(np.uint8))
    image = picture.quantize() if mode == "P" else picture.convert(mode)
    assert np.abs(pixels.as_rgb(image).astype(int) - grey).max() <= 8


OTHERS = {
    "floats from 0 to 1": array(GREY / 383, np.float32),
    "floats from 0 to 4000": array(GREY * 10, np.float32),
    "a float of 0 for white": tiff((GREY / 383).astype("<f4"), photometric=0),
    "signed integers of 32 bits": array(GREY * 1000, np.int32),
    "unsigned integers of 32 bits": tiff(GREY.astype("<u4")),
    "signed integers of 16 bits": tiff((GREY - 200).astype("<i2")),
    "signed integers of 8 bits": tiff((GREY % 255 - 127).astype("<i1")),
    "integers of 12 bits": tiff(np.full((HEIGHT, WIDTH * 3 // 2), 0x7F, "u1"), bits=12, width=WIDTH),
    "16 bits with 0 for white": tiff((GREY * 100).astype("<u2"), photometric=0),
    "planes of 16 bits": tiff(COLOURS.astype("<u2") * 257, planar=2),
    "premultiplied grey": tiff(COLOURS[..., :2], extra=1),
    "CIE's L*a*b*": tiff(COLOURS, photometric=8),
    "a portable float map": saved(Image.fromarray((GREY / 383).astype(np.float32)), "PPM"),
}


@pytest.mark.promise("What is wrong with an image file is named", "bad input")
@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_pixels_that_are_not_read_are_refused_by_validation_and_loader(path, content):
    assert set(found(path, content)) == {"other_mode"}
    with refused(r"image .* cannot be read \(it has .*, which (are|is) not read; convert it to RGB of 8 bits\)"):
        decode(path)


SIXTEEN = {
    "PNG": saved(Image.fromarray((GREY * 171).astype(np.uint16)), "PNG"),
    "TIFF": array(GREY * 171, "<u2"),
    "TIFF, big-endian": array(GREY * 171, ">u2"),
    "TIFF, deflated": saved(Image.fromarray((GREY * 171).astype(np.uint16)), "TIFF", compression="tiff_deflate"),
    "PGM": saved(Image.fromarray((GREY * 171).astype(np.uint16)), "PPM"),
    "PGM of 12 bits": b"P5 %d %d 4095\n" % (WIDTH, HEIGHT)
    + (GREY * 171 / 65535 * 4095).round().astype(">u2").tobytes(),
    "PGM as text": b"P2 %d %d 65535\n" % (WIDTH, HEIGHT) + b" ".join(b"%d" % v for v in (GREY * 171).ravel()),
}


@pytest.mark.parametrize("content", SIXTEEN.values(), ids=SIXTEEN)
def test_grey_of_16_bits_is_scaled_to_8(path, content):
    assert set(found(path, content)) == {"sixteen_bit"}
    expected = GREY * 171 / 257
    assert np.abs(decode(path).numpy() - expected).max() <= 0.51


@pytest.mark.parametrize("form", [{}, {"deflate": True}, {"deflate": True, "planar": 2}], ids=str)
def test_colours_of_16_bits_are_told_and_keep_their_high_byte(path, form):
    assert set(found(path, tiff(COLOURS.astype("<u2") * 257, **form))) == {"sixteen_bit"}
    assert (decode(path).numpy() == COLOURS.transpose(2, 0, 1)).all()


DEEP = {
    "PPM": b"P6 %d %d 65535\n" % (WIDTH, HEIGHT) + (COLOURS.astype("u2") * 257).astype(">u2").tobytes(),
    "PPM of 12 bits": b"P6 %d %d 4080\n" % (WIDTH, HEIGHT) + (COLOURS.astype("u2") * 16).astype(">u2").tobytes(),
    "PPM as text": b"P3 %d %d 65535\n" % (WIDTH, HEIGHT)
    + b" ".join(b"%d" % (v * 257) for v in COLOURS.ravel().tolist()),
    "SGI": saved(Image.fromarray(COLOURS), "SGI", bpc=2),
}


@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
def test_colours_of_more_than_8_bits_in_other_formats_are_told(path, content):
    assert set(found(path, content)) == {"sixteen_bit"}
    assert np.abs(decode(path).numpy().astype(int) - COLOURS.transpose(2, 0, 1)).max() <= 1


@pytest.mark.parametrize("largest", [255, 100])
def test_a_ppm_of_8_bits_has_nothing_unusual(path, largest):
    pixels = np.minimum(COLOURS, largest).tobytes()
    assert found(path, b"P6 %d %d %d\n" % (WIDTH, HEIGHT, largest) + pixels) == {}


def test_planes_of_8_bits_are_read(path):
    assert found(path, tiff(COLOURS, planar=2)) == {}
    assert (decode(path).numpy() == COLOURS.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_of_several_frames_the_first_is_read_and_the_others_are_told(path, kind):
    first, second = Image.new("RGB", (WIDTH, HEIGHT)), Image.new("RGB", (WIDTH, HEIGHT), (200, 200, 200))
    assert found(path, saved(first, kind)) == {}
    assert set(found(path, saved(first, kind, save_all=True, append_images=[second]))) == {"several_frames"}
    assert decode(path).numpy().max() == 0


def test_a_palette_with_transparency_is_told_and_read(path):
    assert set(found(path, noise(mode="P", transparency=0))) == {"alpha"}
    assert decode(path).shape == (3, HEIGHT, WIDTH)
