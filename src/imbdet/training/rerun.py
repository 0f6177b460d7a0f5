"""``python -m imbdet rerun RECORD``: repeat a training from its record alone and compare what it gives.

Everything but the data is made below ``scratch/rerun``, so that no result is touched.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imbdet.config import STAGES, Study
from imbdet.data.prepare import prepare
from imbdet.detectors.store_features import run as store_features
from imbdet.errors import UserError
from imbdet.files import sha256
from imbdet.layout import Layout
from imbdet.study_file import parse_study
from imbdet.training import record
from imbdet.training.run import run as train

FOLDER = Path("scratch") / "rerun"
KEYS = ("study", "experiment", "config", "code", "versions", "hardware", "data_sha256", "weights_sha256")
# A training does not depend on these parts of a study; it is one only with them.
UNUSED: dict[str, Any] = {
    "evaluate": {
        "batch_size": 1,
        "score_threshold": 0.05,
        "nms_iou": 0.5,
        "candidates_per_level": 1,
        "detections_per_image": 1,
        "operating_score": 0.5,
    },
    "loss_samples": {"foreground": 1, "background": 1},
}


@dataclass(frozen=True)
class _Fresh(Layout):
    """The same files in a folder of their own; only the data are shared."""

    @property
    def results(self) -> Path:
        return FOLDER / super().results

    def weights(self, experiment: str) -> Path:
        return FOLDER / super().weights(experiment)

    def scratch(self, experiment: str) -> Path:
        return FOLDER / super().scratch(experiment)


def run(path: Path) -> None:
    """Repeat the training whose record is at ``path``; its data and features are made first where they are missing.

    Prints what differs from that run beforehand: commit, versions, hardware. Raises :class:`UserError` for a file that
    is no record of a training, and where weights or losses differ to the bit, naming where and the likely reasons.
    """
    old = _read(path)
    study, experiment = _study(old, path), old["experiment"]
    layout = _Fresh.of(study)
    prepare(study, layout)
    store_features(study, layout)
    here: dict[str, Any] = {
        "code": record.code(study, experiment),
        "versions": record.versions(),
        "data_sha256": sha256(layout.manifest),
    }
    reasons = record.differences({key: old[key] for key in here}, here)
    for reason in reasons:
        print(f"differs from the run of the record: {reason}", flush=True)
    if old["code"]["commit"] not in (None, here["code"]["commit"]):
        print(f"for its code: git checkout {old['code']['commit']}", flush=True)
    train(study, layout, experiment)
    new = json.loads(layout.training(experiment).read_text())
    reasons += record.differences(old["hardware"], new["hardware"], "hardware")
    curve = _first_difference(path.with_name("loss_curve.csv"), layout.loss_curve(experiment))
    if old["weights_sha256"] == new["weights_sha256"] and not curve:
        print(f"identical to the bit: weights (sha256 {new['weights_sha256']}) and loss curve of {experiment}")
        return
    raise UserError(
        f"{experiment} differs from {path}: weights have sha256 {new['weights_sha256']}, recorded is "
        f"{old['weights_sha256']}; {curve or 'the loss curve is the same'}. Likely reasons: "
        f"{'; '.join(reasons) or 'none known, as code, data, versions and hardware are those of the record'}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text())
    except OSError as error:
        expected = "expected results/STUDY/EXPERIMENT/seed-N/training.json"
        raise UserError(f"{path} cannot be read: {error.strerror}; {expected}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); expected a training.json as a training wrote it") from None
    missing = [key for key in KEYS if key not in content] if isinstance(content, dict) else list(KEYS)
    if missing:
        raise UserError(
            f"{path} is not the record of a training, or of an earlier version: it lacks {', '.join(missing)}. Train "
            "again to have a record that can be repeated"
        )
    record_of_training: dict[str, Any] = content
    return record_of_training


def _study(old: dict[str, Any], path: Path) -> Study:
    """A study of the record's one experiment."""
    config, name = dict(old["config"]), old["experiment"]
    try:
        methods, detector, seed = config.pop("methods"), config.pop("detector"), config.pop("seed")
        stages = STAGES[detector["name"]]
    except KeyError as error:
        raise UserError(f"{path}: config lacks {error}; expected a training.json as a training wrote it") from None
    methods = {stage: methods[stage] for stage in stages if stage in methods}  # JSON has its keys sorted
    experiment = {"label": name, "detector": "detector", "methods": methods}
    raw = UNUSED | config | {"seeds": [seed], "description": f"rerun of {path}", "detectors": {"detector": detector}}
    raw |= {"report": {"precision_recall": [], "detections": []}}
    try:
        return parse_study(
            raw | {"experiments": {name: experiment}}, name=str(old["study"]).replace("/", "-"), where=f"{path}: config"
        )
    except UserError as error:
        raise UserError(
            f"{error}\nThis version reads no such configuration; that of the record does: git checkout "
            f"{old['code']['commit']}"
        ) from None


def _first_difference(recorded: Path, repeated: Path) -> str | None:
    """Where the loss curves part, in words; None for equal ones, or where there is none beside the record."""
    if not recorded.exists():
        return None
    rows = [path.read_text().splitlines() for path in (recorded, repeated)]
    for there, here in zip(*rows, strict=False):
        if there != here:
            return f"the loss curve ({rows[0][0]}) parts with the row {there}, here {here}"
    return None if len(rows[0]) == len(rows[1]) else f"the loss curve has {len(rows[0])} lines, here {len(rows[1])}"
