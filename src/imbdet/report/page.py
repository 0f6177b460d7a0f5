"""The page: what the records say, put into the template, with everything that it needs inside of it."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from imbdet import figures
from imbdet.config import Study
from imbdet.data.report import DEFECTS
from imbdet.figures import captions
from imbdet.layout import Layout
from imbdet.report import about, differences, examples, pictures, results, sources
from imbdet.report.runs import Group, read_groups

TEMPLATES = Path(__file__).parent / "templates"


def build(study: Study, layout: Layout) -> str:
    """Return the page of a study as HTML; raises as :func:`imbdet.report.run` does."""
    # Every value is escaped: names and labels are whatever a study says. Undefined names are errors, not blanks.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = read_groups(study)
    template = environment.get_template("page.html")
    return (
        template.render(
            study=study,
            badge=captions.badge(study),
            facts=about.facts(study, groups),
            **_settings(study),
            **_measured(study, groups),
            **_figures(study, layout),
            examples=examples.read(study, layout),
            examples_file=layout.examples,
            sources=sources.table(groups),
            **_code(),
        )
        + "\n"
    )


def _settings(study: Study) -> dict[str, Any]:
    """What the page says of the study itself."""
    return {
        "data": about.data(study),
        "data_settings": about.settings(study.data),
        "defects": about.defects(study),
        "kinds_of_defects": len(DEFECTS),
        "detectors": {name: about.settings(detector) for name, detector in study.detectors.items()},
        "recipe": about.settings(study.train),
        "evaluation": about.settings(study.evaluate),
        "methods": about.methods(study),
    }


def _measured(study: Study, groups: Sequence[Group]) -> dict[str, Any]:
    """The tables of what came out, and what is missing."""
    intervals = differences.read(study)
    unmeasured = [group for group in groups if len(group.evaluations) < len(group.runs)]
    return {
        "differences": differences.table(intervals) if intervals else None,
        "intervals_files": differences.files(study),
        "about_differences": differences.summary(intervals, study.seeds),
        "metrics": results.metrics(groups),
        "sizes": results.sizes(groups),
        "classes": results.classes(groups),
        "errors": results.errors(groups),
        "costs": results.costs(groups),
        "unmeasured": [f"{group.first.condition} {group.first.label}".strip() for group in unmeasured],
    }


def _figures(study: Study, layout: Layout) -> dict[str, Any]:
    """The figures that were drawn, the first ones by name; and the names of those that were not."""
    names = figures.names(study)
    shown = {name: pictures.read(study, layout, name) for name in names}
    return {
        **{name: shown.get(name) for name in pictures.FIRST},
        "figures": [figure for name, figure in shown.items() if figure is not None and name not in pictures.FIRST],
        "undrawn": [name for name, figure in shown.items() if figure is None],
    }


def _code() -> dict[str, str]:
    """Style and script, and the policy by which a browser runs this script alone and asks nothing of any server."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return {"style": style, "script": script, "policy": policy}
