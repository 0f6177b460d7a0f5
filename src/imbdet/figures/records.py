"""Reading the records that figures are drawn from, with errors that name the file and the command that makes it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.settings import as_seen

if TYPE_CHECKING:
    from pandas import DataFrame

# Columns of names that people choose: text even where all of it looks like numbers.
_OF_EITHER_SIDE = ("experiment", "label", "detector", "data")
NAMES = (
    *(*_OF_EITHER_SIDE, *(f"measured_{column}" for column in _OF_EITHER_SIDE)),
    *("baseline", "baseline_label", "name", "category", "shown", "tail", "axis", "property"),
    *("claimed_data", "published_data", "table", "published_table"),
)
SIGNIFICANT = 0.05  # adjusted p values below it are called more than chance
_REMEDY = "remove it and run the study again"


class Record(dict[str, Any]):
    """A JSON object that names its file when a key is missing."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.path}: no key {key!r}, found {', '.join(self)}; {_REMEDY}")


def read_json(path: Path) -> Record:
    """Read a record. Raises :class:`UserError` if it is not a JSON object, and later where a key is missing."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_hook=lambda values: Record(values, path))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}; {_REMEDY}") from error
    if not isinstance(record, Record):
        raise UserError(f"{path} must hold a JSON object, got {type(record).__name__}; {_REMEDY}")
    return record


def read_csv(path: Path, columns: Iterable[str]) -> "DataFrame":
    """Read a CSV that has at least ``columns``. Raises :class:`UserError` otherwise."""
    data = parse_csv(path.read_text(encoding="utf-8"), str(path))
    missing = [column for column in columns if column not in data]
    if missing or data.empty:
        problem = f"no column {missing[0]!r}, found {', '.join(map(str, data))}" if missing else "no rows"
        raise UserError(f"{path}: {problem}; {_REMEDY}")
    return data


def parse_csv(text: str, where: str) -> "DataFrame":
    """Parse CSV. Names are text, and only an empty field is missing: classes may be called ``01`` and ``None``."""
    import pandas as pd

    try:
        return pd.read_csv(StringIO(text), dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])
    except pd.errors.ParserError as error:
        raise UserError(f"{where} is not valid CSV: {error}; {_REMEDY}") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{where} is empty; {_REMEDY}") from error


def frame(rows: Iterable[Mapping[str, Any]]) -> "DataFrame":
    """Return rows as a table; a value that is None or absent becomes NaN."""
    import pandas as pd

    data = pd.DataFrame(list(rows))
    return data.where(data.notna(), float("nan"))


def class_names(classes: Iterable[tuple[Any, Any]]) -> dict[tuple[Any, Any], str]:
    """Return what to call each class, by its id and name: its name, and its id where the name alone would not do.

    A name would not do where that of another class looks the same, or where it is blank.
    """
    names = {known: "" if known[1] is None else str(known[1]) for known in classes}
    full = {known: f"{name} ({known[0]})".strip() for known, name in names.items()}
    taken = Counter(map(as_seen, [*names.values(), *full.values()]))
    seen = {known: as_seen(name) for known, name in names.items()}
    return {known: names[known] if word and taken[word] == 1 else full[known] for known, word in seen.items()}


def census_classes(path: Path) -> list[Record]:
    """Return the classes of a census, each with a name that tells it from the others."""
    classes = read_json(path)["classes"]
    names = class_names((entry["id"], entry["name"]) for entry in classes)
    return [Record({**entry, "name": names[entry["id"], entry["name"]]}, path) for entry in classes]


def concat(tables: Iterable["DataFrame"]) -> "DataFrame":
    """Return tables one below the other."""
    import pandas as pd

    return pd.concat(list(tables), ignore_index=True)


def percent(value: float | None) -> float | None:
    """Return a share in percent, without the noise of binary fractions; nothing stays nothing."""
    return None if value is None else round(100 * value, 9)


def images(layout: Layout, split: str) -> int:
    """Return the number of images of a split, from the manifest of the data set."""
    return int(read_json(layout.manifest)["splits"][split]["images"])


def evaluations(study: Study, layout: Layout, experiment: str) -> list[Record]:
    """Return the evaluation of each run of an experiment, in the order of the study's seeds."""
    return [read_json(layout.at_seed(seed).evaluation(experiment)) for seed in study.seeds]


def mean_percent(runs: Sequence[Record], metric: str) -> float | None:
    """Return the mean of a metric over an experiment's runs, in percent; None where it cannot be measured.

    A size without boxes has no value in any run, as all are of the same images.
    """
    return None if runs[0][metric] is None else percent(mean(run[metric] for run in runs))


def difference(record: Record, experiment: str, baseline: str, metric: str) -> dict[str, Any] | None:
    """Return what a record of intervals says of one experiment minus another; it may have the two the other way round.

    difference, low, high and smallest_effect in points; p, not corrected, and p_is_bound, whether it may be smaller but
    for the number of resamples. None where the record does not compare the two.
    """
    for found in record["differences"]:
        if found["metric"] == metric and {found["experiment"], found["baseline"]} == {experiment, baseline}:
            sign = 1 if found["experiment"] == experiment else -1
            low, high = sorted(sign * found[end] for end in ("low", "high"))
            return {
                "difference": percent(sign * found["value"]),
                **{"low": percent(low), "high": percent(high)},
                **{"p": found["p"], "p_is_bound": found["p"] <= record["least_p"]},
                "smallest_effect": percent(found["smallest_effect"]),
            }
    return None


def named(layout: Layout, experiment: str) -> dict[str, str]:
    """Return an experiment with its label and detector, from its evaluation, as columns of a table."""
    record = read_json(layout.evaluation(experiment))
    return {"experiment": experiment, "label": record["label"], "detector": record["detector"]}


def first_detector(study: Study, kind: str) -> str | None:
    """Return the name of the study's first detector of a kind, ``retinanet`` or ``faster_rcnn``; None without one."""
    return next((name for name, detector in study.detectors.items() if detector.name == kind), None)


def require(study: Study, layout: Layout, paths: Iterable[Path], name: str) -> None:
    """Raise :class:`UserError` that lists the records which do not exist, with the command for each."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        commands = _commands(study, layout)
        lines = [f"  {path}: python -m imbdet {commands[path]}" for path in missing]
        raise UserError("\n".join([f"figure {name} of study {study.name} needs records that do not exist:", *lines]))


def _commands(study: Study, layout: Layout) -> dict[Path, str]:
    """Which command makes which record."""
    config = f"config/{study.name}.yaml"
    commands = {
        layout.manifest: f"data {config}",
        layout.examples: f"examples {config}",
    }
    for condition, plain in study.conditions.items():
        chosen = f" --condition {condition}" if condition else ""
        commands[Layout.of(plain).intervals] = f"intervals {config}{chosen}"
    for name in study.report.funnel:
        commands[layout.funnel] = f"funnel {config} {name}"
    for name in study.detectors:
        commands |= {layout.census(name): f"census {config} {name}", layout.structure(name): f"census {config} {name}"}
    for name in study.experiments:
        commands |= {
            layout.training(name): f"train {config} {name}",
            layout.loss_curve(name): f"train {config} {name}",
            layout.precision_recall(name): f"evaluate {config} {name}",
            layout.cumulative_loss(name): f"loss-samples {config} {name}",
            layout.candidates(name): f"inspect {config} {name}",
            layout.method_loss(name): f"inspect {config} {name}",
            layout.gradient_shares(name): f"inspect {config} {name}",
        }
        for seed in study.seeds:
            run = layout.at_seed(seed)
            commands[run.evaluation(name)] = f"evaluate {config} {name} --seed {seed}"
            commands[run.errors(name)] = f"errors {config} {name} --seed {seed}"
    return commands
