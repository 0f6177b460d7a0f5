"""CI fails on any skip that tests/skips.py does not list: a run that skips what it cannot do looks green."""

import ast
import os
import subprocess
import sys

import pytest
import skips
from pages import ROOT

CONFTEST = f"""
import sys
sys.path.append({str(ROOT / "tests")!r})
from skips import OnlyListedSkips

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        may_skip = {{"test_it.py::test_slurm": True, "test_it.py::test_gpu": False}}
        config.pluginmanager.register(OnlyListedSkips(may_skip))
"""
FINE = """
import pytest
def test_passes(): pass
def test_slurm(): pytest.skip("listed")
"""
# Files by name, and what is said of each.
SKIPPED = {
    "test_it.py": (
        """
import pytest
@pytest.fixture
def browser(): pytest.skip("no browser")
def test_passes(): pass
def test_slurm(): pytest.skip("listed")
def test_gpu(): pytest.skip("listed for other machines")
def test_page(browser): pass
@pytest.mark.skipif(True, reason="by a mark")
def test_mark(): pass
@pytest.mark.parametrize("path", [])
def test_each(path): pass
@pytest.mark.xfail(reason="some day")
def test_hard(): assert False
@pytest.mark.xfail(reason="done since")
def test_easy(): pass
""",
        (
            "test_it.py::test_gpu: Skipped: listed for other machines",
            "test_it.py::test_page: Skipped: no browser",
            "test_it.py::test_mark: Skipped: by a mark",
            "test_it.py::test_each",
            "test_it.py::test_hard: some day",
            "test_it.py::test_easy: done since",
        ),
    ),
    "test_file.py": (
        'import pytest\npytest.skip("not here", allow_module_level=True)\n',
        ("test_file.py: Skipped: not here",),
    ),
    "test_package.py": (
        'import pytest\npytest.importorskip("no_such_package")\n',
        ("test_package.py: Skipped: could not import 'no_such_package'",),
    ),
}


@pytest.fixture(params=[(), ("-n", "1")], ids=["one process", "xdist"])
def run(request, tmp_path):
    """Run test files with the plugin; exit code and output."""

    def run_files(**texts):
        for name, text in {"conftest": CONFTEST, **texts}.items():
            (tmp_path / f"{name}.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *request.param, "--rootdir", tmp_path]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout

    return run_files


def test_listed_skips_pass(run):
    code, output = run(test_it=FINE)
    assert code == 0, output
    assert "not listed" not in output


def test_every_other_skip_is_named(run):
    code, output = run(**{file.removesuffix(".py"): text for file, (text, _) in SKIPPED.items()})
    assert code == 1, output
    (_, named) = output.split("skipped, and not listed in tests/skips.py")
    lines = [line for _, lines in SKIPPED.values() for line in lines]
    assert all(line in named for line in lines), named
    assert "test_slurm" not in named


@pytest.mark.parametrize("skip", ["def test_page(): pytest.skip()", "pytest.importorskip('no_such_package')"])
def test_a_single_one_fails_the_run(run, skip):
    code, output = run(test_it=FINE, test_other=f"import pytest\n{skip}\n")
    assert code == 1, output


def test_the_list_names_tests_that_exist():
    for start in skips.MAY_SKIP:
        path, _, name = start.partition("::")
        assert f"def {name}" in (ROOT / path).read_text()


def test_the_list_has_every_test_of_real_images():
    """And no test that could do without them."""
    listed = {start.partition("::")[2] for start in skips.OF_REAL_IMAGES} - {""}
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests" / "data").glob("test_*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert listed == {node.name for node in functions if "shared" in [argument.arg for argument in node.args.args]}


def test_ci_takes_listed_skips_alone():
    """And installs what the tests need, or fails."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "make browser" in lines
    assert "make test OPTIONS=--only-listed-skips" in lines
    assert lines[2] == "set -euo pipefail"
