"""What a training is at a step, and files of tensors that are checked before they are believed."""

import io
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imbdet.errors import UserError


class DamagedFile(UserError):
    """A file that could be read but is not what was once written."""


@dataclass
class State:
    """All that a training is: what a checkpoint saves and a resume restores."""

    model: nn.Module
    optimizers: list[Optimizer]
    schedules: list[LambdaLR]
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    unlogged: list[dict[str, float]] = field(default_factory=list)  # losses of each step since the curve's last row
    validation: list[dict[str, float | None]] = field(default_factory=list)  # AP of each evaluation on the way

    def content(self) -> dict[str, Any]:
        """Tensors and plain values, from which :meth:`restore` makes the same state."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "step": self.step,
            "curve": self.curve,
            "unlogged": self.unlogged,
            "validation": self.validation,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Become what :meth:`content` was."""
        self.model.load_state_dict(content["model"])
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, content["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.step, self.curve, self.unlogged = content["step"], content["curve"], content["unlogged"]
        self.validation = content["validation"]


def serialise(content: Any) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_tensors(path: Path, device: torch.device) -> Any:
    """Load tensors and plain values, never code.

    Raises :class:`UserError` for a file that is missing or cannot be read, :class:`DamagedFile` for one that is cut,
    has a wrong checksum anywhere or holds anything else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; train the experiment, or fetch its weights with `dvc pull`") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; make it readable and run again") from error
    try:
        return torch.load(_checked(content), map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise DamagedFile(
            f"{path} cannot be read: it holds more than tensors and plain values, which could be code; delete it and "
            "run again"
        ) from None
    except Exception as error:
        raise DamagedFile(f"{path} cannot be read ({error}); delete it and run again") from error


def _checked(content: bytes) -> io.BytesIO:
    """The zip archive that PyTorch writes, made anew from its parts after Python has compared their checksums.

    PyTorch does not compare them, so that a flipped bit would be a weight, and it believes headers without a checksum.
    """
    clean = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(clean, "w") as copy:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"its part {member.filename} is compressed, which PyTorch never does")
            copy.writestr(member.filename, archive.read(member))
    clean.seek(0)
    return clean
