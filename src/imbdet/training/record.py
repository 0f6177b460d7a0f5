"""What a run's record says besides its results: enough to repeat it."""

import hashlib
import json
import os
import platform
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from imbdet.config import Study, method_modules
from imbdet.files import sha256
from imbdet.layout import Layout
from imbdet.sources import sources

HOW = ("workers", "checkpoint_every", "tensorboard")  # values of train that change how a training runs, not its result
INPUTS = (":/src", ":/config", ":/requirements.lock")  # what a run writes is no change of what it was made from
PACKAGES = ("torch", "torchvision", "numpy", "pycocotools")


def configuration(study: Study, experiment: str) -> dict[str, Any]:
    """The parts of a study that determine one training, and all that a rerun needs."""
    settings = study.training(experiment)
    evaluate = {"evaluate": study.evaluate.model_dump(mode="json")} if settings.evaluate_every else {}
    return evaluate | {
        "seed": study.seed,
        "data": study.data.model_dump(mode="json"),
        "train": settings.model_dump(mode="json"),
        "detector": study.detector(experiment).model_dump(mode="json", exclude={"train"}),
        "methods": study.experiment(experiment).methods,
    }


def origin(study: Study, layout: Layout, experiment: str) -> dict[str, Any]:
    """What a training is determined by: its configuration and the hashes of its data and code, as JSON has them."""
    config = configuration(study, experiment)
    parts = {
        "config": config | {"train": {key: value for key, value in config["train"].items() if key not in HOW}},
        "data_sha256": sha256(layout.manifest),
        "code_sha256": code_sha256(study, experiment),
    }
    if weights := study.detector(experiment).backbone.file:
        parts["backbone_sha256"] = sha256(weights)
    result: dict[str, Any] = json.loads(json.dumps(parts))
    return result


def fingerprint(origin: dict[str, Any]) -> str:
    """Hash of what determines a training."""
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:16]


def differences(there: Any, here: Any, key: str = "") -> list[str]:
    """Each value that differs between two nested mappings, such as ``train.steps: 6 there, 7 here``."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(there.keys() | here.keys())
        return [line for k in keys for line in differences(there.get(k), here.get(k), f"{key}.{k}".lstrip("."))]
    return [] if there == here else [f"{key.removeprefix('config.')}: {there} there, {here} here"]


def code_sha256(study: Study, experiment: str) -> str:
    """Hash of the sources that training imports, the experiment's own methods among them."""
    files = sources("imbdet.training.run", *method_modules(study, experiment), root=Path(__file__).parents[2])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def code(study: Study, experiment: str) -> dict[str, Any]:
    """Commit of the working tree, whether its code or settings differ from it, and the hash of the sources."""
    status = _git("status", "--porcelain", "--untracked-files=no", "--", *INPUTS)
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "sources_sha256": code_sha256(study, experiment),
    }


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def hardware(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "cpu": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """Largest resident memory of this process and, on a GPU, largest memory held there, in MB (1e6 bytes)."""
    memory = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}
    if device.type == "cuda":
        memory["device"] = torch.cuda.max_memory_allocated(device) / 1e6
    return {key: round(value) for key, value in memory.items()}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
