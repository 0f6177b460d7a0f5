"""Which processes train together, and on which device each does; ``torchrun`` starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Process:
    """This process among ``world_size``; rank 0 writes the files."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over all processes, which all of them call at the same point."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values


@contextmanager
def join_processes() -> Iterator[Process]:
    """Join the group that torchrun started, or be alone. A GPU is used where there is one, one to a process."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Process(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(rank, world_size, device)
    finally:
        dist.destroy_process_group()
