"""Sums over the processes that train together; with one process, or none, the values themselves.

DistributedDataParallel averages gradients. A loss therefore is the share of this process times :func:`processes`, over
divisors that are sums of all processes: then the average is the gradient of one process with the whole batch.
"""

import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor


def processes() -> int:
    """Number of processes that train together, at least 1."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """Sum of a tensor over all processes, which all of them call at the same point; its gradient is theirs summed."""
    if processes() == 1:
        return values
    if values.requires_grad:
        summed: Tensor = differentiable.all_reduce(values)
        return summed
    values = values.detach().clone()
    dist.all_reduce(values)
    return values
