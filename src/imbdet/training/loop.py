"""The training loop: one page, to be read from top to bottom."""

import csv
import io
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from imbdet.data.batch import Batch
from imbdet.errors import UserError
from imbdet.settings import Train
from imbdet.training.checkpoint import State
from imbdet.training.process import Process


def train(
    state: State,
    network: nn.Module,
    batches: Iterable[Batch],
    settings: Train,
    process: Process,
    checkpoint: Path,
    log: Callable[[dict[str, float]], None],
) -> float:
    """Train from ``state.step`` to the last step and return the seconds it took.

    ``network(batch)`` gives the losses by name: the state's model, or the same wrapped for several processes. Every
    ``log_every`` steps the mean of each loss over these steps and all processes goes to ``log`` and to the state's
    curve; every ``checkpoint_every`` steps the first process saves the state. Raises :class:`UserError` where a loss
    is not finite, before the step is taken.
    """
    started = time.perf_counter()
    parameters = [p for p in network.parameters() if p.requires_grad]
    autocast = torch.autocast(process.device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    network.train()
    for loaded in _progress(batches, state, settings, process):
        batch = loaded.to(process.device, non_blocking=True)
        with autocast:
            losses = network(batch)
        total = torch.stack(list(losses.values())).sum()
        values = _read_later(process.mean(torch.stack([*losses.values(), total]).detach()))
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        terms = dict(zip([*losses, "total"], values(), strict=True))
        _refuse_non_finite(terms, batch, state.step)
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
        if process.first and state.step % settings.checkpoint_every == 0 and state.step < settings.steps:
            state.save(checkpoint)
    return time.perf_counter() - started


def curve_csv(curve: list[dict[str, float]]) -> str:
    """The rows of a loss curve as CSV."""
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


def _refuse_non_finite(terms: dict[str, float], batch: Batch, step: int) -> None:
    if all(map(math.isfinite, terms.values())):
        return
    listed = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    raise UserError(
        f"step {step + 1}: the loss is not finite ({listed}); images {batch.image_ids.tolist()}. The weights were not "
        "changed by this step. Lower train.optimizer.lr, set train.clip_norm, or look at these images' boxes"
    )


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
