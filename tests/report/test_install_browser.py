"""``make browser``, with programs that are stand-ins: it installs unless both are there, and says if it could not."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("install_browser.sh")
BOTH = {"chromium", "chromedriver"}
INSTALL = "install -y -qq --no-install-recommends chromium chromium-driver"


def program(path, text=""):
    path.write_text(f"#!/bin/bash\n{text}")
    path.chmod(0o755)


@pytest.fixture
def make_browser(tmp_path):
    """Run the script where some programs are there and an apt-get brings others; exit code, errors, calls of apt-get.

    ``known_after_update``: until it has updated its lists, apt-get finds no package.
    """

    def run(there, brings, known_after_update=False):
        for name in there:
            program(tmp_path / name)
        source = tmp_path / "source"
        program(source)
        bring = "".join(f'/bin/cp "{source}" "{tmp_path / name}"\n' for name in brings)
        find = f'[ -e "{tmp_path}/updated" ] || exit 100\n' if known_after_update else ""
        update = f'if [ "$1" = update ]; then : > "{tmp_path}/updated"; exit; fi\n'
        program(tmp_path / "apt-get", f'echo "$*" >> "{tmp_path}/calls"\n{update}{find}{bring}')
        done = subprocess.run(
            ["/bin/bash", SCRIPT], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
        return done.returncode, done.stderr, calls

    return run


def test_nothing_is_installed_where_both_are_there(make_browser):
    assert make_browser(BOTH, brings=()) == (0, "", [])


@pytest.mark.parametrize("there", [(), ("chromium",), ("chromedriver",)], ids=["none", "browser", "driver"])
def test_one_of_the_two_is_not_enough(make_browser, there):
    assert make_browser(there, brings=BOTH) == (0, "", [INSTALL])


def test_packages_are_looked_up_where_they_are_unknown(make_browser):
    assert make_browser((), brings=BOTH, known_after_update=True) == (0, "", [INSTALL, "update -qq", INSTALL])


@pytest.mark.parametrize("brings", [(), ("chromium",)], ids=["none", "browser"])
def test_an_installation_that_brings_less_is_an_error(make_browser, brings):
    code, errors, _ = make_browser((), brings)
    assert (code, errors) == (1, "error: chromium and chromedriver are still not both on the PATH\n")
