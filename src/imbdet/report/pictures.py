"""The study's figures and tables for the page: pictures without the caption drawn below them, which is text here."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from imbdet import figures
from imbdet.config import Study
from imbdet.figures import records, style, tables
from imbdet.layout import Layout
from imbdet.report.tables import Cell, Column, Table, as_number

FIRST = ("verdicts", "forest", "sweep")  # stand by themselves at the head of the page
LONGEST = 2_000_000  # characters of an address that every browser takes
SAFE = "/,:;+=()!*$"  # of a CSV, what stays as it is in an address


@dataclass(frozen=True)
class Picture:
    """An image as an address that holds it, with its size in pixels."""

    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """A figure of the page. download: its CSV as an address, empty if that would be too long. drawn_from: records."""

    name: str
    title: str
    caption: str
    csv: Path
    download: str
    picture: Picture | None
    table: Table | None
    drawn_from: list[Path] = field(default_factory=list)


def read(study: Study, layout: Layout, name: str) -> Shown | None:
    """A figure as it was drawn; None if it was not."""
    module = figures.figure(name)
    suffixes = {path.suffix: path for path in figures.outputs(layout, name)}
    if not all(path.is_file() for path in suffixes.values()):
        return None
    title = str(module.__doc__).partition("\n")[0].removesuffix(".")
    caption = plain(suffixes[".rst"].read_text(encoding="utf-8"))
    csv = suffixes[".csv"].read_text(encoding="utf-8")
    return Shown(
        name=name,
        title=title,
        caption=caption,
        csv=suffixes[".csv"],
        download=_download(csv),
        picture=picture(suffixes[".png"], caption) if ".png" in suffixes else None,
        table=_table(module.table(records.parse_csv(csv, name)), title) if hasattr(module, "table") else None,
        drawn_from=module.inputs(study, layout),
    )


def plain(rst: str) -> str:
    """The words of a caption: the reverse of :func:`imbdet.figures.captions.rst`."""
    return re.sub(r"\\([\\*`_|])", r"\1", rst).strip()


def picture(path: Path, caption: str) -> Picture:
    """A drawn figure without its caption, pixel for pixel, in a form that is half as long as PNG."""
    from PIL import Image

    buffer = BytesIO()
    with Image.open(path) as image:
        below = round(style.DPI * _caption_height(caption, image.width / style.DPI))
        kept = image.convert("RGB").crop((0, 0, image.width, image.height - below))
        kept.save(buffer, format="WEBP", lossless=True, method=2)
    return Picture("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode(), kept.width, kept.height)


def _caption_height(caption: str, width: float) -> float:
    """Inches by which a caption makes a figure of this width taller."""
    from matplotlib.figure import Figure

    blank = Figure(figsize=(width, 1.0), layout="constrained")
    style.add_caption(blank, caption, "")
    return float(blank.get_size_inches()[1]) - 1.0


def _download(csv: str) -> str:
    address = "data:text/csv;charset=utf-8," + quote(csv, safe=SAFE)
    return address if len(address) <= LONGEST else ""


def _table(columns: Sequence[tables.Column], caption: str) -> Table:
    """A figure's table with the numbers behind its cells."""
    rows = [[_cell(text) for text in row] for row in zip(*(column.cells for column in columns), strict=True)]
    heads = [
        Column(column.heading, _numeric(cells), "", column.group)
        for column, cells in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    return Table(caption, heads, rows, named=1)


def _numeric(cells: Sequence[Cell]) -> bool:
    """Whether a column holds numbers, all but for blanks and a few words such as ``baseline`` in place of a zero."""
    told = [cell for cell in cells if cell.text != tables.BLANK]
    return 2 * sum(cell.value is not None for cell in told) > len(told)


def _cell(text: str) -> Cell:
    return Cell(text, as_number(text))
