"""One training by several processes, each with a GPU of its own: the same command, started again for each of them."""

import logging
import os
import sys
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from imbdet.errors import UserError
from imbdet.files import write_text
from imbdet.signals import PARENT
from imbdet.training.environment import group_size

LEFT = "IMBDET_LEFT"  # environment variable: folder in which each process leaves what ended it
FIRST_OF_SIGNALS = 128  # exit codes from here on: stopped by a signal, which the process has said


def share_out(processes: int) -> None:
    """Run this command in so many processes and end as they do; return at once for one, or in one of them.

    0 is one process as well: a job to which no GPU was given. A mistake is told once, however many processes meet it,
    and without what it broke in the others. The exit code is then 1, or 128 plus the number of the signal by which the
    training was stopped. Raises :class:`UserError` for a negative number, and in one of several processes that were
    started by something else, such as torchrun.
    """
    if processes < 0:
        raise UserError(f"--processes is {processes}; expected a number from 1, or 0 for a job without a GPU")
    if processes <= 1 or LEFT in os.environ:
        return
    group = group_size()  # clusters export a WORLD_SIZE of 1
    if group > 1:
        raise UserError(
            f"--processes is {processes}, but WORLD_SIZE says that this is one of {group} processes already; leave "
            "--processes out if torchrun started them, otherwise unset WORLD_SIZE and RANK"
        )
    with TemporaryDirectory(prefix="imbdet-") as folder:
        os.environ |= {LEFT: folder, PARENT: str(os.getpid())}
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun has it
        code = _run(processes, folder)
        mistakes = [path.read_text() for path in sorted(Path(folder).glob("mistake-*"))]
        crashes = sorted(Path(folder).glob("crash-*"), key=lambda path: path.stat().st_mtime_ns)
        sys.stderr.writelines(path.read_text() for path in crashes if not mistakes)
    sys.exit(mistakes[0] if mistakes else code)


def _run(processes: int, folder: str) -> int | str:
    """Start the processes and wait for them. Returns their exit code, or a message where a signal killed one."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # this process does nothing else, and PyTorch logs each signal and exit code
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "imbdet", *sys.argv[1:])
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            return f"error: process {rank} of {processes} was killed by {failure.signal_name()}"
        told = any(Path(folder).glob(f"*-{rank}"))
        if not told and failure.exitcode < FIRST_OF_SIGNALS:
            return f"error: process {rank} of {processes} ended with exit code {failure.exitcode} and no message"
        return int(failure.exitcode)
    return 0


@contextmanager
def left_to_parent() -> Iterator[None]:
    """In one of several processes leave an error to :func:`share_out` and exit; otherwise let it pass."""
    folder, rank = os.environ.get(LEFT), os.environ.get("RANK")
    try:
        yield
    except Exception as error:
        if folder is None:
            raise
        if isinstance(error, UserError):
            write_text(Path(folder) / f"mistake-{rank}", f"error: {error}")
        else:
            write_text(Path(folder) / f"crash-{rank}", f"process {rank}:\n{traceback.format_exc()}")
        sys.exit(1)
