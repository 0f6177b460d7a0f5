"""``python -m imbdet COMMAND config/STUDY.yaml [NAME]``: one step of a study, as Snakemake's rules run it."""

import argparse
import importlib
import sys
from pathlib import Path

from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.signals import end_with_parent
from imbdet.study_file import load_study
from imbdet.training.launch import left_to_parent, share_out

# Command: the function behind it, and what its NAME is.
COMMANDS = {
    "data": ("imbdet.data.prepare:prepare", None, "make or fetch the data set and check the study"),
    "features": ("imbdet.detectors.store_features:run", "detector", "compute the features of frozen backbones, once"),
    "census": ("imbdet.evaluation.census:run", "detector", "count foreground, background and ignored anchors"),
    "train": ("imbdet.training.run:run", "experiment", "train one experiment, or resume it"),
    "replay": ("imbdet.training.replay:run", "experiment", "repeat the step at which a loss was not finite"),
    "detect": ("imbdet.evaluation.detect:run", "experiment", "detect on the val split with trained weights"),
    "evaluate": ("imbdet.evaluation.coco_ap:run", "experiment", "AP, AR and counts from the detections"),
    "errors": ("imbdet.evaluation.errors:run", "experiment", "how much AP each kind of error costs"),
    "intervals": ("imbdet.evaluation.paired:run", None, "how sure each AP and each difference is"),
    "loss-samples": ("imbdet.evaluation.loss_samples:run", "experiment", "sample logits for the cumulative loss"),
    "inspect": ("imbdet.evaluation.inspection:run", "experiment", "how the method treats each candidate"),
    "funnel": ("imbdet.evaluation.funnel:run", "experiment", "count candidates from anchors to RoI sample"),
    "examples": ("imbdet.evaluation.examples:run", None, "pick the images of the example figure"),
    "figure": ("imbdet.figures:run", "figure", "draw one figure or table with its data"),
    "report": ("imbdet.report:run", None, "the whole study as one page, from its records and figures"),
}
OF_A_SWEEP = ("figure", "report")  # the commands that are of a sweep as a whole; others are of one of its conditions
RERUN = "repeat a training from its record alone and compare"


def main() -> None:
    """Run one command; mistakes in input end with their message and exit code 1, without a traceback."""
    parser = argparse.ArgumentParser(prog="imbdet", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, (_, name, text) in COMMANDS.items():
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument("study", help="path of the study, such as config/demo.yaml")
        if name:
            many = "?" if command == "features" else None  # by default all detectors
            sub.add_argument("name", metavar=name.upper(), nargs=many)
        sub.add_argument("--condition", default="", help="one of a sweep's, such as base")
        if name == "experiment":
            sub.add_argument("--seed", type=int, help="one of the study's, by default the first")
        if command == "train":
            sub.add_argument("--processes", type=int, default=1, help="that share each batch, one for each GPU")
    rerun = commands.add_parser("rerun", help=RERUN, description=RERUN)
    rerun.add_argument("record", type=Path, help="results/STUDY/EXPERIMENT/seed-N/training.json")
    arguments = parser.parse_args()
    try:
        end_with_parent()
        with left_to_parent():
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
    if arguments.condition or (study.sweep and arguments.command not in OF_A_SWEEP):
        study = study.at_condition(arguments.condition)
    if getattr(arguments, "seed", None) is not None:
        study = study.at_seed(arguments.seed)
    if arguments.command == "train":
        study.experiment(arguments.name)  # a typing mistake shall not cost the start of several processes
        share_out(arguments.processes)
    if arguments.command == "data":  # every study's first command: a typing mistake shall not cost a training
        importlib.import_module("imbdet.detectors").check_experiments(study)
    module, function = COMMANDS[arguments.command][0].split(":")
    rest = (arguments.name,) if "name" in arguments else ()
    getattr(importlib.import_module(module), function)(study, Layout.of(study), *rest)


if __name__ == "__main__":
    main()
