"""What each method costs beside plain cross entropy, on the samples of a dense head and of an RoI head.

    python benchmarks/methods.py

Times are of forward and backward together, from matched candidates to the gradients of logits, offsets and weights, at
the recipes of ``config/coco.yaml``; the network is not in them. What belongs together takes turns in one process and is
compared with the first of its group: the same candidates and logits through plain cross entropy. The samplers and the
assigner of papers stand beside the library's own; samplers are given the predictions for all proposals, so that the
head's forward pass, which those of the papers need, is not in it. On a CPU one thread is the least disturbed by other
work; ``--threads`` takes other numbers.

Memory is the peak beyond what was there, over the bytes of the logits of the group's batch. Waits are the operators
that need values or a size on the host, where a GPU would have to finish first: counted on the CPU, for the batch and
for one of a single image. The record goes to ``results/benchmarks/methods.json``, tables to the terminal;
``python benchmarks/page.py`` makes ``docs/benchmarks.md`` of it.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import scenes
import torch
import torchvision
import yaml
from measuring import Subject, extra_bytes, places, ratio, seconds, size, take_turns

from imbdet.assigners import Assigner
from imbdet.files import write_json
from imbdet.methods import Method, build_method
from imbdet.samplers import RandomSampler, Sampler
from imbdet.samples import Samples
from imbdet.study_file import load_study
from imbdet.training.record import hardware, versions

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
from host_syncs import Watch  # noqa: E402  the contract tests' own guard

GROUP_BY_GROUP, NMS_AT_ONCE = torchvision.ops.boxes._batched_nms_vanilla, 25_000
RECORD = Path("results/benchmarks/methods.json")
# Shares of images that hold each class; they fall off much as in LVIS.
FREQUENCY = [0.5 / (1 + j) ** 1.5 for j in range(scenes.CLASSES)]


class Waits(Watch):
    """Counts suppression as well, whose operator does not say that it waits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.torchvision.nms.default:
            self.waiting.append("nms")
        return super().__torch_dispatch__(func, types, args, kwargs)


def read_specs() -> dict[str, dict[str, dict[str, Any]]]:
    """The parameters of each method in each group."""
    study = load_study(ROOT / "config" / "coco.yaml")
    groups = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

    def whole(entry: dict[str, Any]) -> dict[str, Any]:
        name = entry.pop("experiment", None)
        return {**study.experiment(name).method, **entry} if name else entry

    return {title: {name: whole(entry) for name, entry in group.items()} for title, group in groups.items()}


def training(method: Method, samples: Samples) -> Subject:
    """Forward and backward of a method; of a copy, as samples remember what has been asked of them."""
    return Subject(
        lambda: sum(method(replace(samples)).values()).backward(),
        (samples.logits, samples.deltas, *method.parameters()),
    )


def sampling(sampler: Sampler, samples: Samples) -> Subject:
    """A sampler alone, with the predictions for all proposals at hand."""

    @torch.no_grad()
    def run() -> None:
        fresh = replace(samples)
        sampler(fresh, lambda: fresh, samples.generator)

    return Subject(run, (samples.logits,))


def assigning(assigner: Assigner, samples: Samples) -> Subject:
    """The matching of a batch's anchors with the boxes that its samples were drawn for."""
    anchors = samples.priors[: len(samples.priors) // samples.num_images]
    truth = scenes.draw_truth(samples.num_images, torch.Generator().manual_seed(0))
    tensors = {name: x.to(anchors.device) for name, x in vars(truth).items() if isinstance(x, torch.Tensor)}
    truth = replace(truth, **tensors)
    return Subject(lambda: assigner(anchors, truth), (samples.logits,))


def make_groups(sizes: Mapping[str, int], device: torch.device) -> dict[str, dict[str, Subject]]:
    """The subjects of each group, the one that the others are compared with first."""
    groups = {}
    for title, specs in read_specs().items():
        stage, activation = title.split(", ")
        torch.manual_seed(0)  # of the weights that a method learns
        methods = {name: build_method(spec, FREQUENCY).to(device) for name, spec in specs.items()}
        if stage == "dense":
            samples = scenes.dense_samples(sizes["dense_images"], sizes["anchors"], sizes["foreground"], activation)
        else:
            samples = scenes.roi_samples(sizes["roi_images"], sizes["proposals"], sizes["sampled"], activation)
        samples = scenes.to(samples, device)
        groups[title] = {name: training(method, samples) for name, method in methods.items()}
        if own := [rule for method in methods.values() if (rule := method.assigner())]:
            rules = [scenes.MAX_IOU, *own]
            groups["assigning anchors"] = {type(rule).__name__: assigning(rule, samples) for rule in rules}
        if own := [rule for method in methods.values() if (rule := method.sampler())]:
            rules = [RandomSampler(sizes["sampled"], scenes.FOREGROUND_SHARE), *own]
            every = scenes.to(scenes.proposal_samples(sizes["roi_images"], sizes["proposals"], activation), device)
            groups["sampling proposals"] = {type(rule).__name__: sampling(rule, every) for rule in rules}
    return groups


def measure(sizes: Mapping[str, int], repetitions: int, device: torch.device, threads: int) -> dict[str, Any]:
    """Times, ratios and memory of every subject on one device, and the machine's load before and after."""
    torch.set_num_threads(threads)
    load, rows = [os.getloadavg()[0]], []
    for title, subjects in make_groups(sizes, device).items():
        for subject in subjects.values():
            seconds(subject)  # warms up
        times = take_turns(subjects, repetitions)
        baseline = next(iter(subjects))
        rows += [
            {
                "group": title,
                "name": name,
                "times_ms": [1000 * t for t in times[name]],
                "median_ms": 1000 * statistics.median(times[name]),
                "ratio": ratio(times[name], times[baseline]),
                "extra_memory": extra_bytes(subject) / size(subject.inputs[0]),
            }
            for name, subject in subjects.items()
        ]
    return {"hardware": hardware(device), "load_average": [*load, os.getloadavg()[0]], "rows": rows}


def suppress_as_on_a_gpu(boxes: torch.Tensor, *rest: Any) -> torch.Tensor:
    """torchvision suppresses up to 25,000 boxes of all groups at once on a GPU; on a CPU 1,000, more group by group."""
    many = len(boxes) > NMS_AT_ONCE
    result: torch.Tensor = (GROUP_BY_GROUP if many else torchvision.ops.boxes._batched_nms_coordinate_trick)(
        boxes, *rest
    )
    return result


@mock.patch.object(torchvision.ops.boxes, "_batched_nms_vanilla", suppress_as_on_a_gpu)
def count_waits(sizes: Mapping[str, int]) -> list[int]:
    """Operators of one run that wait for the device, of every subject in the order of :func:`measure`."""
    counts = []
    for subjects in make_groups(sizes, torch.device("cpu")).values():
        for subject in subjects.values():
            subject.prepare()
            with Waits() as watch:
                subject.run()
            counts.append(len(watch.waiting))
    return counts


def make_record(sizes: dict[str, int], repetitions: int, threads: Sequence[int]) -> dict[str, Any]:
    """Everything measured; the waits of a batch and of one image are in the order of each result's rows."""
    single = sizes | {"dense_images": 1, "roi_images": 1}
    return {
        "settings": {**sizes, "classes": scenes.CLASSES, "repetitions": repetitions},
        "specs": read_specs(),
        "versions": versions(),
        "waits": {"batch": count_waits(sizes), "one_image": count_waits(single)},
        "results": [measure(sizes, repetitions, device, number) for device, number in places(threads)],
    }


def table(result: dict[str, Any], waits: dict[str, list[int]]) -> str:
    """One device's result as Markdown."""
    lines = [
        "| group | what | time, ms | times the first | extra memory / logits | waits, batch | waits, one image |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, batch, one in zip(result["rows"], waits["batch"], waits["one_image"], strict=True):
        numbers = f"{row['median_ms']:.1f} | {row['ratio']:.2f} | {row['extra_memory']:.2f} | {batch} | {one}"
        lines.append(f"| {row['group']} | {row['name']} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense-images", type=int, default=4)
    parser.add_argument("--anchors", type=int, default=50_000, help="of an image")
    parser.add_argument("--foreground", type=int, default=200, help="anchors of an image")
    parser.add_argument("--roi-images", type=int, default=16)
    parser.add_argument("--proposals", type=int, default=2000, help="of an image, before sampling")
    parser.add_argument("--sampled", type=int, default=512, help="proposals of an image")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    sizes = vars(parser.parse_args())
    record = make_record(sizes, sizes.pop("repetitions"), sizes.pop("threads"))
    write_json(RECORD, record)
    for result in record["results"]:
        print(f"{result['hardware']['device']}, {result['hardware']['threads']} threads\n")
        print(table(result, record["waits"]))


if __name__ == "__main__":
    main()
