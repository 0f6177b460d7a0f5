"""The runs of a study: each experiment at each seed, under each condition of a sweep, with its records."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from imbdet.config import Study
from imbdet.errors import UserError
from imbdet.figures.captions import detector_name
from imbdet.figures.records import Record, read_json
from imbdet.layout import Layout

Class = tuple[int, str]  # id and name: conditions of a sweep may have other classes


def class_of(row: Record) -> Class:
    """The class of an evaluation's row."""
    return row["category_id"], row["name"]


@dataclass(frozen=True)
class Run:
    """One training and what was measured of it; ``anchor`` names its entry among the sources of the page.

    condition: of a sweep, else empty. training, evaluation, errors: the records, None where there is none yet.
    """

    anchor: str
    condition: str
    experiment: str
    label: str
    detector: str
    seed: int
    layout: Layout
    training: Record | None
    evaluation: Record | None
    errors: Record | None

    @property
    def files(self) -> list[Path]:
        """The records that exist."""
        places = (self.layout.training, self.layout.evaluation, self.layout.errors)
        records = (self.training, self.evaluation, self.errors)
        return [path(self.experiment) for path, record in zip(places, records, strict=True) if record is not None]


@dataclass(frozen=True)
class Group:
    """The runs of one experiment under one condition: they differ by their seed alone."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @cached_property
    def trainings(self) -> list[Record]:
        return [run.training for run in self.runs if run.training is not None]

    @cached_property
    def evaluations(self) -> list[Record]:
        return [run.evaluation for run in self.runs if run.evaluation is not None]

    @cached_property
    def errors(self) -> list[Record]:
        return [run.errors for run in self.runs if run.errors is not None]

    @cached_property
    def classes(self) -> dict[Class, list[float | None]]:
        """The AP of each class, by seed; None where it has no box."""
        values: dict[Class, list[float | None]] = {}
        for record in self.evaluations:
            for row in record["per_class"]:
                values.setdefault(class_of(row), []).append(row["AP"])
        return values

    def measured(self, key: str) -> list[Any]:
        """A value of each evaluation, by seed; None where it has none."""
        return [record.get(key) for record in self.evaluations]


def read_groups(study: Study) -> list[Group]:
    """Return the runs of a study in its order, those of one experiment together.

    Raises :class:`UserError` if there is no record at all, or if one says that it is of another run than its place.
    """
    groups = []
    for condition, plain in study.conditions.items():
        for experiment in plain.experiments:
            places = [(condition, plain, experiment, seed) for seed in plain.seeds]
            groups.append(Group(tuple(_read(*place) for place in places)))
    if not any(run.files for group in groups for run in group.runs):
        raise UserError(
            f"study {study.name} has no records in {Layout.of(study).results}, so there is nothing to report; run it "
            f"first: make study STUDY={study.name}"
        )
    return groups


def _read(condition: str, study: Study, experiment: str, seed: int) -> Run:
    layout = Layout.of(study).at_seed(seed)
    expected = {"study": study.name, "experiment": experiment, "seed": seed}
    settings = study.experiments[experiment]
    return Run(
        anchor="-".join(["run", *([condition] if condition else []), experiment, str(seed)]),
        condition=condition,
        experiment=experiment,
        label=settings.label,
        detector=detector_name(settings.detector),
        seed=seed,
        layout=layout,
        training=_record(layout.training(experiment), expected),
        evaluation=_record(layout.evaluation(experiment), expected),
        errors=_record(layout.errors(experiment), expected),
    )


def _record(path: Path, expected: dict[str, Any]) -> Record | None:
    """A record if there is one. A training's seed stands in its configuration."""
    if not path.is_file():
        return None
    record = read_json(path)
    for key, value in expected.items():
        found = record["config"][key] if key == "seed" and "config" in record else record[key]
        if found != value:
            raise UserError(
                f"{path}: {key} is {found!r}, expected {value!r}, as the record's place says; put it where it belongs, "
                "or remove it and run the study again"
            )
    return record
