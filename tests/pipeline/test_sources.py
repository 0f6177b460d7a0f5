"""A command's code is the closure of its imports, read from the files alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imbdet.errors import UserError
from imbdet.sources import sources

ROOT = Path(__file__).parents[2]


def write_package(folder: Path, files: dict[str, str]) -> None:
    for name, code in {"__init__.py": "", **files}.items():
        file = folder / "src" / "imbdet" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)


def found(*modules: str) -> set[str]:
    return {path.relative_to("src/imbdet").as_posix() for path in sources(*modules)}


@pytest.mark.parametrize(
    "statement",
    [
        "import imbdet.part.b",
        "import numpy, imbdet.part.b as b",
        "from imbdet.part import b",
        "from imbdet.part.b import value",
        "from .part import b",
        "from .part.b import value",
        "def later():\n    from imbdet.part.b import value",
        "try:\n    import imbdet.part.b\nexcept ImportError:\n    pass",
    ],
)
def test_every_form_of_import_is_followed(statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(
        tmp_path,
        {
            "a.py": statement,
            "other.py": "",
            "part/__init__.py": "",
            "part/b.py": "from . import c",
            "part/c.py": "from ..d import x\nimport imbdet.a",
            "part/unused.py": "",
            "d.py": "x = 1",
        },
    )
    monkeypatch.chdir(tmp_path)
    assert found("imbdet.a") == {"__init__.py", "a.py", "part/__init__.py", "part/b.py", "part/c.py", "d.py"}


@given(edges=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20), start=st.integers(0, 7))
def test_sources_are_what_can_be_reached(
    edges: set[tuple[int, int]], start: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("graph")
    imports = {i: [f"import imbdet.m{b}" for a, b in edges if a == i] for i in range(8)}
    write_package(folder, {f"m{i}.py": "\n".join(lines) for i, lines in imports.items()})
    reached = {start}
    while more := {b for a, b in edges if a in reached} - reached:
        reached |= more
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert found(f"imbdet.m{start}") == {"__init__.py", *(f"m{i}.py" for i in reached)}


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, {"a.py": "raise RuntimeError('imported')"})
    monkeypatch.chdir(tmp_path)
    assert found("imbdet.a") == {"__init__.py", "a.py"}


def test_imports_for_type_checkers_are_not_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "if TYPE_CHECKING:\n    import imbdet.types\nelse:\n    import imbdet.values"
    write_package(tmp_path, {"a.py": code, "types.py": "", "values.py": ""})
    monkeypatch.chdir(tmp_path)
    assert found("imbdet.a") == {"__init__.py", "a.py", "values.py"}


def test_a_module_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"imbdet\.nowhere has no file"):
        sources("imbdet.nowhere")


def test_training_an_experiment_reads_its_own_method_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    methods = {name for name in found("imbdet.training.run", "imbdet.methods.focal") if name.startswith("methods/")}
    assert methods == {"methods/__init__.py", "methods/_base.py", "methods/focal.py"}


def test_scoring_detections_shares_no_code_with_the_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = found("imbdet.evaluation.coco_ap")
    assert "evaluation/coco_ap.py" in code
    assert not [name for name in code if name.startswith(("detectors/", "methods/", "training/"))]
