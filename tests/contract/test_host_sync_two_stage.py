"""The two-stage detector waits for the device where boxes are suppressed and pooled, and nowhere else."""

from contextlib import nullcontext

import pytest
import torch
from contract_cases import SIDE, detector_with, make_batch
from host_syncs import Watch
from test_host_sync import BOXES
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from imbdet.detectors import faster_rcnn


class WatchMore(Watch):
    """Sees suppression as well, whose operator does not say that it waits, and lists, which need none on a CPU."""

    def __init__(self, monkeypatch):
        super().__init__()
        plain = torch.Tensor.tolist
        monkeypatch.setattr(torch.Tensor, "tolist", lambda x: self.waiting.append("tolist") or plain(x))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.torchvision.nms.default:
            self.waiting.append("nms")
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.fixture(params=["cpu", "fake cuda"])
def setting(request):
    """A device, and a mode in which fake tensors have no values, so that an operator that needs one raises."""
    fake = request.param == "fake cuda"
    with FakeTensorMode() if fake else nullcontext():
        yield "cuda" if fake else "cpu"


def detector_and_batch(case, device):
    with torch.device(device):
        model = detector_with(case).train()
    model.anchors.shapes = model.anchors.shapes.to(device)
    model.anchors(SIDE, SIDE)  # made once for a size, not at every step
    return model, make_batch(BOXES, seed=None).to(device)


@pytest.mark.parametrize("case", ["cross_entropy-rpn", "focal-rpn"])
def test_from_matching_anchors_to_the_loss_nothing_waits(case, setting, monkeypatch):
    model, batch = detector_and_batch(case, setting)
    count = sum(model.anchors.counts(SIDE, SIDE))
    logits = torch.randn(len(batch), count, device=setting, requires_grad=True)
    deltas = torch.randn(len(batch), count, 4, device=setting, requires_grad=True)
    with WatchMore(monkeypatch) as watch:
        losses = model.method("rpn")(model.sample_anchors(batch, logits, deltas, None))
    assert watch.seen > 50
    assert watch.waiting == []
    assert {loss.device.type for loss in losses.values()} == {setting}


@pytest.mark.parametrize("case", ["cross_entropy-roi", "cross_entropy-roi-sigmoid", "focal-roi"])
def test_from_matching_proposals_to_the_loss_nothing_waits_but_pooling(case, setting, monkeypatch):
    model, batch = detector_and_batch(case, setting)
    monkeypatch.setattr(faster_rcnn, "pool", pool_without_waiting)
    features = [torch.randn(len(batch), 8, SIDE // s, SIDE // s, device=setting) for s in model.anchors.strides]
    corner = SIDE / 2 * torch.rand(2, 20, 2, device=setting)
    proposals = list(torch.cat([corner, corner + 20], dim=2))
    with WatchMore(monkeypatch) as watch:
        samples = model.sample_proposals(features, model.match_proposals(batch, proposals), None)
        losses = model.method("roi")(samples)
    assert watch.seen > 50
    assert watch.waiting == []
    assert {loss.device.type for loss in losses.values()} == {setting}


def pool_without_waiting(features, strides, boxes, images, pool_size, *rest):
    return features[0].mean().expand(len(boxes), features[0].shape[1], pool_size, pool_size)


def test_a_training_step_waits_a_few_times_whatever_the_number_of_images(monkeypatch):
    """Suppression, and the numbers of its boxes, of each image's proposals and of each level's boxes to pool."""
    model = detector_with("cross_entropy-roi").train()
    for images in (1, 2, 6):
        with monkeypatch.context() as patch, WatchMore(patch) as watch:
            losses = model(make_batch(BOXES[:1] * images))
        assert watch.waiting == ["nms", "aten.index.Tensor", "tolist", "tolist"]
        assert all(loss.isfinite() for loss in losses.values())


def test_the_watch_sees_lists_and_suppression(monkeypatch):
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    with WatchMore(monkeypatch) as watch:
        torch.ops.torchvision.nms(boxes, torch.ones(1), 0.5)
        boxes.tolist()
    assert watch.waiting == ["nms", "tolist"]
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(3, device="cuda").tolist()
