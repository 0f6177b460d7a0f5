"""A study on eight photographs of noise, none of them square, with a detector of random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from studies import merged

from imbdet.config import Study
from imbdet.data.facts import read_facts
from imbdet.data.prepare import prepare
from imbdet.detectors import build_detector
from imbdet.detectors.retinanet import RetinaNet
from imbdet.files import write_bytes
from imbdet.layout import Layout
from imbdet.study_file import parse_study
from imbdet.training.checkpoint import serialise

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
EXPERIMENT = "ce"
CATEGORIES = {3: "cat", 7: "dog", 40: "eel"}
SIZES = [(100, 60), (48, 80), (64, 64), (37, 120)]  # height, width


def source(folder: Path) -> None:
    """Write both splits in COCO's format: 0 to 3 boxes an image, one of them crowded."""
    rng = np.random.default_rng(5)
    for split in ("train", "val"):
        images, annotations = [], []
        for i, (height, width) in enumerate(SIZES):
            images.append({"id": 10 * i + 4, "file_name": f"{i}.png", "height": height, "width": width})
            path = folder / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
            for k in range(i):
                side = np.array([width, height]) * rng.uniform(0.2, 0.6, 2)
                corner = rng.uniform(0, np.array([width, height]) - side)
                box = [*corner.tolist(), *side.tolist()]
                category = int(rng.choice(list(CATEGORIES), p=[0.6, 0.4, 0]))
                crowd = int((i, k) == (3, 0))
                row = {"id": len(annotations) + 1, "image_id": 10 * i + 4, "category_id": category, "bbox": box}
                annotations.append(row | {"iscrowd": crowd, "area": box[2] * box[3]})
        categories = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def small_study(tmp_path: Path, **changes: dict[str, Any]) -> tuple[Study, Layout]:
    """The prepared study below ``tmp_path``, which is the current folder, with some of its values changed."""
    torch.set_num_threads(1)
    if not (tmp_path / "source").exists():
        source(tmp_path / "source")
    raw = yaml.safe_load(TINY.read_text())
    raw["data"] = {"source": "coco_format", "folder": "data", "path": "source"}
    sizes = {"detectors": {"retinanet": {"short_side": 60, "long_side": 110}}, "evaluate": {"batch_size": 3}}
    raw = merged(merged(raw, sizes), changes)
    study = parse_study(raw, name="small", where="small.yaml")
    layout = Layout.of(study)
    if not layout.manifest.exists():
        prepare(study, layout)
    return study, layout


def random_detector(study: Study, layout: Layout) -> RetinaNet:
    """A detector whose logits and offsets vary as a trained one's do."""
    torch.manual_seed(0)
    model = build_detector(study, EXPERIMENT, read_facts(layout)).eval()
    assert isinstance(model, RetinaNet)
    head = model.head
    for module in head.modules():  # their own initial weights shrink an image's features to nothing
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        outputs = head(list(model.backbone(torch.randn(1, 3, 128, 128)).values()))
        head.classification_head.cls_logits.weight *= 2 / outputs["cls_logits"].std()
        head.regression_head.bbox_reg.weight *= 0.3 / outputs["bbox_regression"].std()
    return model


def with_random_weights(study: Study, layout: Layout) -> RetinaNet:
    """The same detector, its weights written where a training would."""
    model = random_detector(study, layout)
    write_bytes(layout.weights(EXPERIMENT), serialise(model.state_dict()))
    return model


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The temporary folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
