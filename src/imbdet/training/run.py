"""``python -m imbdet train STUDY EXPERIMENT``: one experiment, from prepared data to weights, loss curve and record."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from imbdet.config import Study
from imbdet.data.loader import TrainingBatches
from imbdet.errors import UserError
from imbdet.files import remove_partials, sha256, write_bytes, write_json, write_text
from imbdet.layout import Layout
from imbdet.signals import StopRequest, stop_requests
from imbdet.training import record
from imbdet.training.build import initial_state
from imbdet.training.checkpoint import State, serialise
from imbdet.training.loop import NonFinite, curve_csv, train
from imbdet.training.process import Process, deterministic, join_processes
from imbdet.training.scratch import Checkpoints, scratch_folder
from imbdet.training.validation import validate


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Train one experiment, resuming where an interrupted run of the same configuration stopped.

    After SIGTERM or SIGINT the step is finished and a checkpoint written, then SystemExit is raised with 143 or 130.
    Raises :class:`UserError` for bad input, a loss that is not finite, a full disk or GPU, or another process training
    the same.
    """
    if not layout.manifest.exists():
        raise UserError(f"{layout.manifest} does not exist; `python -m imbdet data` with the study's config makes it")
    settings = study.training(experiment)
    with stop_requests() as stop, deterministic(settings.deterministic), join_processes() as process:
        batches = TrainingBatches(study, layout, experiment, process.rank, process.world_size)
        state = initial_state(study, layout, experiment, process.device)
        origin = record.origin(study, layout, experiment)
        root, key = layout.scratch(experiment), record.fingerprint(origin)
        with scratch_folder(root, key) if process.first else nullcontext(root / key) as folder:
            checkpoints = Checkpoints(folder, origin)
            lines = checkpoints.claim() if process.first else []
            lines += checkpoints.resume(state)
            if process.first:
                for line in lines:
                    print(f"{experiment}: {line}", flush=True)
            began = state.step
            seconds = _train(study, layout, experiment, state, batches, process, checkpoints, stop)
            if state.step < settings.steps:
                if process.first:
                    print(f"{experiment}: asked to stop; the same command resumes at step {state.step}", flush=True)
                raise SystemExit(stop.exit_code)
            if process.first:
                images = (state.step - began) * settings.batch_size
                if state.validation:
                    write_bytes(layout.best_weights(experiment), checkpoints.best.read_bytes())
                    write_text(layout.validation_curve(experiment), curve_csv(state.validation))
                _write(study, layout, experiment, state, process, seconds, images)


def _train(
    study: Study,
    layout: Layout,
    experiment: str,
    state: State,
    batches: TrainingBatches,
    process: Process,
    checkpoints: Checkpoints,
    stop: StopRequest,
) -> float:
    """Run the loop; a loss that is not finite leaves a dump. Returns the seconds that the loop took."""
    settings = study.training(experiment)
    network: nn.Module = DistributedDataParallel(state.model) if process.world_size > 1 else state.model

    def keep(state: State) -> None:
        if process.first:
            checkpoints.keep(state)

    def judge(state: State) -> None:  # the other processes wait for the first one
        if process.first and validate(study, layout, experiment, state, process.device):
            write_bytes(checkpoints.best, serialise(state.model.state_dict()))

    try:
        with _tensorboard(study, experiment, process) as log:
            return train(state, network, batches.iterate(state.step), settings, process, stop, keep, judge, log)
    except NonFinite as error:
        if not process.first:
            raise
        facts = {
            "step": error.step,
            "image_ids": TrainingBatches(study, layout, experiment).batch_ids(error.step - 1).tolist(),
            "terms": {name: str(value) for name, value in error.terms.items()},  # JSON has no NaN
            "seed": study.seed,
        }
        path = checkpoints.dump(state, facts)
        raise UserError(f"{error}. `python -m imbdet replay` repeats this step from {path} and says where") from None


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
    folder = Path("logs") / "tensorboard" / study.name / experiment / f"seed-{study.seed}"
    with SummaryWriter(folder) as writer:

        def log(row: dict[str, float]) -> None:
            for name in row.keys() - {"step"}:
                writer.add_scalar(name, row[name], int(row["step"]))

        yield log


def _write(
    study: Study, layout: Layout, experiment: str, state: State, process: Process, seconds: float, images: int
) -> None:
    """Write the outputs, the record last: a record is of a training whose other outputs are whole."""
    weights = serialise(state.model.state_dict())
    for path in (layout.weights(experiment), layout.loss_curve(experiment), layout.training(experiment)):
        remove_partials(path.parent, path.name)
    write_bytes(layout.weights(experiment), weights)
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
            "data_sha256": sha256(layout.manifest),
            "code": record.code(study, experiment),
            "versions": record.versions(),
            "hardware": record.hardware(process.device) | {"processes": process.world_size},
            "steps": state.step,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "measured": measured,
        },
    )
