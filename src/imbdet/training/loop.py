"""The training loop: one page, to be read from top to bottom."""

import csv
import io
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from imbdet.data.batch import Batch
from imbdet.errors import UserError
from imbdet.settings import Train
from imbdet.signals import StopRequest
from imbdet.training.checkpoint import State
from imbdet.training.process import Process


class NonFinite(UserError):
    """A loss that is not finite: at which step (from 1) and with which values by name."""

    def __init__(self, step: int, terms: dict[str, float], images: list[int]) -> None:
        listed = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        super().__init__(
            f"step {step}: the loss is not finite ({listed}); images {images}. The weights were not changed by this "
            "step. Lower train.optimizer.lr, set train.clip_norm, or look at these images' boxes"
        )
        self.step, self.terms = step, terms


def train(
    state: State,
    network: nn.Module,
    batches: Iterable[Batch],
    settings: Train,
    process: Process,
    stop: StopRequest,
    keep: Callable[[State], None],
    validate: Callable[[State], None],
    log: Callable[[dict[str, float]], None],
) -> float:
    """Train from ``state.step`` to the last step, or to the one at which a stop was asked for; return the seconds.

    ``network(batch)`` gives the losses by name: the state's model, or the same wrapped for several processes. Every
    ``log_every`` steps the mean of each loss over these steps and all processes goes to ``log`` and to the state's
    curve; every ``checkpoint_every`` steps, and before a stop, ``keep`` is called, in all processes;
    so is ``validate`` every ``evaluate_every`` steps. A stop that one
    process is asked for is one of all, after the same step. Raises :class:`NonFinite` before the step is taken, with
    the state as it was before, and :class:`UserError` where the device has too little memory.
    """
    started = time.perf_counter()
    parameters = [p for p in network.parameters() if p.requires_grad]
    network.train()
    for batch in _progress(batches, state, settings, process):
        with _memory_explained(batch, state.step + 1):
            terms, stopping = _backward(state, network, batch, settings, process, stop)
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            rate = state.optimizers[0].param_groups[0]["lr"]
            for optimizer, schedule in zip(state.optimizers, state.schedules, strict=True):
                optimizer.step()
                schedule.step()
        state.step += 1
        state.unlogged.append(terms)
        if state.step % settings.log_every == 0 or state.step == settings.steps:
            row = {"step": state.step, "learning_rate": rate} | _mean(state.unlogged)
            state.curve.append(row)
            state.unlogged.clear()
            log(row)
        if settings.evaluate_every and state.step % settings.evaluate_every == 0:
            validate(state)
        if (stopping or state.step % settings.checkpoint_every == 0) and state.step < settings.steps:
            keep(state)
        if stopping:
            break
    return time.perf_counter() - started


def _backward(
    state: State, network: nn.Module, loaded: Batch, settings: Train, process: Process, stop: StopRequest
) -> tuple[dict[str, float], bool]:
    """Compute the gradients of a batch. Returns the losses by name and whether any process was asked to stop."""
    batch = loaded.to(process.device, non_blocking=True)
    before = [buffer.clone() for buffer in network.buffers()]
    with torch.autocast(process.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        losses = network(batch)
    total = torch.stack(list(losses.values())).sum()
    asked = total.detach().new_full((), stop.signal is not None)  # with the losses: no process stops alone
    values = _read_later(process.mean(torch.stack([*losses.values(), total, asked]).detach()))
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    total.backward()
    *numbers, stopping = values()
    terms = dict(zip([*losses, "total"], numbers, strict=True))
    if not all(map(math.isfinite, numbers)):
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
        raise NonFinite(state.step + 1, terms, loaded.image_ids.tolist())
    return terms, stopping > 0


def curve_csv(curve: Sequence[Mapping[str, float | None]]) -> str:
    """The rows of a curve as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(curve[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    return text.getvalue()


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _read_later(values: Tensor) -> Callable[[], list[float]]:
    """Start copying a few numbers to the host; the call that returns waits for them alone.

    Called before ``backward``, so that the host waits while the device is busy with it and never runs dry.
    """
    if values.device.type != "cuda":
        return values.tolist
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> list[float]:
        copied.synchronize()
        result: list[float] = host.tolist()
        return result

    return wait


@contextmanager
def _memory_explained(batch: Batch, step: int) -> Iterator[None]:
    """Turn PyTorch's error of a full GPU into one that names the step's images and what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        height, width = batch.images.shape[-2:]
        largest = int(batch.sizes.prod(dim=1).argmax())
        own_height, own_width = batch.sizes[largest].tolist()
        raise UserError(
            f"step {step}: out of GPU memory with {len(batch)} images padded to {height} x {width} pixels (images "
            f"{batch.image_ids.tolist()}; the largest is {int(batch.image_ids[largest])} with {own_height} x "
            f"{own_width}). Lower train.batch_size or the detector's short_side and long_side, or set train.precision "
            f"to bf16; checkpoints are intact. PyTorch says: {str(error).splitlines()[0]}"
        ) from None


def _progress(batches: Iterable[Batch], state: State, settings: Train, process: Process) -> Iterator[Batch]:
    """The batches with a bar that shows rate, time left and the latest losses; a line every 10 s in a log file."""
    quiet = 0.1 if sys.stderr.isatty() else 10
    with tqdm(
        total=settings.steps, initial=state.step, unit="step", mininterval=quiet, disable=not process.first
    ) as bar:
        for batch in batches:
            yield batch
            if state.curve:
                shown = {k: f"{v:.3g}" for k, v in state.curve[-1].items() if k != "step"}
                bar.set_postfix(shown, refresh=False)
            bar.update()
