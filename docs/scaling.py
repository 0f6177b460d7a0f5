"""Write ``docs/scaling.md`` from the benchmark of throughput and published speeds: ``python docs/scaling.py``.

No measurement on the page is typed by hand: they come from ``results/benchmarks/throughput.json``, the schedule from
``config/coco.yaml``, published speeds with their source from ``benchmarks/published_speeds.csv``.
"""

import csv
import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

from imbdet.errors import UserError
from imbdet.files import write_text
from imbdet.study_file import load_study

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scaling.md"
RECORD = ROOT / "results" / "benchmarks" / "throughput.json"
PUBLISHED = ROOT / "benchmarks" / "published_speeds.csv"
STUDY = ROOT / "config" / "coco.yaml"
METHODS, SEEDS = 12, 3  # of the study whose cost is asked for, on each detector
UTILISATION = (0.1, 0.3)  # assumed share of a GPU's peak in bf16 that a training reaches
MODELS = {"retinanet": "RetinaNet R50 1x", "faster_rcnn": "Faster R-CNN R50-FPN 1x"}
FULL_PRECISION, *HALF_PRECISION = "V100 SXM2 fp32", "A100 bf16", "H100 SXM bf16"
PUBLISHED_GPUS = 8
PUBLISHED_SIDES = (640, 672, 704, 736, 768, 800)  # the shorter side, at random, of detectron2's training images

HEAD = """\
# Beyond one machine

Written by `python docs/scaling.py`.

## Through Slurm

    snakemake --workflow-profile profiles/slurm --config study=coco

in the project's environment, on a machine where `sbatch` works, in a folder that all nodes share.
[The profile](../profiles/slurm/profile.yaml) asks for a GPU, cores, memory and time rule by rule; put your account and
partition there. What runs a network is a job with `gpu` as a resource, whether or not the machine on which Snakemake
runs has one; everything else is a job without. As many run at once as the cluster gives. `make record` then writes the
run down for DVC, as after a run on one machine.

- **Preemption.** A training that gets SIGTERM writes a checkpoint and ends with exit code 143; the job is submitted
  again, twice, and resumes there. Where a cluster kills without a signal, what came after the last checkpoint
  (`train.checkpoint_every`) is lost.
- **One run in a folder.** `scratch/run.lock` is held by the Snakemake that submits, and `scratch/.../lock` by each
  training. Both are `flock`, which holds between nodes on NFS (Linux 2.6.12 and later), Lustre mounted with `flock`,
  and GPFS; on a file system without it, only your care keeps two runs apart.
- **Stopping.** Ctrl-C in Snakemake cancels its jobs, whose trainings write a checkpoint. kill -9 of Snakemake cannot:
  its jobs go on until they are done or `scancel` ends them, and the next run takes over what they have finished.

`make test-slurm` starts a Slurm of one node with a pretend GPU on this machine (as root, on Debian or Ubuntu), runs a
small study through the profile, cancels a training on the way, and compares the records up to evaluation with those of
a local run.

## Several GPUs in one training

    python -m imbdet train config/coco.yaml ce --processes 4

shares each batch of `train.batch_size` images among four GPUs of one machine, by torchrun; on a cluster, `gpu: 4` for
`train` in the profile does the same. It gives the loss curve of one GPU with the whole batch within the rounding of
fp32: divisors and running means are sums over all processes (the laws are in `tests/contract/test_distributed.py`, the
command itself is tried in `tests/training/test_processes.py`). Three things do depend on the number of processes: the
random sample of anchors and proposals, which each process draws for itself;
PISA's ranks, which are among the images of one process; and the padding of images of different sizes.

The trainings of a study do not depend on each other. With fewer GPUs than trainings, one GPU for each training loses
nothing to communication and is the better use.

## Several trainings on one GPU

    snakemake --resources gpu=8 --config study=imbalance-sweep

runs up to eight networks at once on one machine's GPU, each with an eighth of the cores. A small network leaves most of
a GPU idle; how many fit is a matter of its memory, and a training that runs out of it says so. This has not been
measured on a GPU yet; that Snakemake shares out as said is in `tests/pipeline/test_snakemake.py`.
"""
COST = """
## What the full COCO study costs

A comparison of {methods} methods on {detectors} detectors with {seeds} seeds: {runs} trainings, each with the schedule
of `config/coco.yaml`, {steps:,} steps of {batch} images; {images:,} images in all. (The file itself has one seed, and
experiments of its own choice: what `seeds` and the list have decides what you pay.) Plain cross entropy stands for all
methods, since the network takes most of the time ([what methods cost](benchmarks.md)). Reading images and evaluation
are not in the numbers.

### Measured

`python benchmarks/throughput.py`: {cpu}, one of {cores} cores, {precision}, PyTorch {torch}, {batch_measured} images
of {width}x{height} pixels a step. The time is the processor's, so that other work on the machine (its load was
{load:.1f}) counts little. An operation is an addition or a multiplication in a convolution or matrix product, forward
or backward.

{measured}
With {batch} images a step, and weight, gradient and momentum of each parameter, that is {memory}
of memory in {precision}, and less in the study's bf16.

### On the machine at hand

{machine}
So this study is not for this machine; `config/demo.yaml` and the sweep are.

### On GPUs: an estimate

Nobody has run this. The operations are measured; which share of a GPU's peak a training reaches is **assumed**:
{low:.0%} to {high:.0%} in bf16. The smaller number of operations is that of images of the commonest size, the larger
that of batches padded to the largest square. Hours are operations / (peak x share); days are those of eight GPUs, each
at work on trainings of its own.

{estimate}
### Published speeds, to compare with

detectron2 states the time of a step of 16 images at 640 to 800 pixels (here 600) on eight V100 in fp32. The same number
of steps, and of trainings, takes by it:

{published}
The last column is what the measured operations, in proportion to the pixels, say about it. In fp32, convolutions are
bound by arithmetic. Tensor cores compute so much faster that memory binds and the share falls, which is why less is
assumed above.

### Sources

{sources}"""


def main() -> None:
    write_text(PAGE, page(json.loads(RECORD.read_text(encoding="utf-8")), published()))


def published() -> dict[str, dict[str, str]]:
    """Rows of the published speeds by name."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def page(record: dict[str, Any], speeds: dict[str, dict[str, str]]) -> str:
    """The whole page. Raises :class:`UserError` for a record of a GPU, of which the text would not be true."""
    if record["hardware"]["device"] != "cpu":
        raise UserError(
            f"{RECORD.relative_to(ROOT)} was measured on {record['hardware']['device']}, but the page calls GPU hours "
            "an estimate and multiplies the time of a processor; rewrite COST in docs/scaling.py for measured ones"
        )
    train = load_study(STUDY).train
    images = train.steps * train.batch_size  # of a training
    rows, hardware, settings = record["results"], record["hardware"], record["settings"]
    runs = METHODS * SEEDS
    cost = COST.format(
        methods=METHODS,
        detectors=len(rows),
        seeds=SEEDS,
        runs=runs * len(rows),
        steps=train.steps,
        batch=train.batch_size,
        images=images * runs * len(rows),
        cpu=hardware["cpu"],
        cores=hardware["cores"],
        torch=record["versions"]["torch"],
        load=record["load_average"],
        precision=rows[0]["precision"],
        batch_measured=settings["images"],
        width=settings["width"],
        height=settings["height"],
        measured=_measured(rows),
        memory=" and ".join(_memory(row, train.batch_size) for row in rows),
        machine=_machine(rows, runs, images, hardware["cores"]),
        low=UTILISATION[0],
        high=UTILISATION[1],
        estimate=_estimate(rows, runs, images, speeds),
        published=_published(rows, runs, train.steps, train.batch_size, speeds),
        sources="".join(f"- {s['name']}, {s['value']} {s['unit']}: {s['source']}.\n" for s in speeds.values()),
    )
    return HEAD + cost


def _memory(row: dict[str, Any], batch: int) -> str:
    values = row["memory_an_image"] * batch + 3 * 4 * row["parameters"]
    return f"{values / 1e9:.1f} GB ({row['detector']})"


def _measured(rows: list[dict[str, Any]]) -> str:
    speeds = [row["operations_an_image"] / row["processor_seconds_an_image"] for row in rows]
    lines = {
        "million parameters": [f"{row['parameters'] / 1e6:.1f}" for row in rows],
        "padded to, pixels": ["{1} x {0}".format(*row["padded"]) for row in rows],
        "10^12 operations an image": [f"{row['operations_an_image'] / 1e12:.2f}" for row in rows],
        "padded most to, pixels": ["{1} x {0}".format(*row["largest_padded"]) for row in rows],
        "10^12 operations an image then": [f"{row['largest_operations_an_image'] / 1e12:.2f}" for row in rows],
        "s an image": [f"{row['processor_seconds_an_image']:.2f}" for row in rows],
        "10^9 operations a second": [f"{speed / 1e9:.0f}" for speed in speeds],
        "MB an image": [f"{row['memory_an_image'] / 1e6:.0f}" for row in rows],
    }
    return _table(["", *(row["detector"] for row in rows)], [[name, *cells] for name, cells in lines.items()])


def _machine(rows: list[dict[str, Any]], runs: int, images: int, cores: int) -> str:
    lines, total = [], 0.0
    for row in rows:
        hours = runs * images * row["processor_seconds_an_image"] / 3600
        total += hours
        seconds = f"{row['processor_seconds_an_image']:.2f}"
        lines.append([row["detector"], f"{runs} x {images:,} x {seconds} s", f"{hours:,.0f}", _years(hours / cores)])
    lines.append(["both", "", f"{total:,.0f}", _years(total / cores)])
    return _table(["detector", "trainings x images x time", "core hours", f"years on {cores} cores"], lines)


def _estimate(rows: list[dict[str, Any]], runs: int, images: int, speeds: dict[str, dict[str, str]]) -> str:
    keys = ("operations_an_image", "largest_operations_an_image")
    least, most = (runs * images * sum(row[key] for row in rows) for key in keys)
    low, high = UTILISATION
    lines = []
    for name in HALF_PRECISION:
        peak = float(speeds[name]["value"]) * 1e12
        hours = least / (peak * high) / 3600, most / (peak * low) / 3600
        days = f"{hours[0] / 8 / 24:.1f} to {hours[1] / 8 / 24:.1f}"
        operations = f"{least / 1e18:.0f} to {most / 1e18:.0f}"
        lines.append([name, operations, speeds[name]["value"], f"{hours[0]:,.0f} to {hours[1]:,.0f}", days])
    return _table(["GPU", "10^18 operations", "peak, 10^12 a second", "GPU hours", "days on eight"], lines)


def _published(rows: list[dict[str, Any]], runs: int, steps: int, batch: int, speeds: dict[str, dict[str, str]]) -> str:
    peak = float(speeds[FULL_PRECISION]["value"]) * 1e12 * PUBLISHED_GPUS
    lines, total = [], 0.0
    for row in rows:
        seconds = float(speeds[MODELS[row["detector"]]]["value"])
        hours = seconds * PUBLISHED_GPUS * steps / 3600
        total += runs * hours
        height, width = row["padded"]
        pixels = mean(side * math.ceil(side * 4 / 3 / 32) * 32 for side in PUBLISHED_SIDES)  # of 640x480, padded
        operations = row["operations_an_image"] * pixels / (height * width) * batch
        share = f"{operations / seconds / peak:.0%}"
        lines.append([MODELS[row["detector"]], f"{seconds:.3f} s", f"{hours:.0f}", f"{runs * hours:,.0f}", share])
    lines.append(["both", "", "", f"{total:,.0f}", ""])
    head = ["model", "a step", "GPU hours a training", f"GPU hours of {runs}", "share of the peak in fp32"]
    return _table(head, lines)


def _years(hours: float) -> str:
    return f"{hours / 24 / 365.25:.1f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in [header, ["---"] * len(header), *rows])


if __name__ == "__main__":
    main()
