"""Are the committed figures what the committed records and today's code give? Each is redrawn and compared."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from imbdet import figures
from imbdet.config import Study
from imbdet.figures import records
from imbdet.figures.drawing import redraw
from imbdet.layout import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

RTOL = 1e-9  # of plotted numbers: what another machine's arithmetic may change
RMS = 1.0  # of pixels, of 255: the same drawing on another machine is below it, one curve moved by a pixel above


def differences(study: Study, layout: Layout, folder: Path) -> list[str]:
    """Return one line for each file in ``folder`` that is missing, superfluous or another than redrawn; none if equal.

    Raises :class:`UserError` where a record is missing or damaged.
    """
    found, known = [], set()
    with TemporaryDirectory() as fresh:
        for name in figures.names(study):
            redraw(study, layout, name, Path(fresh))
            for path in figures.outputs(layout, name):
                known.add(path.name)
                problem = _difference(folder / path.name, Path(fresh) / path.name)
                command = f"python -m imbdet figure config/{study.name}.yaml {name}"
                found += [f"{folder / path.name}: {problem}; redraw it with `{command}`"] if problem else []
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return found + [f"{folder / name}: belongs to no figure of the study" for name in present if name not in known]


def _difference(old: Path, new: Path) -> str:
    """What is wrong with ``old`` where ``new`` is right, or nothing."""
    if not old.is_file():
        return "missing"
    compare = {".csv": _data, ".png": _pixels, ".svg": _words}.get(old.suffix, _text)
    return compare(old.read_bytes(), new.read_bytes())


def _data(old: bytes, new: bytes) -> str:
    """Columns and words are equal, numbers within the tolerance."""
    before, after = (records.parse_csv(content.decode(), "plotted data") for content in (old, new))
    if list(before) != list(after) or len(before) != len(after):
        old_shape, new_shape = (f"{len(table)} rows of {', '.join(map(str, table))}" for table in (before, after))
        return f"{old_shape}, redrawn {new_shape}"
    for column in after:
        one, other = before[column].to_numpy(), after[column].to_numpy()
        if other.dtype.kind in "if" and one.dtype.kind in "if":
            same = np.isclose(one, other, rtol=RTOL, atol=0, equal_nan=True)
        else:
            same = before[column].fillna("").astype(str).to_numpy() == after[column].fillna("").astype(str).to_numpy()
        if not same.all():
            row = int(np.flatnonzero(~same)[0])
            return f"{column} of row {row} is {one[row]!s:.40}, redrawn {other[row]!s:.40}"
    return ""


def _pixels(old: bytes, new: bytes) -> str:
    before, after = _decode(old), _decode(new)
    if before.shape != after.shape:
        return f"{before.shape[1]} x {before.shape[0]} pixels, redrawn {after.shape[1]} x {after.shape[0]}"
    rms = float(np.sqrt(np.mean((before - after) ** 2)))
    return f"pixels differ by {rms:.2f} of 255 (root mean square), more than {RMS}" if rms > RMS else ""


def _decode(png: bytes) -> "NDArray[Any]":
    from matplotlib.image import imread

    return 255.0 * np.asarray(imread(BytesIO(png), format="png"), np.float64)


def _words(old: bytes, new: bytes) -> str:
    """All words in the picture. Paths are compared as pixels, in the PNG: they change with matplotlib's version."""
    for before, after in zip([*_labels(old), ""], [*_labels(new), ""], strict=False):
        if before != after:
            return f"says {before!r:.60}, redrawn {after!r:.60}"
    return ""


def _labels(svg: bytes) -> Iterator[str]:
    """Words are outlines in the SVG, each with its text in a comment."""
    return (label.strip() for label in re.findall("<!--(.*?)-->", svg.decode(), re.DOTALL))


def _text(old: bytes, new: bytes) -> str:
    return "" if old == new else "another text than redrawn"
