"""Focal loss on a dense head's logits: our fused and eager paths beside ``torchvision.ops.sigmoid_focal_loss``.

    python benchmarks/focal_loss.py

Times are of forward and backward together, of repetitions that take turns in one process, so that a busy machine slows
all alike; on a CPU with one thread, which other work disturbs least, and with one for each core. Memory is the largest
number of bytes that were allocated at once beyond the logits and targets, the gradient included, over the bytes of the
logits: of the CUDA allocator on a GPU; on a CPU of the allocations and frees that ``torch.profiler`` records, in their
order (compiled kernels allocate through the same allocator). The result goes to ``results/benchmarks/focal_loss.json``
and, as a table, to the terminal.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import Subject, cores, extra_bytes, places, ratio, seconds, size, take_turns
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from imbdet.files import write_json
from imbdet.losses import Focal, sum_over_classes
from imbdet.training.record import hardware, versions

ALPHA, GAMMA = 0.25, 2.0
RECORD = Path("results/benchmarks/focal_loss.json")


def make_batch(rows: int, classes: int, foreground: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """[N, K] logits as a detector's first ones (probabilities near .02), [N] labels and the same as [N, K] targets."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=random) - 4
    label = torch.full((rows,), classes)
    label[torch.randperm(rows, generator=random)[:foreground]] = torch.randint(classes, (foreground,), generator=random)
    targets = (label[:, None] == torch.arange(classes)).float()
    return logits.to(device).requires_grad_(), label.to(device), targets.to(device)


def make_paths(logits: Tensor, label: Tensor, targets: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Each way to compute the same summed loss."""
    loss = Focal(GAMMA)
    return {
        "torchvision": lambda: sigmoid_focal_loss(logits, targets, ALPHA, GAMMA, reduction="sum"),
        "eager": lambda: sum_over_classes(loss, logits, label, ALPHA).sum(),
        "compiled": lambda: sum_over_classes(loss, logits, label, ALPHA, compiled=True).sum(),
    }


def make_subjects(logits: Tensor, label: Tensor, targets: Tensor) -> dict[str, Subject]:
    """Forward and backward of each path."""

    def subject(path: Callable[[], Tensor]) -> Subject:
        return Subject(lambda: path().backward(), (logits,))

    return {name: subject(path) for name, path in make_paths(logits, label, targets).items()}


def measure(
    rows: int, classes: int, foreground: int, repetitions: int, device: torch.device, threads: int
) -> dict[str, Any]:
    """Times, ratios and memory of every path on one device."""
    torch.set_num_threads(threads)
    torch.compiler.reset()  # kernels are compiled for a number of threads
    subjects = make_subjects(*make_batch(rows, classes, foreground, device))
    warm_up = {name: seconds(subject) for name, subject in subjects.items()}
    times = take_turns(subjects, repetitions)
    return {
        "hardware": hardware(device),
        "first_call_s": warm_up,
        "times_ms": {name: [1000 * t for t in own] for name, own in times.items()},
        "median_ms": {name: 1000 * statistics.median(own) for name, own in times.items()},
        "speed_up": {name: ratio(times["torchvision"], own) for name, own in times.items()},
        "extra_memory": {name: extra_bytes(x) / size(x.inputs[0]) for name, x in subjects.items()},
    }


def table(result: dict[str, Any]) -> str:
    """One device's result as Markdown."""
    lines = [
        f"{result['hardware']['device']}, {result['hardware']['threads']} threads\n",
        "| path | forward + backward, ms | times faster | extra memory / logits | first call, s |",
        "|---|---|---|---|---|",
    ]
    for name, median in result["median_ms"].items():
        rest = result["speed_up"][name], result["extra_memory"][name], result["first_call_s"][name]
        lines.append(f"| {name} | {median:.1f} | " + " | ".join(f"{value:.2f}" for value in rest) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=201_600, help="anchors of an image of 800x1344 pixels")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--foreground", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=15)
    settings = vars(parser.parse_args())
    results = []
    for device, threads in places([1, cores()]):
        with tempfile.TemporaryDirectory() as cache:  # empty, so that the first call says what compiling takes
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            results.append(measure(**settings, device=device, threads=threads))
    load = os.getloadavg()[0]
    write_json(RECORD, {"settings": settings, "versions": versions(), "load_average": load, "results": results})
    for result in results:
        print(table(result))


if __name__ == "__main__":
    main()
