"""Which processes train together, and on which device each does; ``torchrun`` starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from imbdet.errors import UserError
from imbdet.training import environment


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
    """Join the group that torchrun started, or be alone. A GPU is used where there is one, one to a process.

    Raises :class:`UserError` where there are GPUs, but not one for each process, and for variables of the
    environment that describe no group.
    """
    rank, world_size = environment.rank(), environment.group_size()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        place, gpus = environment.local_rank(), torch.cuda.device_count()
        if place >= gpus:
            processes = os.environ.get("LOCAL_WORLD_SIZE", place + 1)
            raise UserError(f"{gpus} GPUs are too few for {processes} processes; start one for each")
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    if world_size == 1:
        yield Process(0, 1, device)
        return
    environment.check_meeting()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(rank, world_size, device)
    finally:
        dist.destroy_process_group()


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Have PyTorch use deterministic algorithms, so that one GPU gives equal bits at each run; slower.

    On a CPU equal settings give equal bits anyhow. On a GPU they do with this, but for what PyTorch has no
    deterministic kernel for; it then warns and names the operator, rather than ending the run. By its documentation
    these of the project's operators are concerned:

    - ``scatter_reduce`` with amax and amin (assigners, noisy anchors), whose result no order of the threads changes;
    - the backward pass of ``roi_align``, for which torchvision takes its much slower implementation in Python.

    Sums over several processes are equal to the bit only for an equal number of them on the same machines.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
