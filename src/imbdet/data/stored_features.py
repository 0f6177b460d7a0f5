"""A frozen backbone's levels of all images and their mirror images, computed once and read through a memory map.

A folder holds ``SPLIT-cLEVEL.npy``, [N, mirrored, channels, h, w], for each split and level, and ``manifest.json``: of
what the features are, and the size and hash of each file. It is written last, so that without it nothing is read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imbdet.data.coco import read_json
from imbdet.data.source_files import cached_hashes
from imbdet.errors import UserError
from imbdet.layout import SPLITS, Layout
from imbdet.settings import Network

MANIFEST = "manifest.json"
HASH_CACHE = ".hashes.json"
DTYPES: dict[str, np.dtype[Any]] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
ORIENTATIONS = {"train": 2, "val": 1}  # an image, and in training its mirror image
HIGHEST = 5  # level of a backbone that a pyramid uses


@dataclass(frozen=True)
class Array:
    """One file: its name and what it holds, [N, orientations, channels, h, w]."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """Size of the values, without the header."""
        return prod(self.shape) * self.dtype.itemsize


def arrays(detector: Network, split: str, images: int, canvas: Sequence[int], channels: Sequence[int]) -> list[Array]:
    """List the files of a split, the finest level first.

    Args:
        detector: its backbone and lowest level.
        split: ``train`` or ``val``.
        images: N.
        canvas: height and width of the padded images, pixels.
        channels: of each level.
    """
    shape = images, ORIENTATIONS[split]
    return [
        Array(
            f"{split}-c{level}.npy",
            (*shape, channels[index], *(-(-side // 2**level) for side in canvas)),
            DTYPES[detector.backbone.stored],
        )
        for index, level in enumerate(range(detector.levels[0], HIGHEST + 1))
    ]


def origin(detector: Network, layout: Layout) -> dict[str, Any]:
    """What features are determined by, but for the weights, whose hash a manifest has beside it."""
    splits = read_json(layout.manifest)["splits"]
    return {
        "backbone": detector.backbone.model_dump(mode="json"),
        "lowest_level": detector.levels[0],
        "short_side": detector.short_side,
        "long_side": detector.long_side,
        "images": {
            split: {key: splits[split][key] for key in ("images", "images_sha256", "annotations_sha256")}
            for split in SPLITS
        },
    }


class StoredFeatures:
    """The features of a split. Raises :class:`UserError` where they are missing, torn, or of something else."""

    def __init__(self, detector: Network, layout: Layout, split: str) -> None:
        self.folder = layout.features(detector.features)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise UserError(f"{self.folder} has no stored features; {_REMEDY}")
        if (there := manifest["origin"]) != (here := origin(detector, layout)):
            keys = ", ".join(key for key in here if there.get(key) != here[key])
            raise UserError(f"{self.folder} holds features of other settings or images (other {keys}); {_REMEDY}")
        if torn := torn_files(self.folder, manifest):
            raise UserError(f"{', '.join(torn)} in {self.folder} are not what was written there; {_REMEDY}")
        names = [name for name in manifest["files"] if name.startswith(f"{split}-")]
        self._levels: list[NDArray[Any]] = [
            np.load(self.folder / name, mmap_mode="r", allow_pickle=False) for name in sorted(names)
        ]

    def read(self, images: NDArray[np.int64], mirrored: Sequence[bool]) -> tuple[Tensor, ...]:
        """Read the levels of B images by position: [B, channels, h, w] fp16 or fp32 each, finest first."""
        orientation = np.asarray(mirrored, dtype=np.int64)
        return tuple(torch.from_numpy(level[images, orientation]) for level in self._levels)


def check_weights(detector: Network, layout: Layout, sha256: str) -> None:
    """Raise :class:`UserError` where features are stored of a backbone with weights of another hash."""
    folder = layout.features(detector.features)
    manifest = read_manifest(folder)
    if manifest and manifest["weights_sha256"] != sha256:
        raise UserError(
            f"{folder} holds features of a backbone with other weights (sha256 {manifest['weights_sha256']}, the "
            f"detector's have {sha256}); {_REMEDY}"
        )


_REMEDY = "run `python -m imbdet features` with the study's config"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest of stored features; None where there is none, or a damaged one."""
    try:
        content: Any = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(content, dict) and content.keys() >= {"origin", "weights_sha256", "files"}
    return content if whole else None


def torn_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Names of files that are missing or not what was written; only those that changed since are hashed again."""
    found = cached_hashes({name: folder / name for name in manifest["files"]}, folder / HASH_CACHE)
    return [name for name, record in manifest["files"].items() if found.get(name) != record["sha256"]]
