"""Trainings in processes of their own that kill themselves, or are killed, at a chosen moment.

``forkserver`` starts a process within milliseconds, with everything imported, from a process that has done nothing
else. The kills are real: SIGKILL to the training process.
"""

import hashlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
import yaml
from studies import ADDED, RPN, merged
from torch.optim.lr_scheduler import LambdaLR

from imbdet.config import method_names
from imbdet.evaluation import coco_ap, detect
from imbdet.layout import Layout
from imbdet.seeding import generator
from imbdet.study_file import parse_study
from imbdet.training import run as training

TESTS = Path(__file__).resolve().parents[1]
CASES = runpy.run_path(str(TESTS / "contract" / "contract_cases.py"))["CASES"]
NAME = "killed"
STEPS = 6
TRAIN = {"steps": STEPS, "batch_size": 4, "log_every": 3, "checkpoint_every": 2}
RENAMES = 6  # in a training: fingerprint.json, two checkpoints, weights, curve, record

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["imbdet.evaluation.coco_ap", "imbdet.evaluation.detect", *(f"imbdet.methods.{name}" for name in method_names())]
)


def one_case_a_method_and_stage():
    """Names of contract cases: the first of each method at each of its stages."""
    first = {}
    for case, (stage, spec) in CASES.items():
        first.setdefault((spec["name"], stage), case)
    return list(first.values())


def raw_study(case, **train):
    """The tiny study's mapping with one more experiment, of the case's method at its stage."""
    raw = merged(yaml.safe_load((TESTS / "pipeline" / "tiny.yaml").read_text()), {"train": TRAIN | train})
    stage, spec = CASES[case]
    spec = spec | {"box_beta": 0.11}
    if stage == "dense":
        experiment = {"label": NAME, "detector": "retinanet", "methods": {"dense": spec}}
    else:
        raw = merged(raw, {"detectors": ADDED["detectors"]})
        head = {"name": "cross_entropy", "activation": "softmax", "alpha": None, "prior_prob": None}
        methods = {"rpn": RPN, "roi": head | {"normalizer": "sampled", "box_beta": 0.0}} | {stage: spec}
        experiment = {"label": NAME, "detector": "faster_rcnn", "methods": methods}
    return merged(raw, {"experiments": {NAME: experiment}})


def draw_moment(seed, *ids):
    """A random moment of a training: at a share of its time, around a rename, within a step."""
    random = generator(seed, "kill", *ids)
    kind = random.choice(["time", "before rename", "after rename", "in a step"], p=[0.25, 0.3, 0.25, 0.2])
    if kind == "time":
        return kind, float(random.random())
    if kind == "in a step":
        return kind, int(random.integers(1, STEPS + 1))
    return kind, int(random.integers(1, RENAMES + 1))


def _kill_at(call, owner, name, after):
    """Have the ``call``-th call of a function kill this process, before or after it does its work."""
    original, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


def exact(value):
    """A nested value with every tensor as type, shape, strides and hash: equal for equal bits alone.

    Pickle's bytes also tell whether two equal strings are one object, which a resume changes.
    """
    if isinstance(value, torch.Tensor):
        raw = value.detach().flatten().contiguous().view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), value.stride(), hashlib.sha256(raw).hexdigest()
    if isinstance(value, dict):
        return {key: exact(part) for key, part in value.items()}
    return [exact(part) for part in value] if isinstance(value, list | tuple) else value


def _train(folder, raw, name, moment, begun):
    """What the process does: train in ``folder``, then detect and evaluate; the state at the end is kept beside."""
    multiprocessing.set_start_method("fork", force=True)  # of the workers, as in a command
    os.setsid()  # a group of its own, as a shell makes one for a command
    os.chdir(folder)
    sys.stdout = sys.stderr = open("output.txt", "a", buffering=1)  # noqa: SIM115
    torch.set_num_threads(1)
    write = training._write

    def write_with_state(study, layout, experiment, state, *rest):
        Path("state.txt").write_text(repr(exact(state.content())))
        write(study, layout, experiment, state, *rest)

    training._write = write_with_state
    study = parse_study(raw, "tiny", "tiny.yaml")
    layout = Layout.of(study)
    kind, when = moment or (None, None)
    if kind == "in a step":
        _kill_at(when, LambdaLR, "step", after=False)
    elif kind in ("before rename", "after rename"):
        _kill_at(when, os, "replace", after=kind == "after rename")
    begun.set()
    training.run(study, layout, name)
    detect.run(study, layout, name)
    coco_ap.run(study, layout, name)


def start(folder, raw, name=NAME, moment=None):
    """Start a training in a process and return it when the process is about to train."""
    begun = processes.Event()
    process = processes.Process(target=_train, args=(folder, raw, name, moment, begun))
    process.start()
    assert begun.wait(60)
    return process


def train(folder, raw, moment=None, seconds=None):
    """Train in a process; with a moment, until it is killed. Returns the exit code and the seconds that it took.

    ``seconds``: what a whole training takes, for a kill at a share of its time.
    """
    process, began = start(folder, raw, moment=moment), time.perf_counter()
    if moment and moment[0] == "time":
        process.join(moment[1] * seconds)
        process.kill()
    process.join(120)
    return process.exitcode, time.perf_counter() - began


def outputs(folder):
    """Every file that a training and its evaluation leave, by path; of the record what was not measured."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        content = path.read_bytes()
        if path.name == "training.json":
            content = {key: value for key, value in json.loads(content).items() if key != "measured"}
        if not name.startswith(("data/", "output.txt")):
            found[name] = content
    return found


def copy_of(prepared, folder):
    shutil.copytree(prepared, folder, symlinks=True)
    return folder
