"""Backbones with a feature pyramid: torchvision's ResNets, timm's networks, and a small network for CPUs."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu
from torchvision.models import get_model, resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock
from torchvision.ops.misc import FrozenBatchNorm2d

from imbdet.data.stored_features import HIGHEST
from imbdet.detectors.weights import Body, imagenet_of_torchvision, load_file
from imbdet.errors import UserError
from imbdet.settings import Backbone as Settings

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d")


class Backbone(nn.Module):
    """A network, some of which may be frozen, and a feature pyramid on its levels.

    ``body`` gives the levels of an image, ``fpn`` those of the pyramid; torchvision's names, so that its state dicts
    load. What is frozen stays in evaluation mode and gets no gradient.
    """

    def __init__(
        self, body: Body, out_channels: int, extra: ExtraFPNBlock, frozen: Literal["none", "stem", "all"] = "none"
    ) -> None:
        super().__init__()
        self.body = body.network
        self.fpn = FeaturePyramidNetwork(list(body.channels), out_channels, extra_blocks=extra)
        self.out_channels = out_channels
        self.mean, self.std = body.mean, body.std
        # A tuple, as its modules are registered already: they are parts of the body.
        self._frozen = {"none": (), "stem": tuple(body.stem), "all": (body.network,)}[frozen]
        for part in self._frozen:
            part.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    @property
    def wholly_frozen(self) -> bool:
        """Whether no weight of the body is trained, so that its levels may be computed once."""
        return self.body in self._frozen

    def levels(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] fp32 normalised images to the body's levels [B, channels, h, w], finest first."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.wholly_frozen):
            levels: dict[str, Tensor] | list[Tensor] = self.body(images)
            return list(levels.values() if isinstance(levels, dict) else levels)

    def pyramid(self, levels: Sequence[Tensor]) -> "OrderedDict[str, Tensor]":
        """The body's levels to those of the pyramid [B, out_channels, h, w] by name, finest first."""
        named = OrderedDict((str(i), level) for i, level in enumerate(levels))
        pyramid: OrderedDict[str, Tensor] = self.fpn(named)
        return pyramid

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        return self.pyramid(self.levels(images))


def build_backbone(settings: Settings, levels: tuple[int, int], p6_source: str, fpn_channels: int) -> Backbone:
    """Build a backbone with the pyramid of a detector on it.

    Args:
        settings: name, weights and what is frozen.
        levels, p6_source: lowest and highest level, and what P6 is made of; see :class:`imbdet.settings.Network`.
        fpn_channels: of each level of the pyramid.

    With pretrained weights batch normalisation is frozen, as their statistics are better than those of small batches.

    Raises:
        UserError: a name that does not exist, a network that lacks a level, weights that are missing or do not fit.
    """
    lowest, highest = levels
    if settings.name == "tiny":
        body = _tiny(settings, lowest)
    elif settings.name in RESNETS:
        body = _resnet(settings, lowest)
    else:
        from imbdet.detectors import timm_networks  # timm takes a second to import

        body = timm_networks.build(settings, range(lowest, HIGHEST + 1), known=("tiny", *RESNETS))
    extra = ExtraLevels(p6_source, highest - HIGHEST, body.channels[-1], fpn_channels)
    return Backbone(body, fpn_channels, extra, settings.frozen)


def weights_sha256(body: nn.Module) -> str:
    """Hash of a network's weights and statistics: names, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(body.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class ExtraLevels(ExtraFPNBlock):  # type: ignore[misc]
    """Levels above P5: by a convolution each (Lin et al. 2017, Focal Loss, section 4), or by pooling (FPN).

    On a CPU the convolutions are in fp32 also under autocast. In bf16 oneDNN leaves a part of their weights' gradient
    unset where the map has one column, as P6 has of images of up to 64 pixels: compare
    https://github.com/pytorch/pytorch/issues/169688.
    """

    def __init__(self, source: str, count: int, c5_channels: int, channels: int) -> None:
        """``source``: what P6 is made of, "c5", "p5", or by "pool" of P5; ``count``: of levels."""
        super().__init__()
        self.source, self.count = source, count
        inputs = c5_channels if source == "c5" else channels
        for number in range(count if source != "pool" else 0):
            conv = nn.Conv2d(channels if number else inputs, channels, 3, stride=2, padding=1)
            nn.init.kaiming_uniform_(conv.weight, a=1)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            self.add_module(f"p{6 + number}", conv)

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        below = c[-1] if self.source == "c5" else p[-1]
        below = below.float() if below.device.type == "cpu" else below
        with torch.autocast("cpu", enabled=False):  # which does not concern a GPU
            for number in range(self.count):
                if self.source == "pool":
                    below = max_pool2d(below, 1, 2, 0)
                else:
                    below = self.get_submodule(f"p{6 + number}")(relu(below) if number else below)
                p.append(below)
                names.append(f"p{6 + number}")
        return p, names


def _resnet(settings: Settings, lowest: int) -> Body:
    network: resnet.ResNet = get_model(settings.name, weights=None, norm_layer=_norm(settings))
    if settings.weights == "imagenet":
        network.load_state_dict(imagenet_of_torchvision(settings.name))
    elif settings.file:
        load_file(network, settings.file, ignored=("fc.",))
    channels = [network.inplanes // 8 * 2**stage for stage in range(4)]
    stem = (network.conv1, network.bn1, network.layer1)
    return Body(_levels(network, lowest), channels[lowest - 2 :], stem)


TINY_CHANNELS = (32, 48, 64, 96)


def _tiny(settings: Settings, lowest: int) -> Body:
    """Four stages of two 3x3 convolutions, each halving the image once but the first, which does twice."""
    norm = _norm(settings)
    stages = OrderedDict[str, nn.Module](stem=_conv(3, 16, norm, stride=2))
    width = 16
    for index, channels in enumerate(TINY_CHANNELS):
        stage = _conv(width, channels, norm, stride=2), _conv(channels, channels, norm)
        stages[f"layer{index + 1}"] = nn.Sequential(*stage)
        width = channels
    network = nn.Sequential(stages)
    if settings.file:
        load_file(network, settings.file)
    elif settings.weights != "none":
        raise UserError("detector.backbone: 'tiny' has no pretrained weights; set weights to none, or to a file")
    stem = (network.get_submodule("stem"), network.get_submodule("layer1"))
    return Body(_levels(network, lowest), TINY_CHANNELS[lowest - 2 :], stem)


def _levels(network: nn.Module, lowest: int) -> nn.Module:
    names = {f"layer{level - 1}": str(i) for i, level in enumerate(range(lowest, HIGHEST + 1))}
    levels: nn.Module = IntermediateLayerGetter(network, names)
    return levels


def _norm(settings: Settings) -> Callable[[int], nn.Module]:
    return nn.BatchNorm2d if settings.weights == "none" else FrozenBatchNorm2d


def _conv(inputs: int, outputs: int, norm: Callable[[int], nn.Module], stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, norm(outputs), nn.ReLU(inplace=True))
