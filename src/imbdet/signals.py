"""Being asked to stop: by a signal, or because the process on whose behalf this one runs is gone.

A training finishes its step, writes a checkpoint and ends with 128 plus the signal's number, as shells have it: 143
after SIGTERM (a cluster's preemption), 130 after SIGINT (Ctrl-C). Every other command simply ends.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from imbdet.errors import UserError

PARENT = "IMBDET_PARENT"  # environment variable: pid of the process on whose behalf a command runs
SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_SECONDS = 0.5


class StopRequest:
    """Which signal has asked this process to stop; None as long as none has."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note it. Further ones change nothing, so that the checkpoint can be written."""
        self.signal = self.signal or number

    @property
    def exit_code(self) -> int:
        """128 plus the signal; of a process that stops as another one was asked to, as after SIGTERM."""
        return 128 + (self.signal or signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGINT in place of ending at once, for as long as the context lasts."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Hold both signals back while processes that load data are started, which inherit this and never get them.

    A terminal or a cluster signals whole groups of processes, and a worker that dies first is an error of its parent.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_alone(worker: int) -> None:
    """Have a process in which SIGTERM is held back end when its parent sends it, as Python does at its own end."""
    threading.Thread(target=_wait_for_parents_word, daemon=True).start()


def _wait_for_parents_word() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def end_with_parent() -> None:
    """Send this process SIGTERM once the process that :data:`PARENT` names is gone; without the variable do nothing.

    A shell that stands between the two outlives the parent, so that this process's own parent tells nothing. A pid
    that is used again is told apart by its start. Raises :class:`UserError` where the variable holds no pid.
    """
    if pid := os.environ.get(PARENT):
        if not pid.isdecimal():
            raise UserError(f"{PARENT} is {pid!r}; expected the pid of the process that started this command")
        threading.Thread(target=_watch, args=(int(pid), _started(int(pid))), daemon=True).start()


def _watch(pid: int, started: str | None) -> None:
    while started is not None and _started(pid) == started:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot; None for one that is gone, or dead and not yet waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may hold spaces
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
