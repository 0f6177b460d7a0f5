"""What the figures of single candidates share: which experiments, and a few candidates of each."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imbdet.config import Study
from imbdet.errors import UserError
from imbdet.figures import records
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 200  # of either kind and experiment: more would hide one another


def inputs(layout: Layout, experiments: Iterable[str]) -> list[Path]:
    """Candidates and evaluation (label) of each experiment, and the manifest (the number of images)."""
    each = [path for name in experiments for path in (layout.candidates(name), layout.evaluation(name))]
    return [*each, layout.manifest]


def read(
    study: Study,
    layout: Layout,
    experiments: Sequence[str],
    columns: Sequence[str],
    needs: Sequence[str] = (),
    most: int = SHOWN,
) -> "DataFrame":
    """Columns experiment, label, set, ``columns`` and images; of each experiment ``most`` of either kind at most.

    ``needs`` are columns that a method writes of itself; experiments without them are left out. Raises
    :class:`UserError` if that leaves none.
    """
    tables = []
    for name in experiments:
        table = records.read_csv(layout.candidates(name), ("set",))
        if all(column in table for column in needs):
            table = records.read_csv(layout.candidates(name), ("set", *columns))
            tables.append(_few(table, most)[["set", *columns]].assign(**records.named(layout, name)))
    if not tables:
        raise UserError(
            f"study {study.name}: of {', '.join(experiments)} no candidates have {' and '.join(needs)}; name an "
            "experiment in the report whose method writes them"
        )
    data = records.concat(tables).assign(images=records.images(layout, "val"))
    return data[["experiment", "label", "set", *columns, "images"]]


def _few(table: "DataFrame", most: int) -> "DataFrame":
    """Evenly spaced rows of either kind, as they stand in the order of the images."""
    parts = []
    for _, rows in table.groupby("set", sort=False):
        step = max(1.0, len(rows) / most)
        parts.append(rows.iloc[[int(place * step) for place in range(min(most, len(rows)))]])
    return records.concat(parts)


def experiments(data: "DataFrame") -> "list[tuple[str, DataFrame]]":
    """The label and the rows of each experiment, in the study's order."""
    return [(str(rows["label"].iloc[0]), rows) for _, rows in data.groupby("experiment", sort=False)]
