"""A run of the pipeline: one at a time in a project; its jobs end with it, and it ends with the DVC that started it.

For the Snakefile, in Snakemake's own process.
"""

import fcntl
import os
import select
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from imbdet.errors import UserError
from imbdet.signals import PARENT

STAGE = "DVC_STAGE"  # environment variable: DVC names in it the stage whose command it runs


def claim(folder: Path) -> None:
    """Let no other run start in this project until this process ends; the lock file says who holds it.

    Snakemake's own lock is off, as it outlives a run that was killed and would then stop DVC's stages. This one is the
    system's and ends with the process; what a killed run has left in the file holds nothing and is written over.

    Raises:
        UserError: another run is under way; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT)  # a bare descriptor stays open as long as the process
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UserError(
            f"snakemake or dvc is already running in this folder: {path.read_text().strip()}. Wait until it ends, or "
            "stop it with Ctrl-C where it was started"
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"{_who()}\n".encode())


def _who() -> str:
    """This process, for whoever finds it in the way."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    stage = f" (stage {os.environ[STAGE]} of dvc)" if STAGE in os.environ else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"process {os.getpid()} on {socket.gethostname()}, since {since}: {command}{stage}"


def end_together() -> None:
    """Have the jobs of this process end when it is gone, and this process when the DVC that started it is.

    kill -9 reaches neither: a shell stands between, and would let a training go on that nobody waits for.

    Raises:
        UserError: DVC started this process, but is gone.
    """
    os.environ[PARENT] = str(os.getpid())
    if STAGE in os.environ:
        try:
            dvc = os.pidfd_open(next(filter(_is_dvc, _ancestors())))
        except (StopIteration, OSError) as error:  # it may end while it is looked for
            raise UserError(
                f"the dvc that started stage {os.environ[STAGE]} is gone; run it again. Without dvc, unset {STAGE}"
            ) from error
        threading.Thread(target=_end_with, args=(dvc,), daemon=True).start()


def _end_with(process: int) -> None:
    """Wait for the end of the process behind a descriptor, then end without a word, as if killed along with it."""
    select.select([process], [], [])
    os._exit(1)


def _ancestors() -> Iterator[int]:
    """The pids of this process's parent, its parent, and so on; in a container DVC may be the first."""
    pid = os.getppid()
    while pid > 0:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _is_dvc(pid: int) -> bool:
    arguments = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    return any(Path(argument).name == "dvc" for argument in arguments)
