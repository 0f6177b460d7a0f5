"""The library in somebody else's model: torchvision's RetinaNet with a method of this library."""

import copy
import re
import runpy
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import imbdet

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_torchvision_model.py"
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "per_image", "box_beta": 0.0}
CLASSES = 7


@pytest.fixture
def stock():
    """torchvision's RetinaNet on ResNet-18, logits scaled so that scores and gradients vary."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    extra = LastLevelP6P7(256, 256)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=extra, trainable_layers=5
    )
    model = RetinaNet(backbone, CLASSES, min_size=128, max_size=192)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.3)
    return model.train()


def batch(*boxes_of_images):
    """Noise images of different sizes, each with boxes of labels 1, 2, ..."""
    random = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 128, 128 + 64 * i, generator=random) for i in range(len(boxes_of_images))]
    targets = [
        {"boxes": torch.tensor(boxes).reshape(-1, 4).float(), "labels": torch.arange(len(boxes)) + 1}
        for boxes in boxes_of_images
    ]
    return images, targets


BATCHES = {
    "two images": ([[10, 10, 60, 90], [50, 40, 120, 110]], [[20, 5, 150, 100]]),
    "one image without boxes": ([], [[20, 5, 150, 100], [3, 3, 40, 40]]),
    "no boxes at all": ([], []),
}


@pytest.mark.parametrize("name", BATCHES)
def test_focal_loss_attached_is_torchvisions_own(stock, name):
    images, targets = batch(*BATCHES[name])
    ours = copy.deepcopy(stock)
    imbdet.attach(ours, imbdet.build_method(FOCAL))
    expected, losses = stock(images, targets), ours(images, targets)
    torch.testing.assert_close(losses["classification"], expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["box_regression"], expected["bbox_regression"], rtol=1e-5, atol=1e-8)
    sum(expected.values()).backward()
    sum(losses.values()).backward()
    gradients = dict(ours.named_parameters())
    for key, parameter in stock.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-3, atol=1e-4 * scale)


def test_another_method_gives_other_losses_and_the_same_detections(stock):
    images, targets = batch(*BATCHES["two images"])
    ours = copy.deepcopy(stock)
    imbdet.attach(ours, imbdet.build_method(FOCAL | {"gamma": 0.5}))
    assert ours(images, targets)["classification"] > 1.1 * stock(images, targets)["classification"]
    with torch.no_grad():
        expected, found = stock.eval()(images), ours.eval()(images)
    for mine, theirs in zip(found, expected, strict=True):
        assert len(theirs["boxes"]) > 0
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_samples_know_their_level(stock):
    seen = []
    imbdet.attach(stock, imbdet.build_method(FOCAL))
    stock.method.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    images, targets = batch(*BATCHES["two images"])
    stock(images, targets)
    (samples,) = seen
    sides = (samples.priors[:, 2:] - samples.priors[:, :2]).prod(dim=1).sqrt()
    smallest = [sides[samples.level == level].amin().item() for level in range(5)]
    assert smallest == pytest.approx([32, 64, 128, 256, 512], rel=0.02)
    assert (samples.level.bincount() == 9 * 2 * torch.tensor([16 * 24, 8 * 12, 4 * 6, 2 * 3, 1 * 2])).all()


def test_state_of_the_method_travels_with_the_model(stock):
    imbdet.attach(stock, imbdet.build_method(FOCAL | {"normalizer": "ema"}))
    images, targets = batch(*BATCHES["two images"])
    stock(images, targets)
    twin = copy.deepcopy(stock)
    assert twin.compute_loss.__self__ is twin
    twin.load_state_dict(stock.state_dict())
    mean = stock.state_dict()["method.normalizer.mean"]
    assert mean != 100
    assert twin.method.normalizer.mean == mean


def test_anchors_in_half_precision_are_refused(stock):
    imbdet.attach(stock, imbdet.build_method(FOCAL))
    images, targets = batch(*BATCHES["two images"])
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"anchors of torch\.bfloat16"):
        stock(images, targets)


def test_method_for_other_stages_is_refused(stock):
    method = imbdet.build_method(FOCAL)
    method.stages = frozenset({"roi"})
    with pytest.raises(ValueError, match="Focal is defined for roi, not for dense"):
        imbdet.attach(stock, method)


def test_example_trains_torchvisions_model(capsys):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    result = runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert set(result["losses"]) == {"classification", "box_regression"}
    assert all(loss.isfinite() and loss > 0 for loss in result["losses"].values())
    learned = [p for p in result["model"].parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    assert "'classification': " in capsys.readouterr().out


def test_public_names_are_what_they_say():
    """Twice: importing a submodule puts it into its package under its own name."""
    for _ in range(2):
        assert all(getattr(imbdet, name).__name__ == name for name in imbdet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'atach'"):
        _ = imbdet.atach


def test_example_attaches_in_ten_lines():
    code = EXAMPLE.read_text().split('"""', 2)[2]
    lines = [line for line in code.splitlines() if line.strip() and not re.match(r"import|from|print", line)]
    assert len(lines) <= 10
