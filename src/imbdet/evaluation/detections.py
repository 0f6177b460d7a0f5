"""Detections as flat arrays, kept compressed, so that any later statistic needs neither model nor images."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imbdet.errors import UserError
from imbdet.files import sha256, write_npz

_DTYPES = {"image_id": np.int64, "category_id": np.int64, "bbox": np.float32, "score": np.float32}


@dataclass(frozen=True)
class Detections:
    """D detections on a split, in any order.

    image_id, category_id: [D] int64, ids of the annotation file.
    bbox: [D, 4] float32, x, y, width, height in pixels of the original image.
    score: [D] float32.

    Raises ValueError where a shape or dtype is another, a number is not finite or a width or height is negative.
    """

    image_id: NDArray[np.int64]
    category_id: NDArray[np.int64]
    bbox: NDArray[np.float32]
    score: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            array = getattr(self, name)
            shape = (len(self.image_id), 4) if name == "bbox" else (len(self.image_id),)
            if array.shape != shape or array.dtype != dtype:
                wanted = f"{list(shape)} {np.dtype(dtype)}"
                raise ValueError(f"{name} must be {wanted}, as image_id says, got {list(array.shape)} {array.dtype}")
            if not np.isfinite(array).all():
                bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0]
                raise ValueError(f"{name} of detection {bad} is {array[bad].tolist()}, not finite")
        if (self.bbox[:, 2:] < 0).any():
            bad = np.flatnonzero((self.bbox[:, 2:] < 0).any(axis=1))[0]
            raise ValueError(f"bbox of detection {bad} is {self.bbox[bad].tolist()}: negative width or height")

    def __len__(self) -> int:
        return len(self.image_id)

    @classmethod
    def concatenate(cls, parts: Sequence["Detections"]) -> "Detections":
        """Join parts in order; no parts give no detections."""
        empty = cls(*(np.zeros((0, 4) if name == "bbox" else 0, dtype) for name, dtype in _DTYPES.items()))
        parts = [empty, *parts]
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def select(self, rows: NDArray[Any]) -> "Detections":
        """Return the rows of an index or a mask, in its order."""
        return Detections(*(getattr(self, f.name)[rows] for f in fields(self)))

    def save(self, path: Path, annotations: Path) -> None:
        """Write a compressed npz atomically, which says of which annotation file's images the detections are.

        Equal detections give equal bytes.
        """
        write_npz(path, **{name: getattr(self, name) for name in _DTYPES}, annotations=_mark(annotations))

    @classmethod
    def load(cls, path: Path, annotations: Path) -> "Detections":
        """Read what :meth:`save` wrote for the same annotation file.

        Raises UserError if the file is missing, damaged, holds something else or is of other annotations: ids alone
        do not tell two data sets apart.
        """
        remedy = "remove it and run the `detect` command of its study again"
        try:
            with np.load(path, allow_pickle=False) as archive:
                found, mark = cls(*(archive[name] for name in _DTYPES)), archive["annotations"]
        except FileNotFoundError as error:
            raise UserError(f"no detections at {path}; run the `detect` command of the study first") from error
        except KeyError as error:
            expected = ", ".join([*_DTYPES, "annotations"])
            raise UserError(f"{path}: {error.args[0]}; expected the arrays {expected}; {remedy}") from error
        except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is not a whole file of detections: {error}; {remedy}") from error
        if not np.array_equal(mark, _mark(annotations)):
            raise UserError(f"{path} holds detections of other data than {annotations}, or of a former state; {remedy}")
        return found


def _mark(annotations: Path) -> NDArray[np.uint8]:
    """[32] the SHA-256 of an annotation file."""
    return np.frombuffer(bytes.fromhex(sha256(annotations)), np.uint8)
