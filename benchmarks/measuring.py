"""Time, memory and waits of things that take turns in one process."""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from imbdet.data.loader import Sample


@dataclass(frozen=True)
class Subject:
    """What is measured: ``run()``, which may leave gradients in the leaves ``inputs``."""

    run: Callable[[], object]
    inputs: Sequence[Tensor]

    def prepare(self) -> None:
        """Drop the gradients of the last run, and wait until the device has nothing left to do."""
        for tensor in self.inputs:
            tensor.grad = None
        self.wait()

    def wait(self) -> None:
        if self.inputs[0].is_cuda:
            torch.cuda.synchronize()


def places(threads: Iterable[int]) -> list[tuple[torch.device, int]]:
    """Where to measure, and with how many threads: a CPU with each number of them, and a GPU if there is one."""
    gpus = [(torch.device("cuda"), cores())] if torch.cuda.is_available() else []
    return [(torch.device("cpu"), number) for number in sorted(set(threads))] + gpus


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def seconds(subject: Subject) -> float:
    """Time of one run."""
    subject.prepare()
    began = time.perf_counter()
    subject.run()
    subject.wait()
    return time.perf_counter() - began


def noise(image_id: int, height: int, width: int, boxes: Tensor, classes: int, random: torch.Generator) -> Sample:
    """Draw an image of noise, with these [n, 4] fp32 xyxy boxes and a label of each."""
    return Sample(
        image=torch.randint(256, (3, height, width), generator=random, dtype=torch.uint8),
        scale=torch.ones(2),
        image_id=image_id,
        boxes=boxes,
        labels=torch.randint(classes, (len(boxes),), generator=random),
        ignore=torch.zeros(0, 4),
    )


def take_turns(subjects: dict[str, Subject], repetitions: int) -> dict[str, list[float]]:
    """Times of every subject, one of each in every turn, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(repetitions):
        for name, subject in subjects.items():
            times[name].append(seconds(subject))
    return times


def ratio(numerators: list[float], denominators: list[float]) -> float:
    """The ratio of each turn, whose parts ran within seconds of each other, and then the median of the turns."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def extra_bytes(subject: Subject) -> int:
    """Peak of the bytes that a run holds beyond what was there."""
    subject.prepare()
    return _cuda_peak(subject.run) if subject.inputs[0].is_cuda else _cpu_peak(subject.run)


def size(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def _cuda_peak(run: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _cpu_peak(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes))
