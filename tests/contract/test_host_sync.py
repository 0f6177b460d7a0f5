"""From matching to the loss nothing waits for the device: sizes and values never have to be known on the host."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from batches import NUM_CLASSES, ROWS, make_samples
from contract_cases import CASES, SIDE, activation_of, detector_with, make_batch, method_of, stage_of
from host_syncs import Watch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

BOXES = [[[5, 5, 40, 50], [30, 30, 50, 54]], [[10, 0, 60, 60]]]


def match_and_lose(model, batch):
    """Matching, the method's losses, and what comes before: random outputs of the network, equal for all images."""
    anchors = sum(model.anchors.counts(SIDE, SIDE))
    columns = model.method("dense").head.columns(NUM_CLASSES)
    device, random = batch.gt_boxes.device, torch.Generator().manual_seed(1)
    logits = torch.randn(anchors, columns, generator=random).to(device).repeat(len(batch), 1, 1).requires_grad_()
    deltas = torch.randn(anchors, 4, generator=random).to(device).repeat(len(batch), 1, 1).requires_grad_()
    model.anchors(SIDE, SIDE)  # made once for a size, not at every step
    with Watch() as watch:
        losses = model.method("dense")(model.match(batch, logits, deltas))
    return losses, watch


def lose(method, samples, device):
    """The method's losses of samples, as a head of any stage gives them, on another device; what it waited for."""
    tensors = {name: getattr(samples, name).to(device) for name in (*ROWS, "gt_boxes")}
    inputs = {name: tensors[name].detach().requires_grad_() for name in ("logits", "deltas")}
    samples = replace(samples, **{**tensors, **inputs}, generator=None)
    method = method.to(device)
    with Watch() as watch:
        losses = method(samples)
    return losses, watch


DENSE = [case for case, (stage, _) in CASES.items() if stage == "dense"]
# NMS, where the paper asks for it, waits; how often does not depend on the number of images (see the next test).
WAITING = [case for case in DENSE if case.startswith("ohem_dense")]
NOT_WAITING = [case for case in CASES if case not in WAITING]


@pytest.mark.parametrize("case", [case for case in DENSE if case not in WAITING])
def test_matching_and_losses_do_not_wait_on_the_cpu(case):
    losses, watch = match_and_lose(detector_with(case), make_batch(BOXES))
    assert watch.seen > 20
    assert watch.waiting == []
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("case", [case for case in DENSE if case not in WAITING])
def test_matching_and_losses_do_not_wait_on_fake_cuda_tensors(case):
    """Fake tensors have no values: an operator that needs one raises. No GPU is needed for this."""
    with FakeTensorMode():
        with torch.device("cuda"):
            model = detector_with(case)
        model.anchors.shapes = model.anchors.shapes.cuda()
        losses, watch = match_and_lose(model, make_batch(BOXES, seed=None).to("cuda"))
    assert watch.seen > 20
    assert watch.waiting == []
    assert {loss.device.type for loss in losses.values()} == {"cuda"}


@pytest.mark.parametrize("case", NOT_WAITING)
@pytest.mark.parametrize("device", ["cpu", "fake cuda"])
def test_losses_of_samples_do_not_wait(case, device):
    samples = make_samples(stage_of(case), activation=activation_of(case), dtype=torch.float32)
    method = method_of(case)
    with FakeTensorMode(allow_non_fake_inputs=True) if device == "fake cuda" else nullcontext():
        losses, watch = lose(method, samples, device.split()[-1])
    assert watch.seen > 10
    assert watch.waiting == []
    assert {loss.device.type for loss in losses.values()} == {device.split()[-1]}


@pytest.mark.parametrize("case", WAITING)
def test_nms_waits_a_few_times_a_batch_whatever_the_number_of_images(case):
    counts = []
    for images in (1, 2, 8):
        batch = make_batch(BOXES[:1] * images)
        counts.append(len(match_and_lose(detector_with(case), batch)[1].waiting))
    assert 1 <= counts[0] <= 8
    assert len(set(counts)) == 1


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
