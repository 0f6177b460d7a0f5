"""Studies, data sets of a few images and a small web server, for the tests of the data sources."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from range_server import Server
from studies import merged

from imbdet.config import Study
from imbdet.study_file import parse_study

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
TINY = Path(__file__).resolve().parents[1] / "pipeline" / "tiny.yaml"
# A pyramid up to P5: images are padded to a multiple of 32 pixels.
DETECTOR = {
    "p6_source": "none",
    "levels": [3, 5],
    "anchors": {"sizes": [[8], [16], [32]]},
    "short_side": 48,
    "long_side": 64,
}
SMALL = {
    "train": {"steps": 8, "batch_size": 4},
    "detectors": {"retinanet": DETECTOR},
    "evaluate": {"batch_size": 2},
}


@pytest.fixture
def shared() -> Path:
    """The folder of real images, where there is one."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared")
    return SHARED


@pytest.fixture
def data() -> dict[str, Any]:
    """Settings of a generated data set of 15 images."""
    sizes = {"image_size": 48, "train_images": 10, "val_images": 5, "classes": 4, "tail_exponent": 1.0}
    numbers = {"objects": [0, 4], "box_size": [0.15, 0.5], "distractors": [0, 2]}
    return {"source": "shapes", "folder": "data", "seed": 3, **sizes, **numbers}


@pytest.fixture
def make_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]) -> Callable[..., Study]:
    """Make studies whose files lie in a temporary folder: ``make_study(source, train={...}, ...)``."""
    monkeypatch.chdir(tmp_path)

    def make(source: dict[str, Any] | None = None, seed: int = 1, **changes: dict[str, Any]) -> Study:
        raw = yaml.safe_load(TINY.read_text()) | {"data": source or data, "seeds": [seed]}
        return parse_study(merged(merged(raw, SMALL), changes), name="test", where="test.yaml")

    return make


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    """A folder in COCO's format: three training images of different sizes and modes, two to validate on."""
    folder = tmp_path / "source"
    rng = np.random.default_rng(0)
    box = {"iscrowd": 0, "category_id": 7}
    splits = {
        "train": (
            [(11, "a/one.png", (40, 60)), (5, "two.jpg", (50, 30)), (8, "three.png", (20, 20))],
            [
                {"id": 1, "image_id": 11, "bbox": [1.5, 2, 10, 20], **box},
                {"id": 2, "image_id": 5, "bbox": [0, 0, 30, 50], **box, "category_id": 3},
                {"id": 3, "image_id": 11, "bbox": [20, 10, 30.25, 9], **box, "segmentation": [[1, 2, 3, 4, 5, 6]]},
                {"id": 4, "image_id": 11, "bbox": [30, 0, 20, 20], **box, "iscrowd": 1},
            ],
        ),
        "val": (
            [(1, "four.png", (32, 32)), (2, "five.png", (32, 48))],
            [{"id": 1, "image_id": 2, "bbox": [3, 3, 8, 8], **box}],
        ),
    }
    for split, (images, annotations) in splits.items():
        records = [{"id": i, "file_name": name, "height": h, "width": w} for i, name, (h, w) in images]
        for record in records:
            path = folder / split / str(record["file_name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (record["height"], record["width"], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        content = {
            "images": records,
            "annotations": annotations,
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Server]]:
    """Serve a folder: ``server = serve(folder)``; no proxy, no pause between attempts."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("imbdet.data.download.PAUSE", 0.0)
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        servers.append(Server(folder))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
