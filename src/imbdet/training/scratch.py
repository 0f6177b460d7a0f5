"""The folder of an unfinished training, which neither Snakemake nor DVC knows, as both delete their outputs.

``scratch/STUDY/EXPERIMENT/FINGERPRINT/`` holds the last two checkpoints (``step-00000500.pt``), the weights of the best
evaluation if there are any, and ``fingerprint.json``: the configuration, data and code that the state belongs to.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from imbdet.errors import UserError
from imbdet.files import remove_partials, write_bytes, write_json
from imbdet.training import record
from imbdet.training.checkpoint import DamagedFile, State, load_tensors, serialise

KEPT = 2
ORIGIN = "fingerprint.json"
STEPS = "step-*.pt"


@contextmanager
def scratch_folder(root: Path, fingerprint: str) -> Iterator[Path]:
    """Hold the folder of an experiment's resumable state; it is removed when the training has finished.

    The folder is keyed by a fingerprint of everything that determines the training, so that state of another
    configuration, data set or code is never resumed. Raises :class:`UserError` where another process holds it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"{root} cannot be written to: {error.strerror}; checkpoints need a folder that can be, with room"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training here: it holds {root / 'lock'}; wait for it or stop it"
            ) from None
        folder = root / fingerprint
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


class Checkpoints:
    """The checkpoints in one such folder, of the training that ``origin`` (:func:`record.origin`) describes."""

    def __init__(self, folder: Path, origin: dict[str, Any]) -> None:
        self.folder, self.origin = folder, origin
        self.damaged: set[Path] = set()

    def claim(self) -> list[str]:
        """Say in the folder what it belongs to, and return a line on each folder with state of other settings."""
        if self.folder.is_dir():
            remove_partials(self.folder)
        write_json(self.folder / ORIGIN, self.origin)
        others = sorted(path.parent for path in self.folder.parent.glob(f"*/{ORIGIN}") if path.parent != self.folder)
        return [self._describe(folder) for folder in others if any(folder.glob(STEPS))]

    def _describe(self, folder: Path) -> str:
        try:
            differ = "; ".join(record.differences(json.loads((folder / ORIGIN).read_text()), self.origin))
        except ValueError:
            differ = f"{ORIGIN} there cannot be read"
        return (
            f"unfinished state of other settings is in {folder} and is not used ({differ}). Set them back to resume "
            f"it, or remove it: rm -r {folder}"
        )

    def resume(self, state: State) -> list[str]:
        """Restore the newest valid checkpoint, if there is one, and return lines that say what happened.

        Instead of a damaged file the one before it is taken. Raises :class:`UserError` for a checkpoint of other
        settings, data or code, with the differences.
        """
        lines = []
        for path in sorted(self.folder.glob(STEPS), reverse=True):
            try:
                content = self.load(path)
            except DamagedFile as error:
                lines.append(f"skipped a damaged checkpoint: {error}")
                self.damaged.add(path)
                continue
            state.restore(content)
            return [*lines, f"resumed at step {state.step} of {self.origin['config']['train']['steps']}"]
        return [*lines, "no checkpoint is whole: training starts from the beginning"] if lines else []

    def load(self, path: Path) -> dict[str, Any]:
        """The content of a checkpoint. Raises :class:`UserError` where it is not one of this training."""
        content = load_tensors(path, torch.device("cpu"))
        if not isinstance(content, dict) or "origin" not in content:
            raise DamagedFile(f"{path} cannot be read: it holds no state of a training; delete it and run again")
        if differ := record.differences(content["origin"], self.origin):
            raise UserError(
                f"{path} is state of another training: {'; '.join(differ)}. Going on from it would give weights of "
                "neither; set these back, or remove the file to start anew"
            )
        return content

    def keep(self, state: State) -> None:
        """Write a checkpoint, then remove damaged ones and all but the last two.

        Raises :class:`UserError` for weights that are not finite, from which no run could go on.
        """
        bad = [name for name, value in state.model.named_parameters() if not value.isfinite().all()]
        if bad:
            raise UserError(
                f"step {state.step}: weights are not finite ({', '.join(bad[:3])}, {len(bad)} in all), although the "
                "loss was; no checkpoint was written and the last one is intact. Lower train.optimizer.lr or set "
                "train.clip_norm"
            )
        path = self.folder / f"step-{state.step:08d}.pt"
        write_bytes(path, self._serialised(state))
        for damaged in self.damaged - {path}:
            damaged.unlink(missing_ok=True)
        self.damaged.clear()
        for old in sorted(self.folder.glob(STEPS))[:-KEPT]:
            old.unlink()

    @property
    def best(self) -> Path:
        """The weights of the best evaluation so far, where there was one."""
        return self.folder / "best.pt"

    def dump(self, state: State, facts: dict[str, Any]) -> Path:
        """Write the state before a step whose loss was not finite, and facts about that step; return the latter."""
        path = self.folder / f"nonfinite-step-{state.step + 1}.json"
        write_bytes(path.with_suffix(".pt"), self._serialised(state))
        write_json(path, facts | {"fingerprint": self.folder.name})
        return path

    def _serialised(self, state: State) -> bytes:
        return serialise(state.content() | {"origin": self.origin})
