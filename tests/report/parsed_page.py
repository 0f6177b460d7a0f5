"""What a page holds, read from its HTML: tables with the numbers behind their cells, addresses, ids, text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input"}


@dataclass
class ReadCell:
    text: str = ""
    small: str = ""
    value: float | None = None
    links: list[str] = field(default_factory=list)


@dataclass
class ReadTable:
    caption: str = ""
    headings: list[str] = field(default_factory=list)
    rows: list[list[ReadCell]] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)

    def column(self, heading):
        """The cells under the first column of this heading."""
        return [row[self.headings.index(heading)] for row in self.rows]


class Page(HTMLParser):
    """``tables``, ``elements`` (tag and attributes) and ``text`` of a page, whose tags must all be closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.elements, self.words, self.open = [], [], [], []
        self.scripts, self.cell = [], None
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def table(self, caption):
        (found,) = [table for table in self.tables if caption in table.caption]
        return found

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append(ReadTable())
        elif tag == "script":
            self.scripts.append("")
        elif tag == "tr" and "tbody" in self.open:
            self.tables[-1].rows.append([])
            self.tables[-1].ids.append(attributes.get("id"))
        elif tag == "tr":
            self.tables[-1].headings = []  # the last row of the head names the columns
        elif tag in ("td", "th") and "tbody" in self.open:
            value = attributes.get("data-value")
            self.cell = ReadCell(value=None if value is None else float(value))
            self.tables[-1].rows[-1].append(self.cell)
        elif tag == "th":
            self.tables[-1].headings.append("")
        elif tag == "a" and self.cell is not None:
            self.cell.links.append(attributes["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        inside = self.open[-1:]
        if inside == ["script"]:
            self.scripts[-1] += data
        elif inside != ["style"]:
            self.words.append(data)
        if self.cell is not None:
            name = "small" if inside == ["small"] else "text"
            setattr(self.cell, name, getattr(self.cell, name) + data)
        elif "caption" in self.open:
            self.tables[-1].caption += data
        elif "th" in self.open and inside != ["small"]:
            self.tables[-1].headings[-1] += data
