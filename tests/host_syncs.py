"""A guard that sees where the host would wait for the device; the contract tests and a benchmark use it."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def waits(func, args):
    """Whether the host must know values to run an operator; an index does so only where it is a mask."""
    if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_):
        return any(index.dtype in (torch.bool, torch.uint8) for index in args[1] if index is not None)
    return bool(WAITING_TAGS & set(func.tags))


class Watch(TorchDispatchMode):
    """Collects operators whose result the host needs, and those that join or copy between two devices."""

    def __init__(self):
        super().__init__()
        self.seen, self.waiting = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen += 1
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if waits(func, args) or len({x.device.type for x in tensors}) > 1:
            self.waiting.append(str(func))
        return result
