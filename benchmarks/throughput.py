"""Speed, operations and memory of a training step of config/coco.yaml's detectors, on made-up images.

    python benchmarks/throughput.py

Both detectors as the study has them: ResNet-50-FPN, images of 640x480 pixels resized as it says and padded as its
loader does, 80 classes, 8 boxes an image; plain cross entropy. The weights are random, which costs the same time. The
steps are those of ``imbdet.training.loop``, with the optimizer, but for reading images. With a GPU they are as in the
study. Without one they are of few images, in fp32 and on one thread; its processor time, unlike the time on the clock,
does not depend on what else the machine does.

Operations are those of convolutions and matrix products, forward and backward, as torch.utils.flop_counter counts them
(a multiplication and an addition are two); they are counted once more with images as wide as high as the study's longer
side, which is as large as a batch can be padded. Memory is the peak of a step beyond weights and batch.

The result goes to ``results/benchmarks/throughput.json``; ``python docs/scaling.py`` makes ``docs/scaling.md`` of it.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measuring
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model
from torchvision.models.resnet import Bottleneck

from imbdet.config import Study
from imbdet.data.batch import Batch
from imbdet.data.facts import Facts
from imbdet.data.loader import collate
from imbdet.data.transforms import fitted_size
from imbdet.detectors import Detector, build_detector
from imbdet.files import write_json
from imbdet.settings import PADDING, Train
from imbdet.signals import StopRequest
from imbdet.study_file import load_study
from imbdet.training.checkpoint import State
from imbdet.training.loop import train
from imbdet.training.optimizer import build_optimizers, build_schedule
from imbdet.training.process import Process
from imbdet.training.record import hardware, versions

STUDY = Path("config/coco.yaml")
RECORD = Path("results/benchmarks/throughput.json")
EXPERIMENTS = ("ce", "faster-ce")
CLASSES, BOXES = 80, 8
HEIGHT, WIDTH = 480, 640  # pixels; the commonest size in COCO


def make_record(study: Study, images: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Measure a step of each detector with so many images; the mean of ``steps`` steps after the first."""
    return {
        "settings": {"study": study.name, "images": images, "steps": steps, "height": HEIGHT, "width": WIDTH},
        "versions": versions(),
        "hardware": hardware(device),
        "load_average": os.getloadavg()[0],
        "results": [measure(study, name, images, steps, device) for name in EXPERIMENTS],
    }


def measure(study: Study, experiment: str, images: int, steps: int, device: torch.device) -> dict[str, Any]:
    """One detector: images a second, operations an image, memory an image."""
    settings = step_settings(study.training(experiment), images, device)
    model = make_detector(study, experiment).to(device).to(memory_format=torch.channels_last)
    optimizers = build_optimizers(model, settings)
    state = State(model, optimizers, [build_schedule(optimizer, settings) for optimizer in optimizers])
    sides = model_sides(study, experiment)
    usual = make_batch(images, *fitted_size(HEIGHT, WIDTH, *sides), study, experiment)
    largest = make_batch(1, sides[1], sides[1], study, experiment)
    operations, largest_operations = (count(run(state, batch, settings, device)) for batch in (usual, largest))
    on_device = torch.zeros(1, device=device)
    memory = measuring.extra_bytes(measuring.Subject(run(state, usual, settings, device), (on_device,)))
    began = time.process_time()
    seconds = run(state, usual, settings, device, steps)()
    processor_seconds = time.process_time() - began
    return {
        "experiment": experiment,
        "detector": study.experiment(experiment).detector,
        "precision": settings.precision,
        "parameters": sum(p.numel() for p in model.parameters()),
        "padded": list(usual.images.shape[-2:]),
        "largest_padded": list(largest.images.shape[-2:]),
        "seconds_an_image": seconds / steps / images,
        "processor_seconds_an_image": processor_seconds / steps / images,
        "operations_an_image": operations / images,
        "largest_operations_an_image": largest_operations,
        "memory_an_image": memory / images,
    }


def step_settings(settings: Train, images: int, device: torch.device) -> Train:
    """The study's, but for the batch; on a CPU in fp32 and without the compiler, which takes minutes there."""
    changes: dict[str, Any] = {"batch_size": images}
    if device.type == "cpu":
        changes |= {"precision": "fp32", "compile_loss": False}
    return settings.model_copy(update=changes)


def make_detector(study: Study, experiment: str) -> Detector:
    """With batch normalisation and first stage frozen as pretrained weights have them, but with random weights."""
    torch.manual_seed(0)
    with patch("imbdet.detectors.backbones.imagenet_of_torchvision", lambda name: get_model(name).state_dict()):
        model = build_detector(study, experiment, Facts(CLASSES, (1 / CLASSES,) * CLASSES))
    for block in model.modules():
        if isinstance(block, Bottleneck):  # or values grow from block to block, as nothing normalises them
            block.bn3.weight.zero_()
    return model


def model_sides(study: Study, experiment: str) -> tuple[int, int]:
    detector = study.detector(experiment)
    return detector.short_side, detector.long_side


def make_batch(images: int, height: int, width: int, study: Study, experiment: str) -> Batch:
    """Noise, with boxes of sides from 24 to 320 pixels, padded as the study's loader does."""
    random = torch.Generator().manual_seed(0)
    samples = []
    for number in range(images):
        corner = torch.rand(BOXES, 2, generator=random) * (torch.tensor([width, height]) - 330)
        side = 24 + torch.rand(BOXES, 2, generator=random) * 296
        boxes = torch.cat([corner, corner + side], dim=1)
        samples.append(measuring.noise(number, height, width, boxes, CLASSES, random))
    return collate(samples, PADDING, seed=0)


def run(state: State, batch: Batch, settings: Train, device: torch.device, steps: int = 1) -> Callable[[], float]:
    """A call that trains so many steps on a batch and returns the seconds of the loop."""

    def batches() -> Iterator[Batch]:
        for _ in range(steps):
            yield batch

    def nothing(_: object) -> None: ...

    def call() -> float:
        process, stop = Process(1, 1, device), StopRequest()  # of another rank than the first: without a progress bar
        return train(state, state.model, batches(), settings, process, stop, nothing, nothing, nothing)

    return call


def count(call: Callable[[], object]) -> int:
    """Operations of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16 if on_gpu else 2, help="a step")
    parser.add_argument("--steps", type=int, default=50 if on_gpu else 3)
    arguments = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        torch.set_num_threads(1)
    record = make_record(load_study(STUDY), arguments.images, arguments.steps, device)
    write_json(RECORD, record)
    for row in record["results"]:
        print(f"{row['detector']:12} {row['seconds_an_image']:.3f} s and {row['operations_an_image']:.3g} operations")


if __name__ == "__main__":
    main()
