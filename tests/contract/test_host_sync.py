"""From matching to the loss nothing waits for the device: sizes and values never have to be known on the host."""

import pytest
import torch
from contract_cases import METHODS, NUM_CLASSES, SIDE, make_batch, tiny_detector
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imbdet.methods import build_method

BOXES = [[[5, 5, 40, 50], [30, 30, 50, 54]], [[10, 0, 60, 60]]]
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


def match_and_lose(model, batch):
    """Matching, the method's losses, and what comes before them: random outputs of the network."""
    anchors = sum(model.anchors.counts(SIDE, SIDE))
    device = batch.gt_boxes.device
    logits = torch.randn(len(batch), anchors, NUM_CLASSES, device=device, requires_grad=True)
    deltas = torch.randn(len(batch), anchors, 4, device=device, requires_grad=True)
    model.anchors(SIDE, SIDE)  # made once for a size, not at every step
    with Watch() as watch:
        losses = model.method(model.match(batch, logits, deltas))
    return losses, watch


@METHODS
def test_nothing_waits_on_the_cpu(spec):
    model = tiny_detector(build_method(spec))
    losses, watch = match_and_lose(model, make_batch(BOXES))
    assert watch.seen > 20
    assert watch.waiting == []
    assert all(loss.isfinite() for loss in losses.values())


@METHODS
def test_nothing_waits_on_fake_cuda_tensors(spec):
    """Fake tensors have no values: an operator that needs one raises. No GPU is needed for this."""
    with FakeTensorMode():
        with torch.device("cuda"):
            model = tiny_detector(build_method(spec))
        model.anchors.shapes = model.anchors.shapes.cuda()
        losses, watch = match_and_lose(model, make_batch(BOXES).to("cuda"))
    assert watch.seen > 20
    assert watch.waiting == []
    assert {loss.device.type for loss in losses.values()} == {"cuda"}


WAITS = {
    "item": lambda x: x.sum().item(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "branch": lambda x: 1 if x.sum() > 0 else 0,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_the_watch_sees_what_waits(wait):
    with Watch() as watch:
        wait(torch.ones(3))
    assert watch.waiting
    with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        wait(torch.ones(3, device="cuda"))


@pytest.mark.parametrize(("source", "target"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_the_watch_sees_copies_between_devices(source, target):
    with FakeTensorMode():
        x = torch.ones(3, device=source)
        with Watch() as watch:
            x.to(target)
    assert watch.waiting == ["aten._to_copy.default"]
