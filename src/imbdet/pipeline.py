"""The steps of a study: what each reads and writes, and what else its results depend on; written out as DVC stages.

Snakemake's rules and DVC's stages are the same steps. DVC decides by content whether a stage's results still hold, and
has Snakemake run just that rule. ``python -m imbdet.pipeline config/STUDY.yaml`` writes the study's pipeline file.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from imbdet import figures
from imbdet.bases import plain_file, resolve, write_plain
from imbdet.config import Study, method_modules
from imbdet.data.source_files import source_hashes, source_paths
from imbdet.errors import UserError
from imbdet.files import write_text
from imbdet.layout import SPLITS, Layout
from imbdet.settings import Data, Detector
from imbdet.sources import sources
from imbdet.study_file import load_study
from imbdet.urls import without_secrets

DEFAULT_STUDY = Path("config/demo.yaml")
IN_GIT = ("results", "paper_figures")
NETWORK = ("detectors.{detector}", "experiments.{experiment}.detector", "experiments.{experiment}.methods")
INFERENCE = ("batch_size", "score_threshold", "nms_iou", "candidates_per_level", "detections_per_image")


@dataclass(frozen=True)
class Rule:
    """A Snakemake rule: its file in workflow/rules, and what its results depend on besides its input files.

    ``modules`` hold its code; where ``methods``, those of the experiment are added, so that a change of one method's
    file concerns its experiments alone. ``keys`` of the study's file are dotted. In both, ``{name}`` is the experiment,
    detector or figure, ``{experiment}`` the experiment (of a census, the first with the detector), and ``{detector}``
    its detector. ``tables`` is a pattern of files that the code reads beside itself.
    """

    file: str
    modules: tuple[str, ...]
    keys: tuple[str, ...]
    methods: bool = False
    tables: str = ""


RULES = {
    "data": Rule("data", ("imbdet.data.prepare",), ("data",)),
    "features": Rule("data", ("imbdet.detectors.store_features",), ("data", "detectors.{detector}")),
    "census": Rule("data", ("imbdet.evaluation.census",), NETWORK, methods=True),
    "train": Rule("train", ("imbdet.training.run",), ("data", "train", *NETWORK), methods=True),
    "detect": Rule(
        "evaluate",
        ("imbdet.evaluation.detect",),
        (*(f"evaluate.{key}" for key in INFERENCE), *NETWORK),
        methods=True,
    ),
    "evaluate": Rule(
        "evaluate",
        ("imbdet.evaluation.coco_ap",),
        (
            "description",
            "data.source",
            "evaluate.detections_per_image",
            "evaluate.operating_score",
            "experiments.{name}",
        ),
    ),
    "errors": Rule(
        "evaluate",
        ("imbdet.evaluation.errors",),
        ("description", "data.source", "evaluate.detections_per_image", "experiments.{name}"),
    ),
    "intervals": Rule(
        "evaluate",
        ("imbdet.evaluation.paired",),
        ("description", "seeds", "evaluate.detections_per_image", "intervals", "experiments"),
    ),
    "loss_samples": Rule(
        "evaluate",
        ("imbdet.evaluation.loss_samples",),
        ("evaluate.batch_size", "loss_samples", *NETWORK),
        methods=True,
    ),
    "inspect": Rule(
        "evaluate",
        ("imbdet.evaluation.inspection",),
        ("evaluate.batch_size", *NETWORK),
        methods=True,
    ),
    "funnel": Rule("evaluate", ("imbdet.evaluation.funnel",), NETWORK, methods=True),
    "examples": Rule(
        "evaluate",
        ("imbdet.evaluation.examples",),
        ("data.source", "evaluate.operating_score", "report.detections"),
    ),
    "figure": Rule(
        "figures",
        ("imbdet.figures", "imbdet.figures.{name}"),
        ("description", "seeds", "data.source", "report", "intervals", "sweep"),
        tables="src/imbdet/figures/published/*.csv",
    ),
}


def select_study(config: Mapping[str, Any], files: Sequence[Path]) -> Path:
    """Return the study that Snakemake's ``--config`` and ``--configfile`` choose, by default the demo.

    Raises:
        UserError: ``config`` has another key than ``study`` (commands read the study's file, so that it would have no
            effect), or more than one study is named.
    """
    unknown = sorted(set(config) - {"study"})
    if unknown:
        raise UserError(
            f"--config {unknown[0]}=... would have no effect: --config takes study=NAME only. A study's values stand "
            f"in its file, such as {DEFAULT_STUDY}; change them there or in a copy of it"
        )
    chosen = [Path(os.path.relpath(file)) for file in files]
    chosen += [Path("config") / f"{name}.yaml" for name in config.values()]
    if len(chosen) > 1:
        raise UserError(f"one study at a time, got {' and '.join(map(str, chosen))}")
    return chosen[0] if chosen else DEFAULT_STUDY


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU; asked of the system, as importing PyTorch for it would take seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


@dataclass(frozen=True)
class Step:
    """One run of a rule: for an experiment or figure, or, with an empty name, for the whole study.

    ``condition`` is that of a sweep, and ``seed`` that of a single run, where the step is of one.
    """

    rule: str
    name: str
    inputs: list[Path]
    outputs: list[Path]
    condition: str = ""
    seed: int | None = None

    @property
    def stage(self) -> str:
        """Its name for DVC."""
        parts = [self.rule, self.condition, self.name, "" if self.seed is None else f"seed-{self.seed}"]
        return "-".join(filter(None, parts))

    @property
    def snakemake_rule(self) -> str:
        """Each figure has a rule of its own, as it alone says which files it reads and writes."""
        return f"figure_{self.name}" if self.rule == "figure" else self.rule


class Pipeline:
    """All steps of the study whose file is ``path``. Raises :class:`UserError` if that file is missing or wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = load_study(path)
        _check_paths(path, self.study.data.folder)
        plain = resolve(path)
        _check_addresses(plain.where, self.study.data)
        self.bases = [file for file, _ in plain.files[1:]]
        self.layout = Layout.of(self.study)
        conditions = self.study.conditions
        self._sources = {name: source_paths(study.data) for name, study in conditions.items()}  # walks through folders
        for paths in self._sources.values():
            _check_sources(path, paths)
        studies = {"": self.study, **conditions}
        self._values = {name: study.model_dump(mode="json") for name, study in studies.items()}

    @property
    def file(self) -> Path:
        """Where DVC reads the study's stages."""
        return Path("dvc.yaml") if self.path == DEFAULT_STUDY else Path("pipelines") / self.study.name / "dvc.yaml"

    @property
    def plain(self) -> Path:
        """Where DVC reads the study's values: in its own file, or with a base in that of its plain configuration."""
        return plain_file(self.path.stem) if self.bases else self.path

    def code(self, rule: str, name: str = "") -> list[Path]:
        """Files of the step's code: a change of any makes its results stale."""
        modules = [module.format(name=name) for module in RULES[rule].modules]
        if RULES[rule].methods:
            modules += method_modules(self.study, self._experiment(rule, name))
        tables = Path().glob(RULES[rule].tables) if RULES[rule].tables else []
        return [*sources(*modules), *sorted(tables)]

    def keys(self, rule: str, name: str = "") -> list[tuple[str, ...]]:
        """Paths of the study's keys whose change makes a step's results stale; a name may itself contain dots."""
        experiment = self._experiment(rule, name)
        names = {"name": name, "experiment": experiment, "detector": self.study.experiments[experiment].detector}
        return [tuple(part.format(**names) for part in key.split(".")) for key in RULES[rule].keys]

    def _experiment(self, rule: str, name: str) -> str:
        """The experiment of a step: of a census the first with the detector, of a step of the whole study the first."""
        experiments = self.study.experiments
        if rule in ("census", "features"):
            return next(known for known, chosen in experiments.items() if chosen.detector == name)
        return name if name in experiments else next(iter(experiments))

    def settings(self, rule: str, name: str = "", condition: str = "") -> str:
        """The values at :meth:`keys` as canonical JSON, for Snakemake to compare; of a sweep those at a condition.

        Those of ``data`` hold a hash of the source's files: a new time stamp alone makes nothing stale.
        """
        keys = self.keys(rule, name)
        values: dict[str, Any] = {".".join(key): reduce(getitem, key, self._values[condition]) for key in keys}
        if rule == "data" and (hashes := self._source_hashes(condition)):
            values["source"] = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
        return json.dumps(values, sort_keys=True)

    def _source_hashes(self, condition: str) -> dict[str, str]:
        study = self.study.conditions[condition]
        return source_hashes(study.data, Layout.of(study))

    @property
    def patterns(self) -> Layout:
        """Where the files of any run are, with ``{seed}`` and, in a sweep, ``{condition}`` for Snakemake to fill in."""
        at = self.layout.at_seed("{seed}")
        if self.study.sweep:
            at = replace(at, study=f"{at.study}/{{condition}}", data_folder=f"{at.data_folder}/{{condition}}")
        return at

    # What Snakemake asks of a job, of which it knows the wildcards
    def settings_of(self, rule: str) -> Callable[[Any], str]:
        """The settings of a job of this rule."""
        return lambda wildcards: self.settings(rule, _name(wildcards), wildcards.get("condition", ""))

    def code_of(self, rule: str) -> Callable[[Any], list[Path]]:
        """The code of a job of this rule."""
        return lambda wildcards: self.code(rule, _name(wildcards))

    def command_study(self, wildcards: Any) -> list[str]:
        """The arguments of a job's command that say which study, and which condition of a sweep."""
        condition = wildcards.get("condition")
        return [str(self.path), *(["--condition", condition] if condition else [])]

    def source_of(self, wildcards: Any) -> list[Path]:
        """The files and folders that a data job reads."""
        return self._sources[wildcards.get("condition", "")]

    def network_of(self, wildcards: Any) -> list[Path]:
        """What a job reads for its network: a file of weights, and the record of stored features."""
        study = self.study.conditions[wildcards.get("condition", "")]
        return network_inputs(study, study.experiments[wildcards["experiment"]].detector)

    def weights_of(self, wildcards: Any) -> list[Path]:
        """The file of weights that a job's backbone begins with, where it is one of the user's."""
        return _weights(self.study.detectors[wildcards["detector"]])

    def all_detections(self, wildcards: Any) -> list[Path]:
        """The detections of all runs, in a sweep those of the job's condition."""
        return _all_detections(self.study.conditions[wildcards.get("condition", "")])

    def steps(self) -> Iterator[Step]:
        """All steps; each comes after those whose outputs it reads."""
        for condition, study in self.study.conditions.items():
            yield from self._measurements(condition, study)
        if not self.study.sweep:
            yield from self._inspections()
        for name in figures.names(self.study):
            inputs, outputs = figures.inputs(self.study, self.layout, name), figures.outputs(self.layout, name)
            yield Step("figure", name, inputs, outputs)

    def _measurements(self, condition: str, study: Study) -> Iterator[Step]:
        """From data to the scores of every run, and how sure they are."""
        at = Layout.of(study)
        train, val, manifest = at.annotations("train"), at.annotations("val"), at.manifest
        outputs = [train, val, manifest, at.validation, at.validation_table]
        yield Step("data", "", self._sources[condition], outputs, condition)
        for detector in study.feature_stores:
            inputs = [train, val, manifest, *_weights(study.detectors[detector])]
            yield Step("features", detector, inputs, [at.features_record(detector)], condition)
        for name, seed in product(study.experiments, study.seeds):
            run, where = at.at_seed(seed), (condition, seed)
            network = network_inputs(study, study.experiments[name].detector)
            outputs = [run.weights(name), run.training(name), run.loss_curve(name)]
            yield Step("train", name, [train, manifest, *network], outputs, *where)
            yield Step("detect", name, [run.weights(name), val, manifest, *network], [run.detections(name)], *where)
            outputs = [run.evaluation(name), run.precision_recall(name)]
            yield Step("evaluate", name, [run.detections(name), val], outputs, *where)
        if study.intervals:
            yield Step("intervals", "", [*_all_detections(study), val], [at.intervals], condition)

    def _inspections(self) -> Iterator[Step]:
        """What is looked at closely: of most things the runs of the first seed."""
        at, report = self.layout, self.study.report
        train, val, manifest = at.annotations("train"), at.annotations("val"), at.manifest
        for name in self.study.detectors:
            inputs = [train, manifest, *_weights(self.study.detectors[name])]
            yield Step("census", name, inputs, [at.census(name), at.structure(name)])
        for name in self.study.experiments:
            outputs = [at.candidates(name), at.method_loss(name), at.gradient_shares(name)]
            inputs = [
                at.weights(name),
                val,
                manifest,
                *network_inputs(self.study, self.study.experiments[name].detector),
            ]
            yield Step("inspect", name, inputs, outputs, seed=self.study.seed)
        if self.study.intervals:  # of COCO's AP, as the errors are
            for name, seed in product(self.study.experiments, self.study.seeds):
                run = at.at_seed(seed)
                yield Step("errors", name, [run.detections(name), val], [run.errors(name)], seed=seed)
        for name in report.funnel:
            inputs = [
                at.weights(name),
                train,
                manifest,
                *network_inputs(self.study, self.study.experiments[name].detector),
            ]
            yield Step("funnel", name, inputs, [at.funnel])
        for name in report.cumulative_loss:
            outputs = [at.logits(name), at.cumulative_loss(name)]
            inputs = [
                at.weights(name),
                val,
                manifest,
                *network_inputs(self.study, self.study.experiments[name].detector),
            ]
            yield Step("loss_samples", name, inputs, outputs, seed=self.study.seed)
        yield Step("examples", "", [*map(at.detections, report.detections), val, manifest], [at.examples])

    def stages(self) -> dict[str, Any]:
        """The content of the study's DVC pipeline file."""
        resolved = {"study": self._resolving()} if self.bases else {}
        return {"stages": resolved | {step.stage: self._stage(step) for step in self.steps()}}

    def _resolving(self) -> dict[str, Any]:
        """The stage that writes the plain configuration, whose values are the parameters of all others."""
        return {
            "cmd": f"python -m imbdet.bases {self.path}",
            "wdir": os.path.relpath(".", self.file.parent),
            "deps": [str(path) for path in (self.path, *self.bases, *sources("imbdet.bases"))],
            "outs": [{str(self.plain): {"cache": False}}],
        }

    def _stage(self, step: Step) -> dict[str, Any]:
        rule_file = Path("workflow/rules") / f"{RULES[step.rule].file}.smk"
        dependencies = [*step.inputs, *self.code(step.rule, step.name), rule_file]
        metrics = [path for path in step.outputs if step.rule == "evaluate" and path.suffix == ".json"]
        # DVC splits keys at dots and matches each part as a pattern, in which ? is any one character.
        # A key that the study's file leaves out, which DVC would miss, changes only with this pipeline's own file.
        given = [key for key in self.keys(step.rule, step.name) if key[0] in self.study.model_fields_set]
        keys = [".".join(part.replace(".", "?") for part in key) for key in given]
        keys += ["sweep"] if step.condition else []  # of which the values of its data are a part
        return {
            "cmd": self._command(step),
            "wdir": os.path.relpath(".", self.file.parent),
            "deps": [str(path) for path in dependencies],
            "params": [{str(self.plain): keys}],
            "outs": [_out(path) for path in step.outputs if path not in metrics],
            **({"metrics": [_out(path) for path in metrics]} if metrics else {}),
        }

    def _command(self, step: Step) -> str:
        study = [] if self.path == DEFAULT_STUDY else ["--configfile", str(self.path)]
        quiet = ["--quiet", "progress", "rules", "reason", "host"]  # "all" would keep its errors to itself
        options = ["--nolock", "--rerun-incomplete", *quiet, *study, "--allowed-rules", step.snakemake_rule]
        return " ".join(["snakemake", *options, "--", *map(str, step.outputs)])


def _name(wildcards: Any) -> str:
    """The experiment or detector of a job."""
    name: str = wildcards.get("experiment", wildcards.get("detector", ""))
    return name


def network_inputs(study: Study, name: str) -> list[Path]:
    """List what a detector reads besides data: the file of its backbone's weights, the record of stored features."""
    detector = study.detectors[name]
    same = [known for known in study.feature_stores if study.detectors[known].features == detector.features]
    return [*_weights(detector), *map(Layout.of(study).features_record, same)]


def _weights(detector: Detector) -> list[Path]:
    return [detector.backbone.file] if detector.backbone.file else []


def _all_detections(study: Study) -> list[Path]:
    layout = Layout.of(study)
    return [layout.at_seed(seed).detections(name) for name, seed in product(study.experiments, study.seeds)]


def _check_paths(*paths: Path | str) -> None:
    """Refuse paths that a shell, Snakemake (``{}``) or DVC (``${}``) would read as more than a path."""
    for path in map(str, paths):
        if not re.fullmatch(r"[\w./][\w./-]*", path):
            raise UserError(f"path {path!r}: expected letters, digits and ._-/ only, and no - in front; rename it")


def _check_sources(path: Path, paths: Sequence[Path]) -> None:
    """Refuse a source whose path a tool would read as more than a path, and one that DVC is told to ignore."""
    for source in paths:
        if re.search(r"[{}$]", str(source)):
            raise UserError(f"{path}: data.path {str(source)!r} has one of the characters {{}}$; rename it")
        if source.name in SPLITS and source.resolve().parent.parent == Path("data").resolve():
            raise UserError(
                f"{path}: data.path has images in {source}, which .dvcignore hides from DVC: it would not see a change "
                "there. Move the source, for example to data/sources/NAME"
            )


def _check_addresses(where: Callable[[str], Path], data: Data) -> None:
    """Refuse a password in an address: DVC copies the values of a study to its lock file, which is in Git."""
    for key in ("base_url", "annotations_url", "url", "proxy"):
        address = getattr(data, key, None) or ""
        if address != without_secrets(address):
            file = where(f"data.{key}")
            raise UserError(
                f"{file}: data.{key} holds a user's name or password, which would be in Git; take it out, and set the "
                "environment variables HTTP_PROXY and HTTPS_PROXY for a proxy, or write ~/.netrc for a server"
            )


def _out(path: Path) -> str | dict[str, Any]:
    """Records and figures are in Git; everything else is in DVC's cache."""
    return {str(path): {"cache": False}} if path.parts[0] in IN_GIT else str(path)


def write(path: Path) -> Path:
    """Write the DVC pipeline file of the study at ``path`` and return where it is; beside it the values of an heir."""
    pipeline = Pipeline(path)
    if pipeline.bases:
        write_plain(path)
    header = f"# Written by `python -m imbdet.pipeline {path}`: change the study or the program, not this file.\n"
    write_text(pipeline.file, header + yaml.safe_dump(pipeline.stages(), sort_keys=False, width=100_000))
    return pipeline.file


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m imbdet.pipeline", description="Write a study's DVC stages.")
    parser.add_argument("study", nargs="+", type=Path, help="config/STUDY.yaml")
    try:
        for path in parser.parse_args().study:
            print(write(path))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
