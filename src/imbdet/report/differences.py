"""How far methods differ from their baselines, and how sure that is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from imbdet.config import Study
from imbdet.figures.captions import RESAMPLED, detector_name
from imbdet.figures.records import SIGNIFICANT, Record, read_json
from imbdet.figures.tables import p_values
from imbdet.layout import Layout
from imbdet.report.tables import Cell, Column, Table, number

POINTS = "+.1f"


def read(study: Study) -> dict[str, Record]:
    """The intervals of each condition that has some."""
    paths = {condition: Layout.of(plain).intervals for condition, plain in study.conditions.items()}
    return {condition: read_json(path) for condition, path in paths.items() if path.is_file()}


def files(study: Study) -> list[Path]:
    """Where the intervals of :func:`read` are."""
    return [Layout.of(study.conditions[condition]).intervals for condition in read(study)]


def table(records: dict[str, Record]) -> Table:
    """A row for each method beside its baseline; for each metric the difference, its p value, what could be seen."""
    several = any(records)
    metrics = list(dict.fromkeys(entry["metric"] for record in records.values() for entry in record["differences"]))
    level, power = (next(iter(records.values()))[key] for key in ("level", "power"))
    heads = [("difference", f"{level:.0%} interval"), ("p, corrected", "not corrected")]
    heads += [("smallest effect", f"seen with {power:.0%} power, by itself")]
    columns = [
        *(Column(name, numeric=False) for name in ["condition"] * several + ["method"]),
        *(Column(head, below=below, group=metric) for metric in metrics for head, below in heads),
        Column("detector", numeric=False),
    ]
    rows = []
    for condition, record in records.items():
        labels = {name: entry["label"] for name, entry in record["experiments"].items()}
        for found in _pairs(record):
            first = found[metrics[0]]
            names = [Cell(condition)] * several + [Cell(first["label"], below=f"less {labels[first['baseline']]}")]
            numbers = [cell for metric in metrics for cell in _cells(found[metric], record["least_p"])]
            rows.append([*names, *numbers, Cell(detector_name(first["detector"]))])
    caption = "Each method less its baseline, on the same images and seeds, in points of AP"
    return Table(caption, columns, rows, named=1 + several)


def _pairs(record: Record) -> list[dict[str, Record]]:
    """The differences of each method and its baseline, by metric."""
    pairs: dict[tuple[str, str], dict[str, Record]] = {}
    for entry in record["differences"]:
        pairs.setdefault((entry["experiment"], entry["baseline"]), {})[entry["metric"]] = entry
    return list(pairs.values())


def _cells(entry: Record, least_p: float) -> list[Cell]:
    """A difference with its interval, and with the single ones where there are several seeds; its p; its least size."""
    low, high = (number([entry[key]], POINTS, 100).text for key in ("low", "high"))
    singles = number(entry["by_seed"], POINTS, 100).below
    holm, single = p_values((entry["p_holm"], entry["p"]), [entry["p"] <= least_p] * 2)
    return [
        replace(number([entry["value"]], POINTS, 100), below=f"{low} to {high}\n{singles}".strip()),
        Cell(holm, entry["p_holm"], single),
        number([entry["smallest_effect"]], ".1f", 100),
    ]


def summary(records: dict[str, Record], seeds: Sequence[int]) -> str:
    """What was resampled, and how many differences in AP are more than chance explains; or that nothing was."""
    alone = "One seed: no interval says what another seed would change."
    if not records:
        return "No intervals were estimated: small differences may be noise." + f" {alone}" * (len(seeds) == 1)
    first = next(iter(records.values()))
    entries = [entry for record in records.values() for entry in record["differences"] if entry["metric"] == "AP"]
    sure = sum(entry["p_holm"] < SIGNIFICANT for entry in entries)
    explains = "chance explains" if first["over"] != "images" else "other images would explain, for these very runs"
    return (
        f"{sure} of {len(entries)} differences in AP are more than {explains} (p below {SIGNIFICANT:g} after Holm’s "
        f"correction). Intervals are of {first['resamples']:,} resamples of {RESAMPLED[first['over']]}."
        + f" {alone}"
        * (len(first["seeds"]) == 1)
    )
