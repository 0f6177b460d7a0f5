"""``python -m imbdet replay STUDY EXPERIMENT``: repeat the step whose loss was not finite, and say where it arises.

The training left a dump of the state before that step in its scratch folder; see :mod:`imbdet.training.scratch`.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from imbdet.config import Study
from imbdet.data.batch import Batch
from imbdet.data.loader import TrainingBatches
from imbdet.detectors import Detector
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.training import record
from imbdet.training.build import initial_state
from imbdet.training.process import deterministic, join_processes
from imbdet.training.scratch import Checkpoints


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Repeat the step of an experiment's newest dump and print what is not finite, first to last.

    The whole batch is computed by one process. Raises :class:`UserError` where there is no dump, where it is of other
    settings, data or code, and where the losses are finite this time.
    """
    origin = record.origin(study, layout, experiment)
    path = _newest_dump(layout.scratch(experiment))
    facts = json.loads(path.read_text())
    content = Checkpoints(path.parent, origin).load(path.with_suffix(".pt"))
    settings = study.training(experiment)
    with deterministic(settings.deterministic), join_processes() as process:
        state = initial_state(study, layout, experiment, process.device)
        state.restore(content)
        model = state.model.train()
        assert isinstance(model, Detector)
        batch = next(TrainingBatches(study, layout, experiment).iterate(facts["step"] - 1)).to(process.device)
        with torch.autocast(process.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            with _watched(model) as found:
                terms = {name: loss.item() for name, loss in model(batch).items()}
            lines = [*_weights(model), *found[:1], *_rows(model, batch)]
    _report(path, facts, terms, lines)


def _newest_dump(root: Path) -> Path:
    dumps = sorted(root.glob("*/nonfinite-step-*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not dumps:
        raise UserError(f"{root} holds no dump to replay; a training leaves one there when a loss is not finite")
    return dumps[-1]


def _report(path: Path, facts: dict[str, Any], terms: dict[str, float], lines: list[str]) -> None:
    recorded = ", ".join(f"{name} {value}" for name, value in facts["terms"].items())
    repeated = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    if all(map(math.isfinite, terms.values())):
        raise UserError(
            f"step {facts['step']} of {path} does not reproduce: its losses are finite ({repeated}) where the training "
            f"had {recorded}. Another device, other versions or several processes round differently; run it there"
        )
    print(f"step {facts['step']}, images {facts['image_ids']}: reproduced ({repeated}; the training had {recorded})")
    print("\n".join(lines or ["logits and offsets of every sample are finite: it is the method's loss that is not"]))


def _weights(model: nn.Module) -> Iterator[str]:
    """Names of parameters that are themselves not finite."""
    names = [name for name, value in model.named_parameters() if not value.isfinite().all()]
    if names:
        yield f"weights that are not finite before the step: {', '.join(names)}"


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """A list of the modules whose output is not finite, in the order in which they are done."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
            if not all(x.isfinite().all() for x in tensors):
                came_in = [x for x in tree_leaves(inputs) if isinstance(x, Tensor)]
                finite = all(x.isfinite().all() for x in came_in)
                found.append(
                    f"first module with an output that is not finite: {name} ({type(module).__name__})"
                    f"{'; what it was given is finite' if finite else ''}"
                )

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _rows(model: Detector, batch: Batch) -> Iterator[str]:
    """For each stage, image and level: how many samples have logits or offsets that are not finite."""
    ids = batch.image_ids.tolist()
    for stage, samples in model.samples(batch).items():
        bad = ~(samples.logits.isfinite().all(1) & samples.deltas.flatten(1).isfinite().all(1))
        places = zip(samples.image_id.tolist(), samples.level.tolist(), bad.tolist(), strict=True)
        counts = Counter((image, level) for image, level, is_bad in places if is_bad)
        for (image, level), count in sorted(counts.items()):
            yield f"stage {stage}, image {ids[image]}, level {level}: {count} samples that are not finite"
