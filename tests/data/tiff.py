"""TIFF files of any head, also of those that Pillow does not write."""

import struct
import zlib


def tiff(pixels, bits=None, photometric=None, planar=1, extra=None, sample_format=None, width=None, deflate=False):
    """A little-endian TIFF file of an array [H, W] or [H, W, C]; ``width`` is for pixels that are packed in bytes."""
    channels = (*pixels.shape, 1)[2]
    planes = [pixels[..., c].tobytes() for c in range(channels)] if planar == 2 else [pixels.tobytes()]
    planes = [zlib.compress(plane) for plane in planes] if deflate else planes
    starts = [8 + sum(map(len, planes[:i])) for i in range(len(planes) + 1)]
    entries = {
        256: ("I", [width or pixels.shape[1]]),
        257: ("I", [len(pixels)]),
        258: ("H", [bits or 8 * pixels.itemsize] * channels),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [(2 if channels == 3 else 1) if photometric is None else photometric]),
        273: ("I", starts[:-1]),
        277: ("H", [channels]),
        278: ("I", [len(pixels)]),
        279: ("I", list(map(len, planes))),
        284: ("H", [planar]),
        338: ("H", [extra]),
        339: ("H", [sample_format or "_uif".index(pixels.dtype.kind)] * channels),
    }
    if extra is None:
        del entries[338]
    place, body, tail = starts[-1] + 2 + 12 * len(entries) + 4, b"", b""
    for tag, (kind, values) in entries.items():
        raw = struct.pack(f"<{len(values)}{kind}", *values)
        body += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        body += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", place + len(tail))
        tail += raw if len(raw) > 4 else b""
    head = b"II*\0" + struct.pack("<I", starts[-1])
    return head + b"".join(planes) + struct.pack("<H", len(entries)) + body + b"\0\0\0\0" + tail
