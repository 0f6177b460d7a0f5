"""A study: one YAML file that says which data, detectors, training and experiments, checked before anything runs.

This module imports no torch, so that Snakemake builds its graph in seconds. A method's own parameters are checked by
:func:`imbdet.methods.build_method`, which every study passes through before its first training.
"""

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, model_validator

from imbdet.errors import UserError, nearest
from imbdet.settings import Data, Detector, Evaluate, LossSamples, Section, Train

SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=SAFE_NAME)]
Stage = Literal["dense", "rpn", "roi"]
MAX_BYTES, MAX_VALUES = 1_000_000, 100_000  # of a study's file; a list of image ids may be long
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


class Study(Section):
    """A whole study. ``name`` is the file's name, which is also the folder of its results and figures."""

    name: Name
    description: Annotated[str, Field(description="data set and size in a few words, for every caption")]
    seed: Annotated[int, Field(ge=0)]
    data: Data
    detectors: Annotated[dict[Name, Detector], Field(min_length=1)]
    train: Train
    evaluate: Evaluate
    loss_samples: LossSamples
    report: Report
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
    def _report_names_experiments(self) -> "Study":
        for key, value in self.report.model_dump().items():
            for name in value:
                if name not in self.experiments:
                    raise ValueError(
                        f"report.{key} names {name!r}, not an experiment; {nearest(name, self.experiments)}"
                    )
        return self

    @model_validator(mode="after")
    def _detectors_can_be_trained(self) -> "Study":
        for name, detector in self.detectors.items():
            try:
                self._train(detector)
            except ValidationError as error:
                keys = [".".join(map(str, e["loc"])) + f": {e['msg']}" for e in error.errors()]
                raise ValueError(
                    f"detectors.{name}.train, which replaces values of train: {'; '.join(keys)}. "
                    f"Keys of train: {', '.join(Train.model_fields)}"
                ) from None
        return self

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


def method_modules(study: Study, experiment: str) -> list[str]:
    """The modules of an experiment's methods, which are found by name when it runs."""
    return [f"imbdet.methods.{method['name']}" for method in study.experiment(experiment).methods.values()]


class _NoDuplicates(yaml.SafeLoader):
    """YAML silently keeps the last of two equal keys; a study that names an experiment twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # other keys are refused as such
                if key.value in seen:
                    raise yaml.YAMLError(f"key {key.value!r} stands twice{key.start_mark}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_study(path: str | Path) -> Study:
    """Read and check ``config/<study>.yaml``. Raises :class:`UserError` naming file, key, value and what is allowed."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes; a study is a few pages of settings")
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoDuplicates)
    except FileNotFoundError as error:
        known = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"no study {path}; {nearest(str(path), known)}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; expected a file config/STUDY.yaml") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply; a study has about six levels") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, got {type(raw).__name__}")
    if _is_larger(raw, MAX_VALUES):
        raise UserError(f"{path} holds more than {MAX_VALUES:,} values once its aliases (*name) are put in; use fewer")
    return parse_study(raw, name=path.stem, where=str(path))


def _is_larger(value: Any, limit: int) -> bool:
    """Whether a nested value has more than ``limit`` parts; a few lines of aliases can stand for billions."""
    waiting, count = [value], 0
    while waiting and count <= limit:
        part = waiting.pop()
        count += 1
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part
    return count > limit


def parse_study(raw: dict[str, Any], name: str, where: str) -> Study:
    """Check a study given as a mapping; ``where`` stands in front of every message."""
    try:
        return Study.model_validate({"name": name, **raw})
    except ValidationError as error:
        raise UserError("\n".join(_explain(where, raw, e) for e in error.errors())) from None


def _explain(where: str, raw: dict[str, Any], error: Any) -> str:
    """One pydantic error as a sentence with the key's path, the value and, for an unknown key, the nearest ones."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(_in_file(raw, location))
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}; {nearest(location[-1], _keys_at(Study, location[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict):
        return f"{where}: {key + ': ' if key else ''}{message}"
    return f"{where}: {key} is {error['input']!r}: {message}"


def _in_file(raw: Any, location: list[str]) -> list[str]:
    """The path as the file has it: where a section may be of several kinds, pydantic puts in which one it is."""
    shown = []
    for part in location:
        is_dict = isinstance(raw, dict)
        if is_dict and part not in raw and part in (raw.get("name"), raw.get("source")):
            continue
        shown.append(part)
        raw = raw.get(part) if is_dict else None
    return shown


def _keys_at(model: Any, location: list[str]) -> set[str]:
    """The keys that are allowed at a path inside a model; union members are told apart by their tag."""
    if get_origin(model) is Annotated:
        model = get_args(model)[0]
    if get_origin(model) in (Union, UnionType):
        tags: dict[str, Any] = {}
        for member in get_args(model):
            for field in getattr(member, "model_fields", {}).values():
                tags |= {tag: member for tag in get_args(field.annotation) if isinstance(tag, str)}
        return _keys_at(tags[location[0]], location[1:]) if location and location[0] in tags else set()
    if get_origin(model) is dict:
        return _keys_at(get_args(model)[1], location[1:])
    fields = getattr(model, "model_fields", {})
    if not location:
        return set(fields)
    return _keys_at(fields[location[0]].rebuild_annotation(), location[1:]) if location[0] in fields else set()
