"""The environment variables by which torchrun tells processes of one another, read without importing PyTorch."""

import os

from imbdet.errors import UserError

MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def group_size() -> int:
    """Number of processes that train together: WORLD_SIZE, 1 where it is not set."""
    return _number("WORLD_SIZE", default=1, least=1)


def rank() -> int:
    """Number of this process among all: RANK."""
    return _number("RANK", default=0, least=0)


def local_rank() -> int:
    """Number of this process among those of its machine: LOCAL_RANK."""
    return _number("LOCAL_RANK", default=0, least=0)


def check_meeting() -> None:
    """Raise UserError where several processes cannot find one another."""
    missing = [name for name in MEETING if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {group_size()}, but {', '.join(missing)} is not set; start the processes with torchrun or "
            "--processes, or unset WORLD_SIZE to train in one"
        )
    if rank() >= group_size():
        raise UserError(f"RANK is {rank()} of WORLD_SIZE {group_size()}; expected 0 to {group_size() - 1}")


def _number(name: str, default: int, least: int) -> int:
    value = os.environ.get(name, str(default))
    if not (value.isascii() and value.isdecimal() and int(value) >= least):
        raise UserError(
            f"the environment variable {name} is {value!r}, expected a number from {least}; unset it, or start the "
            "processes with torchrun or --processes"
        )
    return int(value)
