"""The measured tables: average precision by experiment, size and class, what errors and trainings cost."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from imbdet.evaluation.errors import ERRORS
from imbdet.figures.records import Record, class_names, read_json
from imbdet.report.runs import Class, Group, Run, class_of
from imbdet.report.tables import Cell, Column, Table, number, percent

# All that an evaluation may hold (COCO, LVIS or VOC), in the order in which it is shown; what none holds is left out.
METRICS = (
    *("AP", "AP50", "AP75", "AP90", "VOC_AP", "VOC_AP11", "AP_rare", "AP_common", "AP_frequent"),
    *("AR_1", "AR_10", "AR_100", "AR_300"),
)
SIZES = ("AP_small", "AP_medium", "AP_large", "AR_small", "AR_medium", "AR_large")
SPECIAL = ("false_positive", "false_negative")
MANY = 20  # classes that still are columns


def identity(groups: Sequence[Group]) -> list[Column]:
    """The columns that say which experiment a row is of; the condition where there are several."""
    several = [Column("condition", numeric=False)] if len({group.first.condition for group in groups}) > 1 else []
    return [*several, Column("experiment", numeric=False)]


def identified(run: Run, columns: Sequence[Column]) -> list[Cell]:
    """The cells of these columns."""
    values = {"condition": run.condition, "experiment": run.label}
    return [Cell(values[column.heading], title=run.experiment) for column in columns]


def sources(group: Group) -> Cell:
    """Links to where a row's numbers are from, one for each seed."""
    links = tuple((f"seed {run.seed}", run.anchor) for run in group.runs if run.files)
    return Cell("", links=links)


def _table(
    groups: Sequence[Group], caption: str, columns: Sequence[Column], cells: Callable[[Group], list[Cell]]
) -> Table:
    """A row for each group: what it is, its numbers, its sources. Columns without a number are left out."""
    names = identity(groups)
    rows = [
        [*identified(group.first, names), *cells(group), Cell(group.first.detector), sources(group)] for group in groups
    ]
    all_columns = [*names, *columns, Column("detector", numeric=False), Column("source", numeric=False)]
    return Table(caption, all_columns, rows, named=len(names)).filled()


def metrics(groups: Sequence[Group]) -> Table:
    """AP and AR of each experiment, with the interval of its AP where it was estimated."""
    measured = [group for group in groups if group.evaluations]
    intervals = {run.layout.intervals: None for group in measured for run in group.runs}
    known = {path: read_json(path)["experiments"] for path in intervals if path.is_file()}

    def cells(group: Group) -> list[Cell]:
        first = group.first
        estimated = known.get(first.layout.intervals, {}).get(first.experiment, {})
        return [_with_interval(percent(group.measured(key)), estimated.get(key)) for key in METRICS]

    columns = [Column(key.replace("_", " ")) for key in METRICS]
    return _table(measured, "Average precision and recall of every experiment, in percent", columns, cells)


def _with_interval(cell: Cell, estimated: Record | None) -> Cell:
    if estimated is None:
        return cell
    between = f"{100 * estimated['low']:.1f} to {100 * estimated['high']:.1f}"
    return replace(cell, below=f"{between}\n{cell.below}".strip())


def sizes(groups: Sequence[Group]) -> Table:
    """AP and AR by the size of the objects."""
    measured = [group for group in groups if group.evaluations]
    columns = [Column(key.split("_")[1], group=key.split("_")[0]) for key in SIZES]
    caption = "Average precision and recall by the size of the objects, in percent"
    return _table(measured, caption, columns, lambda group: [percent(group.measured(key)) for key in SIZES])


def classes(groups: Sequence[Group]) -> Table:
    """AP by class, classes from the most boxes down; with many classes they are the rows."""
    measured = [group for group in groups if group.evaluations]
    counts = {class_of(row): row.get("boxes") for group in measured for row in group.evaluations[0]["per_class"]}
    names = class_names(sorted(counts, key=lambda known: -(counts[known] or 0)))
    caption = "Average precision by class, in percent; classes from the most validation boxes to the fewest"

    def cell(group: Group, known: Class) -> Cell:
        return percent(group.classes.get(known, []))

    if len(names) <= MANY:
        boxes = {known: f"{counts[known]:,} boxes" if counts[known] else "" for known in names}
        columns = [Column(name, below=boxes[known]) for known, name in names.items()]
        return _table(measured, caption, columns, lambda group: [cell(group, known) for known in names])
    heads = [Column(group.first.label, below=group.first.condition or group.first.detector) for group in measured]
    rows = [
        [Cell(name), number([counts[known]]), *(cell(group, known) for group in measured)]
        for known, name in names.items()
    ]
    return Table(caption, [Column("class", numeric=False), Column("boxes"), *heads], rows)


def errors(groups: Sequence[Group]) -> Table | None:
    """What each kind of error costs in AP50; None where nobody analysed any."""
    analysed = [group for group in groups if group.errors]
    if not analysed:
        return None

    def cells(group: Group) -> list[Cell]:
        costs = [[record["cost"][kind] for record in group.errors] for kind in ERRORS]
        special = [[record["special"][kind] for record in group.errors] for kind in SPECIAL]
        return [percent(values) for values in (*costs, *special)]

    columns = [*(Column(kind) for kind in ERRORS), *(Column(f"all {kind.replace('_', ' ')}s") for kind in SPECIAL)]
    caption = "What AP50 would gain, in points, if one kind of error were mended (Bolya et al. 2020)"
    return _table(analysed, caption, columns, cells)


def costs(groups: Sequence[Group]) -> Table:
    """Time and memory of the trainings; GPU hours of those that ran on a GPU."""
    trained = [group for group in groups if group.trainings]

    def cells(group: Group) -> list[Cell]:
        measured = [record["measured"] for record in group.trainings]
        memory = [entry["peak_memory_mb"] for entry in measured]
        return [
            number([record["steps"] for record in group.trainings]),
            number([entry["seconds"] for entry in measured], ",.1f"),
            number([entry["images_per_second"] for entry in measured], ",.1f"),
            number([entry.get("host") for entry in memory]),
            number([entry.get("device") for entry in memory]),
            number([gpu_hours(record) for record in group.trainings], ".3f"),
        ]

    heads = [("steps", ""), ("time", "seconds"), ("speed", "images a second")]
    heads += [("memory", "host, MB"), ("memory", "GPU, MB"), ("GPU", "hours")]
    columns = [Column(heading, below=below) for heading, below in heads]
    return _table(trained, "What each training took", columns, cells)


def gpu_hours(training: Record) -> float | None:
    """Hours times GPUs of a training, None if it had no GPU."""
    hardware = training["hardware"]
    if hardware["device"] == "cpu":
        return None
    return float(training["measured"]["seconds"]) * int(hardware["processes"]) / 3600
