"""Backbones: torchvision's ResNets, and a small network for CPUs."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from imbdet.errors import UserError, nearest

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d")
NAMES = ("tiny", *RESNETS)
P6Source = Literal["c5", "p5", "pool", "none"]


def build_backbone(
    name: str, pretrained: bool, fpn_channels: int, p6_source: P6Source, lowest: int = 3
) -> BackboneWithFPN:
    """Build a backbone with a feature pyramid from level P``lowest`` (2 or 3) up, each level of ``fpn_channels``.

    ``p6_source``: RetinaNet makes P6 and P7 from C5 in the paper and from P5 in torchvision; Faster R-CNN makes P6 from
    P5 by "pool"; "none" ends the pyramid at P5. With ``pretrained``, torchvision's default ImageNet weights are
    fetched, batch normalisation is frozen, and so are the stem and the first stage.

    Raises:
        UserError: a name that does not exist; pretrained weights asked for the network that has none.
    """
    if name == "tiny":
        if pretrained:
            raise UserError("detector.pretrained: the backbone 'tiny' has no pretrained weights; set it to false")
        body, channels = _tiny(), TINY_CHANNELS
    elif name in RESNETS:
        body = _resnet(name, pretrained)
        channels = tuple(body.inplanes // 8 * 2**stage for stage in range(4))
    else:
        raise UserError(f"detector.backbone {name!r} does not exist; {nearest(name, NAMES)}")
    levels = {f"layer{level - 1}": str(i) for i, level in enumerate(range(lowest, 6))}
    extra = _extra_levels(p6_source, channels[-1], fpn_channels)
    return BackboneWithFPN(body, levels, list(channels[lowest - 2 :]), fpn_channels, extra_blocks=extra)


class _NoLevels(ExtraFPNBlock):  # type: ignore[misc]
    """No level above P5; torchvision would otherwise add one by pooling."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return results, names


def _extra_levels(p6_source: P6Source, c5_channels: int, fpn_channels: int) -> ExtraFPNBlock:
    if p6_source in ("none", "pool"):
        return _NoLevels() if p6_source == "none" else LastLevelMaxPool()
    block = LastLevelP6P7(c5_channels if p6_source == "c5" else fpn_channels, fpn_channels)
    block.use_P5 = p6_source == "p5"  # torchvision guesses it from the widths, which may be equal by chance
    return block


def _resnet(name: str, pretrained: bool) -> resnet.ResNet:
    norm = FrozenBatchNorm2d if pretrained else nn.BatchNorm2d
    weights = get_model_weights(name).DEFAULT if pretrained else None
    body: resnet.ResNet = get_model(name, weights=weights, norm_layer=norm)
    if pretrained:
        for part in (body.conv1, body.layer1):
            part.requires_grad_(False)
    return body


TINY_CHANNELS = (32, 48, 64, 96)


def _tiny() -> nn.Sequential:
    """Four stages of two 3x3 convolutions, each halving the image once but the first, which does twice."""
    stages = OrderedDict[str, nn.Module](stem=_conv(3, 16, stride=2))
    width = 16
    for index, channels in enumerate(TINY_CHANNELS):
        stages[f"layer{index + 1}"] = nn.Sequential(_conv(width, channels, stride=2), _conv(channels, channels))
        width = channels
    return nn.Sequential(stages)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
