"""``python -m imbdet COMMAND config/STUDY.yaml [NAME]``: one step of a study, as Snakemake's rules run it."""

import argparse
import importlib
import sys
from pathlib import Path

from imbdet.config import load_study
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.signals import end_with_parent

# Command: the function behind it, and what its NAME is.
COMMANDS = {
    "data": ("imbdet.data.prepare:prepare", None, "make or fetch the data set and check the study"),
    "census": ("imbdet.evaluation.census:run", "detector", "count foreground, background and ignored anchors"),
    "train": ("imbdet.training.run:run", "experiment", "train one experiment, or resume it"),
    "replay": ("imbdet.training.replay:run", "experiment", "repeat the step at which a loss was not finite"),
    "detect": ("imbdet.evaluation.detect:run", "experiment", "detect on the val split with trained weights"),
    "evaluate": ("imbdet.evaluation.coco_ap:run", "experiment", "AP, AR and counts from the detections"),
    "loss-samples": ("imbdet.evaluation.loss_samples:run", "experiment", "sample logits for the cumulative loss"),
    "inspect": ("imbdet.evaluation.inspection:run", "experiment", "how the method treats each candidate"),
    "funnel": ("imbdet.evaluation.funnel:run", "experiment", "count candidates from anchors to RoI sample"),
    "examples": ("imbdet.evaluation.examples:run", None, "pick the images of the example figure"),
    "figure": ("imbdet.figures:run", "figure", "draw one figure or table with its data"),
}
RERUN = "repeat a training from its record alone and compare"


def main() -> None:
    """Run one command; mistakes in input end with their message and exit code 1, without a traceback."""
    parser = argparse.ArgumentParser(prog="imbdet", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, (_, name, text) in COMMANDS.items():
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("study", help="path of the study, such as config/demo.yaml")
        if name:
            sub.add_argument("name", metavar=name.upper())
    rerun = commands.add_parser("rerun", help=RERUN, description=RERUN)
    rerun.add_argument("record", type=Path, help="results/STUDY/EXPERIMENT/training.json")
    arguments = parser.parse_args()
    try:
        end_with_parent()
        _run(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "rerun":
        importlib.import_module("imbdet.training.rerun").run(arguments.record)
        return
    study = load_study(arguments.study)
    if arguments.command == "data":  # every study's first command: a typing mistake shall not cost a training
        importlib.import_module("imbdet.detectors").check_experiments(study)
    module, function = COMMANDS[arguments.command][0].split(":")
    rest = (arguments.name,) if "name" in arguments else ()
    getattr(importlib.import_module(module), function)(study, Layout.of(study), *rest)


if __name__ == "__main__":
    main()
