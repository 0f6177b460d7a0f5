"""``python -m imbdet features STUDY DETECTOR``: a frozen backbone's levels of all images, once for all trainings."""

import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from imbdet.config import Study
from imbdet.data.coco import read_json
from imbdet.data.facts import read_facts
from imbdet.data.loader import Split
from imbdet.data.stored_features import (
    HIGHEST,
    MANIFEST,
    ORIENTATIONS,
    Array,
    arrays,
    origin,
    read_manifest,
    torn_files,
)
from imbdet.detectors import Detector, build_detector
from imbdet.detectors.backbones import weights_sha256
from imbdet.errors import UserError, nearest
from imbdet.files import sha256, write_json
from imbdet.layout import SPLITS, Layout

BATCH = 8  # images
PROGRESS = "progress.json"
EVERY = 40  # batches between two notes of how far it is
MMAP_THRESHOLD, TRIM_THRESHOLD, LARGEST = -3, -1, 2**31 - 1  # malloc.h


def run(study: Study, layout: Layout, detector: str | None = None) -> None:
    """Compute the features that a detector, or each, trains and is evaluated on, as far as they are missing.

    A run that was stopped goes on where it was. Raises :class:`UserError` for a detector that the study does not have
    or whose backbone is trained, for a disk without room, and while another process computes the same.
    """
    if detector is None:
        for name in study.feature_stores:
            run(study, layout, name)
        return
    if detector not in study.detectors:
        raise UserError(f"study {study.name}: no detector {detector!r}; {nearest(detector, study.detectors)}")
    _keep_memory()
    settings = study.detectors[detector]
    if not settings.stores_features:
        raise UserError(
            f"detectors.{detector}.backbone.frozen is {settings.backbone.frozen}: features that training changes "
            "cannot be stored; set it to all"
        )
    experiment = next(name for name, chosen in study.experiments.items() if chosen.detector == detector)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_detector(study, experiment, read_facts(layout)).to(device).eval()
    model = model.to(memory_format=torch.channels_last)
    facts = {"origin": origin(settings, layout), "weights_sha256": weights_sha256(model.backbone.body)}
    splits = {name: Split(settings, layout, name) for name in SPLITS}
    files = {name: _arrays(model, split, name) for name, split in splits.items()}
    with _locked(layout.features(settings.features)) as folder:
        manifest = read_manifest(folder)
        if not manifest or any(manifest[key] != facts[key] for key in facts) or torn_files(folder, manifest):
            _compute(model, splits, files, folder, facts)
    size = sum(array.bytes for group in files.values() for array in group)
    levels = {array.name: list(array.shape) for group in files.values() for array in group}
    about = {"study": study.name, "detector": detector, "bytes": size, "files": levels}
    write_json(layout.features_record(detector), about | facts)


def _keep_memory() -> None:
    """Have the C library keep what is freed: by default it gives large maps back, and clears each page anew.

    That took half of the time. Does nothing where the library is not glibc.
    """
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(MMAP_THRESHOLD, LARGEST)
        library.mallopt(TRIM_THRESHOLD, LARGEST)


def _arrays(model: Detector, split: Split, name: str) -> list[Array]:
    """The files of a split, their channels as the network gives them."""
    assert split.canvas is not None
    blank = torch.zeros(1, 3, 2**HIGHEST, 2**HIGHEST, device=model.mean.device)
    channels = [level.shape[1] for level in model.backbone.levels(blank)]
    return arrays(split.detector, name, len(split), split.canvas, channels)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Let no other process write to a folder meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is computing features in {folder}; wait for it or stop it") from None
        yield folder


def _compute(
    model: Detector, splits: dict[str, Split], files: dict[str, list[Array]], folder: Path, facts: dict[str, Any]
) -> None:
    """Fill the files of all splits, then write the manifest; each file is reserved on the disk before."""
    (folder / MANIFEST).unlink(missing_ok=True)
    expected = facts | {"files": {array.name: list(array.shape) for group in files.values() for array in group}}
    done = _progress(folder, expected)
    if done is None:
        for path in folder.glob("*.npy"):
            path.unlink()
        done = dict.fromkeys(splits, 0)
    _reserve([array for group in files.values() for array in group], folder)
    for name, split in splits.items():
        maps = [np.load(folder / array.name, mmap_mode="r+", allow_pickle=False) for array in files[name]]
        starts = range(done[name], len(split), BATCH)
        bar = tqdm(total=len(split), initial=done[name], desc=f"features {name}", unit="image", mininterval=5)
        for number, start in enumerate(starts):
            images = range(start, min(start + BATCH, len(split)))
            for orientation in range(ORIENTATIONS[name]):
                batch = split.batch(images, [bool(orientation)] * len(images), None).to(model.mean.device)
                with torch.inference_mode():
                    for place, level in zip(maps, model.backbone_levels(batch), strict=True):
                        place[images.start : images.stop, orientation] = level.cpu().numpy()
            bar.update(len(images))
            if number % EVERY == EVERY - 1 or images.stop == len(split):
                for place in maps:
                    place.flush()
                done[name] = images.stop
                write_json(folder / PROGRESS, expected | {"done": done})
        bar.close()
    hashes = {
        array.name: {"bytes": (folder / array.name).stat().st_size, "sha256": sha256(folder / array.name)}
        for group in files.values()
        for array in group
    }
    write_json(folder / MANIFEST, facts | {"files": hashes})
    (folder / PROGRESS).unlink()


def _progress(folder: Path, expected: dict[str, Any]) -> dict[str, int] | None:
    """How many images of each split an interrupted run of the same features has done; None where there was none."""
    if not (folder / PROGRESS).exists():
        return None
    content = read_json(folder / PROGRESS)
    same = isinstance(content, dict) and all(content.get(key) == value for key, value in expected.items())
    there = same and all((folder / name).is_file() for name in expected["files"])
    done: dict[str, int] | None = content["done"] if there else None
    return done


def _reserve(group: list[Array], folder: Path) -> None:
    """Make the files at their full size. Raises :class:`UserError` where the disk has no room for them.

    A write to a memory map beyond the room on a disk would end the process without a word.
    """
    missing = [array for array in group if not (folder / array.name).is_file()]
    needed, free = sum(array.bytes for array in missing), shutil.disk_usage(folder).free
    print(f"{folder}: {needed / 1e9:.2f} GB of features to write, {free / 1e9:.1f} GB are free", flush=True)
    try:
        if needed > free:
            raise OSError("no space left on device")
        for array in missing:
            path = folder / array.name
            np.lib.format.open_memmap(path, mode="w+", dtype=array.dtype, shape=array.shape).flush()
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        for array in missing:
            (folder / array.name).unlink(missing_ok=True)
        raise UserError(
            f"{folder} has no room for the features: they need {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free "
            f"({error.strerror or error}). Make room, set data.folder to another disk, or store less: fewer images, "
            "smaller short_side and long_side, or backbone.stored fp16"
        ) from error
