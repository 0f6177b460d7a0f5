"""The studies of COCO and LVIS as they stand: their data come from their servers, and a step of training runs."""

import json
import math
from pathlib import Path

import pytest
import yaml
from mirror import checksums, coco_mirror, lvis_mirror
from prepared import run as prepare
from studies import merged

from imbdet.detectors import check_experiments
from imbdet.layout import Layout
from imbdet.study_file import load_study, parse_study
from imbdet.training.run import run as train

ROOT = Path(__file__).resolve().parents[2]
# What a test cannot afford: large images and networks, weights from the network, compilers, worker processes.
SMALL = {"backbone": {"name": "resnet18", "weights": "none", "frozen": "none"}, "short_side": 64, "long_side": 96}
ONE_STEP = {
    "steps": 1,
    "schedule": {"warmup_steps": 0},
    "batch_size": 2,
    "workers": 0,
    "compile_loss": False,
    "tensorboard": False,
}
STEPS = {"coco": "focal-g2", "coco-subset": "faster-eql", "lvis": "eql"}


@pytest.mark.promise("The studies of COCO and LVIS run as they stand, from the download to a step of training", "law")
@pytest.mark.parametrize(("name", "experiment"), STEPS.items())
def test_a_study_takes_a_step(tmp_path, serve, monkeypatch, name, experiment):
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    server = serve(tmp_path / "remote")
    server.archives = (lvis_mirror if name == "lvis" else coco_mirror)(server.folder)
    addresses = {key: server.url for key in raw["data"] if key.endswith("_url")}
    subset = {"subset": {"train": 4, "val": 2}} if name == "coco-subset" else {}
    detectors = dict.fromkeys(raw["detectors"], SMALL)
    hashes = {"checksums": checksums(server.folder)}
    changed = merged(raw, {"data": addresses | hashes | subset, "detectors": detectors, "train": ONE_STEP})
    study = parse_study(changed, name, f"{name}.yaml")
    assert prepare(study)["splits"]["val"]["images"] == {"coco": 3, "coco-subset": 2, "lvis": 2}[name]
    layout = Layout.of(study)
    train(study, layout, experiment)
    header, row = (line.split(",") for line in layout.loss_curve(experiment).read_text().split())
    losses = {key: float(value) for key, value in zip(header, row, strict=True)}
    assert losses["step"] == 1
    assert all(map(math.isfinite, losses.values()))
    assert json.loads(layout.training(experiment).read_text())["config"]["data"] == study.data.model_dump(mode="json")


@pytest.mark.parametrize("name", STEPS)
def test_every_experiment_of_a_study_can_be_built(name):
    study = load_study(ROOT / "config" / f"{name}.yaml")
    check_experiments(study)
    assert study.data.base_url == "http://images.cocodataset.org"


def test_lvis_is_evaluated_as_lvis_does():
    study = load_study(ROOT / "config" / "lvis.yaml")
    assert study.evaluate.detections_per_image == 300
    assert study.evaluate.score_threshold <= 1e-4
    rare, common = (study.experiment(name).method["threshold"] for name in ("eql-rare", "eql"))
    images = 100_170  # of LVIS v1 train
    assert 10 / images < rare <= 11 / images
    assert 100 / images < common <= 101 / images
