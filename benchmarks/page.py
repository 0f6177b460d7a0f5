"""Write ``docs/benchmarks.md`` from the records of the benchmarks: ``python benchmarks/page.py``.

Every number on the page comes from ``results/benchmarks``; none is typed by hand.
"""

import json
from pathlib import Path
from typing import Any

from imbdet.errors import UserError
from imbdet.files import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
NAMES = ("methods", "focal_loss", "evaluation", "intervals", "training_step")
RECORDS = [ROOT / "results" / "benchmarks" / f"{name}.json" for name in NAMES]
TARGET = 3  # times the first of the group

HEAD = """\
# What the methods and the evaluation cost

Written by `python benchmarks/page.py` from the records in `results/benchmarks`. Times of methods are of forward and
backward together, from matched candidates to the gradients; the network is not in them.

**Everything here was measured on a CPU; there are no numbers from a GPU yet.** On a GPU large sums are faster and many
small steps slower, so that its ratios will be others. The scripts use a GPU where there is one.

What is compared takes turns in one process, and a ratio is the median of the turns' ratios, so that other work on the
machine slows all alike. Memory is the peak beyond what was there before, over the bytes of the logits. Waits are
operators that would stop the host until a GPU has finished; their number must not grow with that of the images.
"""
METHODS = """
## Methods beside plain cross entropy

`python benchmarks/methods.py`, with the recipes of `config/coco.yaml`. {machine} {repetitions} turns. The
classification losses are the eager ones. Compiled, they are several times faster (below), while what a method adds
costs the same, so that the ratios are higher.
"""
GROUPS = {
    "dense, sigmoid": """\
All anchors of {dense_images} images with {anchors:,} each, {foreground} of them foreground; sigmoid columns of
{classes} classes. The NMS of OHEM runs again, on twice as many anchors, where too few are left, and waits three times
each time.""",
    "dense, softmax": "The same with softmax, the background's column last.",
    "RoI, softmax": """\
{sampled} proposals of each of {roi_images} images, at most a quarter of them foreground; offsets by class.""",
    "RoI, sigmoid": "The same with sigmoid columns.",
    "sampling proposals": """\
Choosing out of {proposals:,} proposals of each of {roi_images} images. The papers' samplers need the head's predictions
for all of them. These are given here: the head's forward pass that they cost is not in the times. It is far longer,
with 28 million operations a proposal in the two layers of Faster R-CNN's head.""",
    "assigning anchors": """\
Matching the {anchors:,} anchors of {dense_images} images with their boxes. The rule of noisy anchors looks for the best
box of each anchor, as the other does, and then for the best anchors of each box.""",
}
REASONS = {
    "sample_weighting": """\
The method runs a small network on every candidate: on one number, the classification loss, for background anchors, and
on all seven for every RoI and for the anchors in the room kept for foreground. Its layers of 64 values cost more than
the loss of {classes} classes. On a CPU they are computed block by block, and again in backward, which takes less time
than to keep them, and no memory.""",
    "HardExamples": """\
Random sampling sorts random numbers. OHEM computes the losses of all proposals, sorts them, and suppresses overlaps
among the hardest, one after the other.""",
    "ScoreHLRSampler": """\
PISA takes the softmax of all proposals, suppresses overlaps among the negatives above its score floor, compares what is
suppressed with what is left, and ranks both.""",
}
OVER = """
### What needs more than {target} times the first line with one thread, and why

"""
FOCAL = """
## The focal loss alone

`python benchmarks/focal_loss.py`: {rows:,} anchors (an image of 800x1344 pixels), {classes} classes. {machine}
{repetitions} turns.

"""


TRAINING_STEP = """
## A training step beside torchvision's

`python benchmarks/training_step.py`: RetinaNet on ResNet-50-FPN with the same weights, images and boxes, from separate
images to new weights. {machine} {repetitions} turns; processor times. Channels last is the layout in memory in which
this project trains; smallest and largest ratio of a turn in brackets. bf16 is faster where the processor has
instructions for it.

"""
RATIOS = {
    "fp32": "times torchvision's, channels last",
    "fp32, as it comes": "times torchvision's, as it comes",
    "bf16 over fp32": "bf16, times fp32",
}

EVALUATION = """
## Evaluation

`python benchmarks/evaluation.py`: a made-up set of the size of val2017, {images:,} images with {boxes:,} boxes of
{classes} classes and {detections:,} detections. {machine} {repetitions} turns.

Every number that is reported comes from pycocotools; the evaluator for training has to give the same in less time. The
target is that pycocotools takes at least {target} times as long, also where it is asked for these three numbers only.

"""
EVALUATION_TARGET = 8
WAYS = {
    "reference": "pycocotools, all that a record holds",
    "reference, AP alone": "pycocotools, AP, AP50 and AP75",
    "library": "faster-coco-eval by its own classes, AP, AP50 and AP75",
    "fast": "the evaluator for training, AP, AP50 and AP75",
}

INTERVALS = """
## Intervals

`python benchmarks/intervals.py`: the paired bootstrap of two methods on a made-up set of the size of val2017,
{images:,} images with {boxes:,} boxes of {classes} classes, {detections:,} detections of each method and {resamples:,}
resamples, on {cores} cores. {machine} {repetitions} turns.

The target is {target} s for two methods, matching included, on two cores that do nothing else. CPU is the time of all
cores together. The plain loop was timed for {plain_resamples} resamples, and its time multiplied up.

"""
INTERVALS_TARGET = 15
STEPS = {
    "two methods": "two methods: matching, resampling, intervals, difference",
    "matching": "matching of one method",
    "resampling": "resampling of one method",
    "plain NumPy": "resampling of one method, a curve for each resample, class and threshold in plain NumPy",
}


def main() -> None:
    write_text(PAGE, page(*(json.loads(path.read_text(encoding="utf-8")) for path in RECORDS)))


def page(
    methods: dict[str, Any],
    focal: dict[str, Any],
    evaluation: dict[str, Any],
    intervals: dict[str, Any],
    training_step: dict[str, Any],
) -> str:
    """The page's text. Each argument is the record of the script of that name (``focal_loss.py``)."""
    parts = [HEAD, METHODS.format(**methods["settings"], machine=_machine(methods))]
    for title, about in GROUPS.items():
        heading = f"\n**{title[0].upper()}{title[1:]}.** {about.format(**methods['settings'])}\n\n"
        parts.append(heading + _methods_table(methods, title))
    parts.append(_over(methods))
    parts.append(FOCAL.format(**focal["settings"], machine=_machine(focal)) + _focal_table(focal))
    highest = max(load for result in training_step["results"] for load in result["load_average"])
    machine = _machine(training_step | {"load_average": highest})
    about = TRAINING_STEP.format(**training_step["settings"], machine=machine)
    parts.append(about + _training_step_table(training_step))
    machine = _machine(evaluation, ("pycocotools", "faster-coco-eval"))
    about = EVALUATION.format(**evaluation["settings"], machine=machine, target=EVALUATION_TARGET)
    parts.append(about + _evaluation_table(evaluation))
    about = INTERVALS.format(**intervals["settings"], machine=_machine(intervals, ("numpy",)), target=INTERVALS_TARGET)
    parts.append(about + _intervals_table(intervals))
    return "".join(parts)


def _methods_table(record: dict[str, Any], title: str) -> str:
    """One line for each member of a group, with the times of every device and number of threads."""
    results, waits = record["results"], record["waits"]
    times = [column for result in results for column in (f"ms, {_place(result)}", "times the first")]
    lines = [["", *times, "extra memory / logits", "waits, batch", "waits, one image"]]
    rows = list(zip(*(result["rows"] for result in results), strict=True))
    for of_results, batch, one in zip(rows, waits["batch"], waits["one_image"], strict=True):
        if of_results[0]["group"] == title:
            numbers = [text for row in of_results for text in (f"{row['median_ms']:.1f}", f"{row['ratio']:.2f}")]
            memory = f"{of_results[0]['extra_memory']:.1f}"
            lines.append([f"`{of_results[0]['name']}`", *numbers, memory, str(batch), str(one)])
    return _table(lines)


def _over(record: dict[str, Any]) -> str:
    """Which need more than the target, and why; the reason is that for the name before a bracket."""
    over: dict[str, list[str]] = {}
    for row in record["results"][0]["rows"]:
        if row["ratio"] > TARGET:
            over.setdefault(row["name"].split(" (")[0], []).append(f"{row['ratio']:.1f} in {row['group']}")
    if missing := over.keys() - REASONS.keys():
        raise UserError(
            f"results/benchmarks/methods.json: {', '.join(sorted(missing))} needs more than {TARGET} times the first "
            "of its group; make it faster, or say why it does in REASONS of benchmarks/page.py"
        )
    reasons = {name: REASONS[name].format(**record["settings"]).replace("\n", "\n  ") for name in over}
    lines = [f"- `{name}`: {'; '.join(ratios)}. {reasons[name]}\n" for name, ratios in over.items()]
    return OVER.format(target=TARGET) + "".join(lines)


def _focal_table(record: dict[str, Any]) -> str:
    lines = [["", "path", "ms", "times faster", "extra memory / logits", "first call, s"]]
    for result in record["results"]:
        for name, median in result["median_ms"].items():
            rest = result["speed_up"][name], result["extra_memory"][name], result["first_call_s"][name]
            lines.append([_place(result), name, f"{median:.1f}", *(f"{value:.2f}" for value in rest)])
    return _table(lines)


def _training_step_table(record: dict[str, Any]) -> str:
    lines = [["images", "padded to", "this project, s", *RATIOS.values()]]
    for result in record["results"]:
        padded = " x ".join(map(str, result["padded"]))
        ratios = [f"{r['median']:.2f} ({r['least']:.2f} to {r['most']:.2f})" for r in map(result["ratios"].get, RATIOS)]
        lines.append([result["scene"], padded, f"{result['median_s']['imbdet']:.2f}", *ratios])
    return _table(lines)


def _evaluation_table(record: dict[str, Any]) -> str:
    lines = [["", "s", "times the evaluator for training", "largest difference of an AP from the reference"]]
    for row in record["results"][0]["rows"]:
        numbers = f"{row['median_s']:.2f}", f"{row['times_fast']:.1f}", f"{row['largest_difference']:.1g}"
        lines.append([WAYS[row["name"]], *numbers])
    return _table(lines)


def _intervals_table(record: dict[str, Any]) -> str:
    lines = [["", "s", "CPU, s", "times the resampling", "the same, CPU"]]
    for row in record["results"][0]["rows"]:
        times = [f"{row[key]:.1f}" for key in ("median_s", "median_cpu_s", "times_resampling", "cpu_times_resampling")]
        lines.append([STEPS[row["name"]], *times])
    return _table(lines)


def _table(lines: list[list[str]]) -> str:
    header, *rows = lines
    return "".join("| " + " | ".join(line) + " |\n" for line in [header, ["---"] * len(header), *rows])


def _machine(record: dict[str, Any], packages: tuple[str, ...] = ("torch", "torchvision")) -> str:
    results, versions = record["results"], record["versions"]
    devices = dict.fromkeys(f"{r['hardware']['cpu']}, {r['hardware']['cores']} cores" for r in results)
    names = ", ".join(f"{'PyTorch' if name == 'torch' else name} {versions[name]}" for name in packages)
    if "load_average" in record:
        load = f"{record['load_average']:.1f}"
    else:
        spans = [(_place(r), *r["load_average"]) for r in results]
        load = ", ".join(f"{before:.1f} to {after:.1f} ({place})" for place, before, after in spans)
    return f"Measured on {' and '.join(devices)}, {names}, at a load of {load}."


def _place(result: dict[str, Any]) -> str:
    hardware = result["hardware"]
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
    return threads if hardware["device"] == "cpu" else hardware["device"]


if __name__ == "__main__":
    main()
