"""One training by several processes, each with a GPU of its own: the same command, started again by torchrun."""

import os
import sys


def share_out(processes: int) -> None:
    """Become the torchrun that runs this command in so many processes; do nothing for one, or in one of them.

    0 is one process as well: a job to which no GPU was given.
    """
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "imbdet", *sys.argv[1:]])
