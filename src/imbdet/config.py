"""A study: which data, detectors, training and experiments, checked before anything runs.

It is read from one YAML file (:mod:`imbdet.study_file`). This module imports no torch, so that Snakemake builds its
graph in seconds. A method's own parameters are checked by :func:`imbdet.methods.build_method`, which every study passes
through before its first training.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from imbdet.errors import UserError, nearest
from imbdet.settings import (
    Axis,
    Data,
    Detector,
    Evaluate,
    Integer,
    Intervals,
    LossSamples,
    Section,
    Train,
    as_seen,
    is_line,
)

SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=SAFE_NAME)]
Stage = Literal["dense", "rpn", "roi"]
BESIDE = ("pixels", "truth")  # what figures of detections show beside those of experiments
BASE = "base"  # of a sweep: the point at which the data are the study's own
STAGES: dict[str, tuple[Stage, ...]] = {"retinanet": ("dense",), "faster_rcnn": ("rpn", "roi")}


def method_names() -> list[str]:
    """Names of all methods: the public modules of ``imbdet/methods``."""
    return sorted(path.stem for path in (Path(__file__).parent / "methods").glob("[a-z]*.py"))


class Experiment(Section):
    """One training of the study: its detector, the method of each of its stages, its name in figures and tables."""

    label: str
    detector: Name
    methods: dict[Stage, dict[str, Any]]

    @property
    def method(self) -> dict[str, Any]:
        """The method of the detector's last stage, which its detections come from."""
        return list(self.methods.values())[-1]

    @field_validator("label")
    @classmethod
    def _label_can_be_shown(cls, label: str) -> str:
        if not is_line(label) or label.startswith("_"):
            raise ValueError("expected a line of text that is not blank and does not begin with _, as legends hide it")
        return label

    @model_validator(mode="after")
    def _methods_are_named(self) -> "Experiment":
        for stage, method in self.methods.items():
            name = method.get("name")
            if name not in method_names():
                raise ValueError(f"methods.{stage}: name {name!r} does not exist; {nearest(str(name), method_names())}")
        return self


class Report(Section):
    """Which experiments stand in which figure or table; a figure whose list is empty is not drawn."""

    precision_recall: tuple[Name, ...]
    detections: tuple[Name, ...]
    gamma: tuple[Name, ...] = ()
    alpha: tuple[Name, ...] = ()
    cumulative_loss: Annotated[tuple[Name, ...], Field(max_length=1, description="a one-stage experiment")] = ()
    focal_star: tuple[Name, ...] = ()
    methods: Annotated[
        tuple[Name, ...], Field(description="one a method and detector, for figures across methods")
    ] = ()
    ohem: Annotated[tuple[Name, ...], Field(description="OHEM beside focal loss")] = ()
    noisy_anchors: tuple[Name, ...] = ()
    sample_weighting: tuple[Name, ...] = ()
    pisa: tuple[Name, ...] = ()
    equalization: Annotated[tuple[Name, ...], Field(description="beside its baselines")] = ()
    equalization_lambda: Annotated[tuple[Name, ...], Field(description="the Equalization Loss by its tail")] = ()
    noisy_anchors_gain: Annotated[tuple[Name, ...], Field(description="beside its baseline")] = ()
    pisa_gain: Annotated[tuple[Name, ...], Field(description="beside its baselines")] = ()
    funnel: Annotated[tuple[Name, ...], Field(max_length=1, description="a two-stage experiment")] = ()
    verdicts: dict[Name, tuple[Name, Name]] = Field(
        default_factory=dict,
        description="for claims of imbdet/figures/published/claims.csv the experiment and its baseline",
    )


class Study(Section):
    """A whole study. ``name`` is the file's name, which is also the folder of its results and figures."""

    name: Name
    description: Annotated[str, Field(description="data set and size in a few words, for every caption")]
    seeds: Annotated[
        tuple[Annotated[Integer, Field(ge=0)], ...],
        Field(min_length=1, description="each trains every experiment once; runs shown singly are of the first"),
    ]
    data: Data
    detectors: Annotated[dict[Name, Detector], Field(min_length=1)]
    train: Train
    evaluate: Evaluate
    loss_samples: LossSamples
    report: Report
    intervals: Intervals | None = None
    sweep: dict[Name, Axis] = Field(default_factory=dict, description="properties of the data, changed in turn")
    experiments: Annotated[dict[Name, Experiment], Field(min_length=1)]

    @model_validator(mode="after")
    def _experiments_fit_their_detectors(self) -> "Study":
        for name, experiment in self.experiments.items():
            if experiment.detector not in self.detectors:
                raise ValueError(
                    f"experiments.{name}.detector names {experiment.detector!r}; "
                    f"{nearest(experiment.detector, self.detectors)}"
                )
            stages = STAGES[self.detectors[experiment.detector].name]
            if tuple(experiment.methods) != stages:
                raise ValueError(
                    f"experiments.{name}.methods has the stages {', '.join(experiment.methods) or 'none'}; "
                    f"{experiment.detector} has {', '.join(stages)}, in this order"
                )
        for detector in sorted(
            self.detectors.keys() - {experiment.detector for experiment in self.experiments.values()}
        ):
            raise ValueError(f"detectors.{detector} is the detector of no experiment; remove it or use it")
        return self

    @model_validator(mode="after")
    def _experiments_are_told_apart(self) -> "Study":
        with_label: dict[str, str] = {}
        for name, experiment in self.experiments.items():
            if name in BESIDE:
                raise ValueError(f"experiments.{name}: figures have {name!r} for something else; choose another name")
            label = as_seen(experiment.label)
            if other := with_label.get(label):
                raise ValueError(
                    f"experiments.{other} and experiments.{name} both have the label {label!r}, by which figures and "
                    "tables tell experiments apart; give each its own"
                )
            with_label[label] = name
        return self

    @model_validator(mode="after")
    def _report_names_experiments(self) -> "Study":
        named = {f"report.{key}": value for key, value in self.report if key != "verdicts"}
        named |= {f"report.verdicts.{claim}": pair for claim, pair in self.report.verdicts.items()}
        named |= {f"sweep.{key}.experiments": axis.experiments for key, axis in self.sweep.items()}
        named |= {"intervals.baselines": self.intervals.baselines} if self.intervals else {}
        for key, value in named.items():
            for name in value:
                if name not in self.experiments:
                    raise ValueError(f"{key} names {name!r}, not an experiment; {nearest(name, self.experiments)}")
        return self

    @model_validator(mode="after")
    def _baselines_have_rivals(self) -> "Study":
        baselines = self.intervals.baselines if self.intervals else ()
        detector = {name: experiment.detector for name, experiment in self.experiments.items()}
        for name in baselines:
            if list(detector.values()).count(detector[name]) < 2:
                raise ValueError(
                    f"intervals.baselines names {name!r}, the only experiment of {detector[name]}: nothing is left to "
                    "compare it with"
                )
        for key, axis in self.sweep.items() if baselines else ():
            known = {detector[name] for name in axis.experiments if name in baselines}
            for name in axis.experiments:
                if detector[name] not in known:
                    raise ValueError(
                        f"sweep.{key}.experiments names {name!r}, but no baseline of {detector[name]} to compare it "
                        f"with; intervals.baselines has {', '.join(baselines)}"
                    )
        return self

    @model_validator(mode="after")
    def _verdicts_have_intervals(self) -> "Study":
        baselines = self.intervals.baselines if self.intervals else ()
        for claim, (name, baseline) in self.report.verdicts.items():
            if baseline not in baselines:
                raise ValueError(
                    f"report.verdicts.{claim} compares {name!r} with {baseline!r}, which is not in intervals.baselines"
                )
            if name == baseline or self.experiments[name].detector != self.experiments[baseline].detector:
                raise ValueError(
                    f"report.verdicts.{claim} compares {name!r} with {baseline!r}, which are not two of one detector"
                )
        return self

    @model_validator(mode="after")
    def _seeds_can_be_resampled(self) -> "Study":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds has one of {list(self.seeds)} twice; a run with the same seed is the same run")
        if self.intervals and self.intervals.over == "seeds_and_images" and len(self.seeds) < 2:
            raise ValueError(
                f"intervals.over is seeds_and_images, but seeds has {self.seeds[0]} alone, which says nothing of other "
                "seeds; give at least two, better five, or take `over: images`"
            )
        if self.intervals and self.data.rules == "lvis":
            raise ValueError("intervals are of COCO's AP, which LVIS does not have; remove them from this study")
        return self

    @model_validator(mode="after")
    def _conditions_are_data(self) -> "Study":
        if self.sweep and self.intervals is None:
            raise ValueError("a sweep shows differences with their intervals; set intervals")
        known: dict[str, tuple[float, dict[str, Any]]] = {}
        for axis, settings in self.sweep.items():
            for x, changes in settings.points.items():
                name = condition_name(axis, x, changes)
                first, others = known.setdefault(name, (x, changes))
                if others != changes:
                    raise ValueError(
                        f"sweep.{axis}.points: {first!r} and {x!r} would both be called {name}; choose values that "
                        "differ in their first six digits"
                    )
                try:
                    self._data(name, changes)
                except ValidationError as error:
                    raise ValueError(
                        f"sweep.{axis}.points.{x:g}, which replaces values of data: {_problems(error)}"
                    ) from None
        return self

    @model_validator(mode="after")
    def _detectors_can_be_trained(self) -> "Study":
        for name, detector in self.detectors.items():
            try:
                self._train(detector)
            except ValidationError as error:
                raise ValueError(
                    f"detectors.{name}.train, which replaces values of train: {_problems(error)}. "
                    f"Keys of train: {', '.join(Train.model_fields)}"
                ) from None
        return self

    @property
    def seed(self) -> int:
        """The first seed, or the only one: that of every run which is shown by itself."""
        return self.seeds[0]

    def at_seed(self, seed: int) -> "Study":
        """The same study with this seed alone. Raises :class:`UserError` if it has no such seed."""
        if seed not in self.seeds:
            raise UserError(f"study {self.name} has no seed {seed}; its seeds are {', '.join(map(str, self.seeds))}")
        return self.model_copy(update={"seeds": (seed,)})

    @property
    def feature_stores(self) -> tuple[str, ...]:
        """The first detector of each backbone whose features are stored; others with the same features share them."""
        chosen: dict[str, str] = {}
        for name, detector in self.detectors.items():
            if detector.stores_features:
                chosen.setdefault(detector.features, name)
        return tuple(chosen.values())

    @property
    def conditions(self) -> dict[str, "Study"]:
        """The plain studies of a sweep, one for each of its points, or this one under an empty name.

        The points at which the data are the study's own are one, :data:`BASE`. Of the experiments each has those that
        an axis wants at this point.
        """
        if not self.sweep:
            return {"": self}
        wanted: dict[str, tuple[dict[str, Any], str, set[str]]] = {}
        for key, axis in self.sweep.items():
            for x, changes in axis.points.items():
                name, words = condition_name(key, x, changes), f"; {axis.label} {x:g}" if changes else ""
                wanted.setdefault(name, (changes, words, set()))[2].update(axis.experiments)
        return {name: self._condition(name, *parts) for name, parts in wanted.items()}

    def at_condition(self, condition: str) -> "Study":
        """One of :attr:`conditions`. Raises :class:`UserError` if there is none of this name."""
        known = self.conditions
        if condition not in known:
            problem = (
                f"no condition {condition!r}; {nearest(condition, known)}"
                if condition
                else f"it is a sweep; choose one of its conditions with --condition: {', '.join(known)}"
            )
            raise UserError(f"study {self.name}: {problem}")
        return known[condition]

    def _condition(self, name: str, changes: dict[str, Any], words: str, experiments: set[str]) -> "Study":
        chosen = {key: experiment for key, experiment in self.experiments.items() if key in experiments}
        used = {experiment.detector for experiment in chosen.values()}
        assert self.intervals is not None  # as a sweep has them
        baselines = tuple(key for key in self.intervals.baselines if key in chosen)
        parts: dict[str, Any] = {
            "name": f"{self.name}/{name}",
            "description": self.description + words,
            "data": self._data(name, changes),
            "detectors": {key: detector for key, detector in self.detectors.items() if key in used},
            "intervals": self.intervals.model_copy(update={"baselines": baselines}),
            "experiments": chosen,
            "sweep": {},
        }
        return self.model_copy(update=parts)

    def _data(self, condition: str, changes: dict[str, Any]) -> Data:
        values = self.data.model_dump() | changes | {"folder": f"{self.data.folder}/{condition}"}
        return type(self.data).model_validate(values)

    def training(self, experiment: str) -> Train:
        """Return how an experiment is trained: the study's values, but for those that its detector has instead."""
        return self._train(self.detector(experiment))

    def _train(self, detector: Detector) -> Train:
        return Train.model_validate({**self.train.model_dump(), **detector.train})

    def detector(self, experiment: str) -> Detector:
        """Return the settings of an experiment's detector."""
        return self.detectors[self.experiment(experiment).detector]

    def experiment(self, name: str) -> Experiment:
        """Return an experiment by name, or raise :class:`UserError` with the nearest names."""
        if name not in self.experiments:
            raise UserError(f"study {self.name}: no experiment {name!r}; {nearest(name, self.experiments)}")
        return self.experiments[name]


def condition_name(axis: str, x: float, changes: dict[str, Any]) -> str:
    """The name of a sweep's point; all points at which nothing changes are one."""
    return f"{axis}-{x:g}" if changes else BASE


def _problems(error: ValidationError) -> str:
    """What is wrong with the values that replace those of a section, by their keys."""
    parts = ((".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors())
    return "; ".join(": ".join(filter(None, part)) for part in parts)


def method_modules(study: Study, experiment: str) -> list[str]:
    """The modules of an experiment's methods, which are found by name when it runs."""
    return [f"imbdet.methods.{method['name']}" for method in study.experiment(experiment).methods.values()]
