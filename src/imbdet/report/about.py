"""What a study is: its data and their defects, its detectors, its recipe and its methods, as the page tells it."""

from collections.abc import Mapping, Sequence
from typing import Any

from imbdet.config import Study
from imbdet.figures.records import Record, read_json
from imbdet.layout import Layout
from imbdet.report.runs import Group
from imbdet.report.tables import Cell, Column, Table, number
from imbdet.settings import Section, Validation

Setting = tuple[str, str]


def data(study: Study) -> Table | None:
    """Images, boxes and defects of each split of each condition; None where no data set was prepared."""
    rows = []
    for condition, plain in study.conditions.items():
        layout = Layout.of(plain)
        if layout.manifest.is_file():
            defects = read_json(layout.validation)["splits"] if layout.validation.is_file() else {}
            splits = read_json(layout.manifest)["splits"]
            rows += [_split([condition, name], part, defects.get(name)) for name, part in splits.items()]
    if not rows:
        return None
    names = [Column("condition", numeric=False), Column("split", numeric=False)]
    heads = ("images", "boxes", "commonest class", "rarest class", "defects found", "images left out")
    columns = [*names, *(Column(name) for name in heads)]
    unnamed = 0 if study.sweep else 1
    rows = [row[unnamed:] for row in rows]
    return Table("Data set and its validation", columns[unnamed:], rows, named=2 - unnamed).filled()


def _split(names: Sequence[str], part: Record, validation: Record | None) -> list[Cell]:
    boxes = part.get("boxes_by_class", {}).values()
    found = validation and sum(defect["count"] for defect in validation["defects"].values())
    left_out = validation and validation["images"] - validation["images_kept"]
    values = [part["images"], part.get("boxes"), max(boxes, default=None), min(boxes, default=None), found, left_out]
    return [*map(Cell, names), *(number([value]) for value in values)]


def defects(study: Study) -> list[str]:
    """A sentence for each defect that validation found."""
    sentences = []
    for condition, plain in study.conditions.items():
        path = Layout.of(plain).validation
        where = f"{condition}, " if condition else ""
        for split, part in read_json(path)["splits"].items() if path.is_file() else ():
            for name, defect in part["defects"].items():
                if defect["count"]:
                    known = Validation.model_fields.get(name)  # a record may be of another version
                    what = known.description if known else name
                    sentences.append(f"{where}{split}: {defect['count']:,} × {what} (policy: {defect['policy']})")
    return sentences


def settings(section: Section | Mapping[str, Any]) -> list[Setting]:
    """Each value of a section of the study with the path of its key, as ``rpn.assigner.foreground_iou``."""
    values = section.model_dump(mode="json") if isinstance(section, Section) else section
    lines: list[Setting] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [(f"{key}.{below}", text) for below, text in settings(value)]
        else:
            lines.append((key, _text(value)))
    return lines


def _text(value: Any) -> str:
    """A value as a study's file has it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list):
        parts = [f"({_text(part)})" if isinstance(part, list) else _text(part) for part in value]
        return ", ".join(parts) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != {} else "none"


def methods(study: Study) -> Table:
    """Each experiment with its methods and all of their parameters."""
    rows = []
    for name, experiment in study.experiments.items():
        stages = [
            f"{stage}: {method['name']} ({', '.join(f'{key} {text}' for key, text in settings(_others(method)))})"
            for stage, method in experiment.methods.items()
        ]
        rows.append([Cell(experiment.label), Cell(name), Cell(experiment.detector), Cell("\n".join(stages))])
    columns = [Column(head, numeric=False) for head in ("experiment", "key", "detector", "methods by stage")]
    return Table("Methods and their parameters", columns, rows)


def _others(method: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in method.items() if key != "name"}


def facts(study: Study, groups: Sequence[Group]) -> list[Setting]:
    """The few numbers at the head of the page."""
    trained = [record for group in groups for record in group.trainings]
    evaluated = sum(len(group.evaluations) for group in groups)
    hours = sum(record["measured"]["seconds"] for record in trained) / 3600
    devices = sorted({_device(record) for record in trained})
    lines = [("experiments", f"{len(study.experiments)}"), ("conditions", f"{len(study.conditions)}")]
    lines += [("seeds", ", ".join(map(str, study.seeds))), ("evaluated runs", f"{evaluated}")]
    lines += [("training time", f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes")]
    lines += [("trained on", ", ".join(devices))] if devices else []
    return [line for line in lines if line != ("conditions", "1")]


def _device(training: Record) -> str:
    hardware = training["hardware"]
    return str(hardware["cpu"] if hardware["device"] == "cpu" else hardware["device"])
