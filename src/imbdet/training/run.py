"""``python -m imbdet train STUDY EXPERIMENT``: one experiment, from prepared data to weights, loss curve and record."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from imbdet.config import Study
from imbdet.data.facts import read_facts
from imbdet.data.loader import TrainingBatches
from imbdet.detectors import Detector, build_detector
from imbdet.errors import UserError
from imbdet.files import write_bytes, write_json, write_text
from imbdet.layout import Layout
from imbdet.seeding import number
from imbdet.training import record
from imbdet.training.checkpoint import State, scratch_folder, serialise
from imbdet.training.loop import curve_csv, train
from imbdet.training.optimizer import build_optimizers, build_schedule
from imbdet.training.process import Process, join_processes


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Train one experiment, resuming where an interrupted run of the same configuration stopped.

    Raises :class:`UserError` for bad input, a loss that is not finite, or another process training the same.
    """
    if not layout.manifest.exists():
        raise UserError(f"{layout.manifest} does not exist; `python -m imbdet data` with the study's config makes it")
    with join_processes() as process:
        batches = TrainingBatches(study, layout, experiment, process.rank, process.world_size)
        model = _initial_model(study, layout, experiment).to(process.device)
        # Convolutions are faster so on both kinds of device, and the heads' outputs become views, not copies.
        model = model.to(memory_format=torch.channels_last)
        settings = study.training(experiment)
        optimizers = build_optimizers(model, settings)
        state = State(model, optimizers, [build_schedule(optimizer, settings) for optimizer in optimizers])
        key = record.fingerprint(study, layout, experiment)
        root = layout.scratch(experiment)
        with scratch_folder(root, key) if process.first else nullcontext(root / key) as folder:
            checkpoint = folder / "checkpoint.pt"
            if checkpoint.exists():
                state.load(checkpoint, process.device)
                print(f"{experiment}: resumed at step {state.step} of {settings.steps}", flush=True)
            began = state.step
            network: nn.Module = DistributedDataParallel(model) if process.world_size > 1 else model
            with _tensorboard(study, experiment, process) as log:
                seconds = train(state, network, batches.iterate(began), settings, process, checkpoint, log)
            if process.first:
                images = (state.step - began) * settings.batch_size
                _write(study, layout, experiment, state, process, seconds, images)


def _initial_model(study: Study, layout: Layout, experiment: str) -> Detector:
    """The untrained detector; equal seeds give equal weights wherever shapes agree, whatever the method."""
    torch.manual_seed(number(study.seed, "weights"))
    model = build_detector(study, experiment, read_facts(layout))
    for stage in study.experiment(experiment).methods:
        model.method(stage).compiled = study.training(experiment).compile_loss
    return model


@contextmanager
def _tensorboard(study: Study, experiment: str, process: Process) -> Iterator[Callable[[dict[str, float]], None]]:
    """A function that logs a row of the loss curve to TensorBoard, or nowhere."""
    if not (study.training(experiment).tensorboard and process.first):
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "train.tensorboard is true, but TensorBoard is not installed: pip install 'imbdet[logging]'"
        ) from None
    folder = Path("logs") / "tensorboard" / study.name / experiment
    with SummaryWriter(folder) as writer:

        def log(row: dict[str, float]) -> None:
            for name in row.keys() - {"step"}:
                writer.add_scalar(name, row[name], int(row["step"]))

        yield log


def _write(
    study: Study, layout: Layout, experiment: str, state: State, process: Process, seconds: float, images: int
) -> None:
    write_bytes(layout.weights(experiment), serialise(state.model.state_dict()))
    write_text(layout.loss_curve(experiment), curve_csv(state.curve))
    measured = {
        "seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 1) if images else None,
        "peak_memory_mb": record.peak_memory_mb(process.device),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(
        layout.training(experiment),
        {
            "study": study.name,
            "experiment": experiment,
            "config": record.configuration(study, experiment),
            "data_sha256": record.sha256_of(layout.manifest),
            "code": record.code(study, experiment),
            "versions": record.versions(),
            "hardware": record.hardware(process.device) | {"processes": process.world_size},
            "steps": state.step,
            "measured": measured,
        },
    )
