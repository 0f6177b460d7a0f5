"""Each command reads the keys of the study that its step declares, and no others."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from project_copy import Project

from imbdet.__main__ import COMMANDS
from imbdet.config import Study
from imbdet.pipeline import DEFAULT_STUDY, Pipeline, Step
from imbdet.settings import Section

Key = tuple[str, ...]
WITHOUT_EFFECT_ON_RESULTS: set[Key] = {("name",), ("train", "workers")}


def sections(value: Any, path: Key = ()) -> dict[int, Key]:
    """Where each section of a study stands, by its identity."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, Section):
        parts = ((key, getattr(value, key)) for key in type(value).model_fields)
    else:
        return {}
    found = {id(value): path} if isinstance(value, Section) else {}
    for key, part in parts:
        found |= sections(part, (*path, key))
    return found


def keys_read(study: Study, action: Callable[[], None], patch: pytest.MonkeyPatch) -> set[Key]:
    """The keys whose value ``action`` took from the study; a section that it dumps counts as a whole."""
    at = sections(study)
    holders = {path[:length] for path in at.values() for length in range(len(path) + 1)}
    read: set[Key] = set()
    original = Section.__getattribute__

    def recording(self: Section, key: str) -> Any:
        value = original(self, key)
        path = at.get(id(self))
        if path is not None and key == "model_dump":
            read.add(path)
        if path is not None and key in type(self).model_fields and (*path, key) not in holders:
            read.add((*path, key))
        return value

    with patch.context() as context:
        context.setattr(Section, "__getattribute__", recording)
        action()
    return read


def run(pipeline: Pipeline, step: Step) -> None:
    module, function = COMMANDS[step.rule.replace("_", "-")][0].split(":")
    rest = (step.name,) if COMMANDS[step.rule.replace("_", "-")][1] else ()
    getattr(importlib.import_module(module), function)(pipeline.study, pipeline.layout, *rest)


def choices(study: Study, step: Step) -> set[Key]:
    """Keys by which a step finds the experiment or detector that it is about; its keys or inputs say which that is."""
    seed = {("seeds",)}  # its files are in folders of their seed
    of_experiments = {("experiments", name, "detector") for name in study.experiments}
    kinds = {("detectors", name, "name") for name in study.detectors}
    return seed | {"census": of_experiments, "figure": of_experiments | kinds}.get(step.rule, set())


def test_commands_read_what_their_steps_declare(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    pipeline = Pipeline(DEFAULT_STUDY)
    for step in (step for step in pipeline.steps() if step.seed in (None, pipeline.study.seed)):
        read = keys_read(pipeline.study, lambda step=step: run(pipeline, step), monkeypatch)
        declared = pipeline.keys(step.rule, step.name)
        undeclared = {key for key in read if not any(key[: len(part)] == part for part in declared)}
        assert undeclared <= WITHOUT_EFFECT_ON_RESULTS | choices(pipeline.study, step), step
