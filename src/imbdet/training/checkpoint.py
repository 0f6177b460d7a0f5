"""State of an unfinished training, in a folder that neither Snakemake nor DVC knows, as both delete their outputs."""

import fcntl
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imbdet.errors import UserError
from imbdet.files import write_bytes


@dataclass
class State:
    """All that a training is: what a checkpoint saves and a resume restores."""

    model: nn.Module
    optimizers: list[Optimizer]
    schedules: list[LambdaLR]
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    unlogged: list[dict[str, float]] = field(default_factory=list)  # losses of each step since the curve's last row

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
        content = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "step": self.step,
            "curve": self.curve,
            "unlogged": self.unlogged,
        }
        write_bytes(path, serialise(content))

    def load(self, path: Path, device: torch.device) -> None:
        """Restore from ``path``. Raises :class:`UserError` for a file that is not a whole checkpoint."""
        content = load_tensors(path, device)
        self.model.load_state_dict(content["model"])
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, content["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.step, self.curve, self.unlogged = content["step"], content["curve"], content["unlogged"]


def serialise(content: Any) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_tensors(path: Path, device: torch.device) -> Any:
    """Load tensors and plain values, never code. Raises :class:`UserError` for a missing or damaged file."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; train the experiment, or fetch its weights with `dvc pull`") from None
    except Exception as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and run again") from error


@contextmanager
def scratch_folder(root: Path, fingerprint: str) -> Iterator[Path]:
    """Hold the folder of an experiment's resumable state; it is removed when the training has finished.

    The folder is keyed by a fingerprint of everything that determines the training, so that state of another
    configuration, data set or code is never resumed. Raises :class:`UserError` where another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training here: it holds {root / 'lock'}; wait for it or stop it"
            ) from None
        folder = root / fingerprint
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
