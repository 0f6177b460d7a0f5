"""One run at a time in a folder, whose holder is named; jobs end with their run, and a run with its DVC."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from project_copy import wait_until
from promises import refused

from imbdet.runs import claim, end_together

HOLD = """
from pathlib import Path
from imbdet.runs import claim
claim(Path("scratch"))
print("held", flush=True)
input()
"""
RUN = """
import os, time
from imbdet.runs import end_together
end_together()
open("pid.new", "w").write(str(os.getpid()))
os.rename("pid.new", "pid")
time.sleep(60)
"""


def holder(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A process that holds a folder until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *arguments],
        cwd=folder,
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.promise("Two runs at once in one folder: the second says who holds it", "fault")
@pytest.mark.parametrize(("variables", "stage"), [({}, ""), ({"DVC_STAGE": "train-ce"}, " (stage train-ce of dvc)")])
def test_the_holder_is_named(tmp_path: Path, variables: dict[str, str], stage: str) -> None:
    with holder(tmp_path, "--config", "study=my study", **variables) as process:
        with refused(r"process \d+ on \S+, since 20\d\d-.*: -c --config 'study=my study'(?: \(stage .*\))?\.") as error:
            claim(tmp_path / "scratch")
        assert f"process {process.pid} on" in str(error.value)
        assert f"my study'{stage}." in str(error.value)
        process.kill()


@pytest.mark.promise("A run that was killed holds nothing, whatever its lock file says", "fault")
def test_what_a_killed_run_left_is_written_over(tmp_path: Path) -> None:
    with holder(tmp_path, "a long line of arguments" * 20) as process:
        process.kill()
    with holder(tmp_path, "short") as process:
        with refused(r"process \d+ on .*: -c short\. Wait") as error:
            claim(tmp_path / "scratch")
        assert f"process {process.pid} on" in str(error.value)
        process.kill()


@pytest.mark.promise("A run that DVC started ends with it", "fault")
def test_a_run_whose_dvc_is_gone_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train-ce")
    monkeypatch.setenv("IMBDET_PARENT", "")
    with refused("the dvc that started stage train-ce is gone; run it again"):
        end_together()


@pytest.mark.promise("A run that DVC started ends with it", "fault")
def test_a_run_ends_when_its_dvc_is_killed(tmp_path: Path) -> None:
    """With a shell between the two, which lives on."""
    dvc, pid = tmp_path / "dvc", tmp_path / "pid"
    dvc.write_text(f"import subprocess\nsubprocess.run(['bash', '-c', '{sys.executable} -c \"$RUN\"; true'])")
    variables = {"DVC_STAGE": "train-ce", "RUN": RUN}
    with subprocess.Popen([sys.executable, "dvc"], cwd=tmp_path, env=os.environ | variables) as process:
        wait_until(pid.exists, seconds=30)
        assert Path(f"/proc/{pid.read_text()}").exists()
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid.read_text()}").exists(), seconds=5)
