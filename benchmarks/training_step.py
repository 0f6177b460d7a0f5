"""A training step of this project's RetinaNet beside torchvision's, with the same weights, images and boxes.

    python benchmarks/training_step.py

Both are RetinaNet on ResNet-50-FPN with 91 classes, all layers trained, batch normalisation included, and have the loss
of torchvision's: focal loss with gamma 2, and L1. A step goes from separate images, as a loader has decoded them, to
new weights by SGD: padding, normalisation, forward, backward, update. The learning rate is 0, so that every step is of
the same weights. This project's network is laid out as its training does it (channels last); torchvision's is measured
laid out so, and as it comes. torchvision's resizing is left out, and its images are given as floats already.

All take turns in one process, in fp32, and this project's in bf16 as well (autocast, as ``train.precision`` has it). A
ratio is the median of the turns' ratios, with the smallest and the largest. Without a GPU they run on one thread, and
times are of the processor, which depend less on what else the machine does than those of the clock. The record goes to
``results/benchmarks/training_step.json``.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Subject, noise, places
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn

from imbdet.assigners import MaxIoUAssigner
from imbdet.data.loader import Sample, collate
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import build_backbone
from imbdet.detectors.retinanet import RetinaNet
from imbdet.files import write_json
from imbdet.methods import build_method
from imbdet.settings import PADDING, Backbone
from imbdet.training.record import hardware, versions

RECORD = Path("results/benchmarks/training_step.json")
CLASSES, BOXES = 91, 6
# Heights and widths of the images of a batch; multiples of 128 have no level that rounds up.
SCENES = {
    "2 of 256 x 256": [(256, 256)] * 2,
    "2 of 320 x 448": [(320, 448)] * 2,
    "2 of 384 x 512": [(384, 512)] * 2,
    "3 of 240 x 320, 320 x 240 and 200 x 300": [(240, 320), (320, 240), (200, 300)],
}
OURS, OURS_BF16, SAME_LAYOUT, AS_IT_COMES = "imbdet", "imbdet, bf16", "torchvision, channels last", "torchvision"
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "per_image", "box_beta": 0.0}
# torchvision rounds the sides of its anchors down to whole pixels.
SIZES = [[x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))] for x in (32, 64, 128, 256, 512)]


def torchvision_network() -> nn.Module:
    """torchvision's own, which takes images as they are."""
    torch.manual_seed(0)
    network: nn.Module = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, _skip_resize=True
    )
    return network


def our_network() -> RetinaNet:
    """This project's, with torchvision's weights."""
    backbone = build_backbone(Backbone(name="resnet50", weights="none", frozen="none"), (3, 7), "p5", fpn_channels=256)
    anchors = Anchors(SIZES, [0.5, 1.0, 2.0], (8, 16, 32, 64, 128))
    network = RetinaNet(backbone, CLASSES, anchors, MaxIoUAssigner(0.5, 0.4, "argmax"), build_method(FOCAL))
    network.load_state_dict(torchvision_network().state_dict())
    return network


def make_samples(sizes: Sequence[tuple[int, int]]) -> list[Sample]:
    """Noise of the sizes, with boxes of 16 pixels and more."""
    random = torch.Generator().manual_seed(0)
    samples = []
    for number, (height, width) in enumerate(sizes):
        whole = torch.tensor([width, height])
        side = 16 + torch.rand(BOXES, 2, generator=random) * (whole / 2 - 16)
        corner = torch.rand(BOXES, 2, generator=random) * (whole - side)
        boxes = torch.cat([corner, corner + side], dim=1)
        samples.append(noise(number, height, width, boxes, CLASSES, random))
    return samples


def our_losses(network: RetinaNet, samples: list[Sample], device: torch.device) -> Callable[[], dict[str, Tensor]]:
    """A call that pads the images, moves them to the device and returns the losses."""
    return lambda: network(collate(samples, PADDING, seed=0).to(device, non_blocking=True))


def their_losses(network: nn.Module, samples: list[Sample], device: torch.device) -> Callable[[], dict[str, Tensor]]:
    """The same of torchvision's network, on images of 0 to 1."""
    images = [sample.image / 255 for sample in samples]

    def call() -> dict[str, Tensor]:
        targets = [{"boxes": sample.boxes.to(device), "labels": sample.labels.to(device)} for sample in samples]
        losses: dict[str, Tensor] = network([image.to(device, non_blocking=True) for image in images], targets)
        return losses

    return call


def step(network: nn.Module, losses: Callable[[], dict[str, Tensor]], precision: str = "fp32") -> Subject:
    """A whole step; the rate is 0, so that the next one is of the same weights."""
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=0.0001)
    device = parameters[0].device.type

    def run() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            terms = losses()
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return Subject(run, parameters)


def make_subjects(sizes: Sequence[tuple[int, int]], device: torch.device) -> dict[str, Subject]:
    """The steps to compare on one batch."""
    samples = make_samples(sizes)
    ours, theirs, plain = our_network(), torchvision_network(), torchvision_network()
    for network in (ours, theirs):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ours, theirs, plain = (network.to(device).train() for network in (ours, theirs, plain))
    return {
        OURS: step(ours, our_losses(ours, samples, device)),
        SAME_LAYOUT: step(theirs, their_losses(theirs, samples, device)),
        AS_IT_COMES: step(plain, their_losses(plain, samples, device)),
        OURS_BF16: step(ours, our_losses(ours, samples, device), "bf16"),
    }


def seconds(subject: Subject) -> float:
    """Time of a step: of the processor, or with a GPU of the clock."""
    clock = time.perf_counter if subject.inputs[0].is_cuda else time.process_time
    subject.prepare()
    began = clock()
    subject.run()
    subject.wait()
    return clock() - began


def measure(scene: str, repetitions: int, device: torch.device, threads: int) -> dict[str, Any]:
    """Times of the steps on one batch, how this project's stand to the others', and the load before and after."""
    torch.set_num_threads(threads)
    load = os.getloadavg()[0]
    subjects = make_subjects(SCENES[scene], device)
    turns = [{name: seconds(subject) for name, subject in subjects.items()} for _ in range(repetitions + 1)]
    times = {name: [turn[name] for turn in turns[1:]] for name in subjects}  # the first warms up
    pairs = {"fp32": (OURS, SAME_LAYOUT), "fp32, as it comes": (OURS, AS_IT_COMES), "bf16 over fp32": (OURS_BF16, OURS)}
    return {
        "scene": scene,
        "padded": list(collate(make_samples(SCENES[scene]), PADDING).images.shape[-2:]),
        "hardware": hardware(device),
        "load_average": [load, os.getloadavg()[0]],
        "times_s": times,
        "median_s": {name: statistics.median(of_one) for name, of_one in times.items()},
        "ratios": {name: spread(times[a], times[b]) for name, (a, b) in pairs.items()},
    }


def spread(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """The median of the turns' ratios, with the smallest and the largest of them."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def make_record(scenes: Sequence[str], repetitions: int) -> dict[str, Any]:
    """Every scene on every device."""
    return {
        "settings": {"classes": CLASSES, "boxes": BOXES, "repetitions": repetitions},
        "versions": versions(),
        "results": [measure(scene, repetitions, device, number) for device, number in places([1]) for scene in scenes],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="turns")
    arguments = parser.parse_args()
    record = make_record(list(SCENES), arguments.repetitions)
    write_json(RECORD, record)
    for result in record["results"]:
        ratios = ", ".join(
            f"{name} {r['median']:.2f} ({r['least']:.2f} to {r['most']:.2f})" for name, r in result["ratios"].items()
        )
        print(f"{result['scene']}, {result['hardware']['device']}: {ratios}")


if __name__ == "__main__":
    main()
