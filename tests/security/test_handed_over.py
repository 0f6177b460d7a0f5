"""Files and names that a stranger wrote: code in them never runs, and they are refused with a message."""

import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from promises import refused
from studies import merged

from imbdet.evaluation.detections import Detections
from imbdet.pipeline import Pipeline
from imbdet.study_file import load_study
from imbdet.training.checkpoint import load_tensors

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "pipeline" / "tiny.yaml"
PICKLE = pytest.mark.promise("Code in weights, checkpoints or detections that were handed over never runs", "bad input")
YAML = pytest.mark.promise("Code, bombs and binary files in place of a study are refused at once", "bad input")
NAMES = pytest.mark.promise("Names and paths that a shell could take for more are refused", "bad input")
SECRETS = pytest.mark.promise("A password in a study's address is refused before a tool writes it down", "bad input")


class Bomb:
    """Makes the folder ``ran`` in the current one when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path, monkeypatch):
    """The test's folder as the current one, in which no code has left its mark when the test ends."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists()


def test_the_bomb_would_go_off(tmp_path):
    pickle.loads(pickle.dumps(Bomb()))
    (tmp_path / "ran").rmdir()


@PICKLE
@pytest.mark.parametrize("content", [Bomb(), {"model": Bomb()}, [torch.zeros(2), Bomb()]])
def test_a_checkpoint_with_code_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with refused(r"weights\.pt cannot be read"):
        load_tensors(tmp_path / "weights.pt", torch.device("cpu"))


@PICKLE
def test_a_bare_pickle_in_place_of_weights_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Bomb()))
    with refused(r"weights\.pt cannot be read"):
        load_tensors(tmp_path / "weights.pt", torch.device("cpu"))


@PICKLE
@pytest.mark.parametrize("name", ["image_id", "category_id", "bbox", "score", "annotations"])
def test_detections_with_code_are_refused(tmp_path, name):
    path = tmp_path / "detections.npz"
    annotations = tmp_path / "instances_val.json"
    annotations.write_text("{}")
    Detections.concatenate([]).save(path, annotations)
    with np.load(path) as archive:
        columns = dict(archive)
    assert name in columns
    np.savez(path, **columns | {name: np.array([Bomb()], dtype=object)})
    with refused(r"detections\.npz is not a whole file of detections: Object arrays cannot be loaded"):
        Detections.load(path, annotations)


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
FILES = {
    "a command": ("seed: !!python/object/apply:os.mkdir ['ran']\n", r"not valid YAML: .*python/object/apply:os\.mkdir"),
    "a module": ("seed: !!python/module:antigravity\n", r"not valid YAML: .*could not determine a constructor"),
    "an object": ("seed: !!python/object/new:os.mkdir ['ran']\n", r"not valid YAML: .*python/object/new:os\.mkdir"),
    "billions of aliases": (ALIASES, r"more than 100,000 values once its aliases"),
    "an alias of itself": ("a: &a [*a]\n", r"more than 100,000 values once its aliases"),
    "brackets": ("a: " + "[" * 50_000, r"nested more than 20 levels"),
    "levels": ("".join(" " * i + "k:\n" for i in range(900)), r"nested more than 20 levels"),
    "megabytes": ("# nothing\n" * 200_000, r"larger than 1,000,000 bytes"),
    "bytes": (b"\x80\x04\x95seed", r"is not UTF-8 text: invalid start byte at byte 0"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), r"is not UTF-8 text"),
    "a zero byte": ("seed: 1\0\n", r"not valid YAML: unacceptable character"),
}


@pytest.fixture
def usual_recursion():
    """Python's own limit of recursion, as commands have it: libraries of tests that ran before may have raised it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(limit)


@YAML
@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_study_that_is_no_study_is_refused_at_once(tmp_path, usual_recursion, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    began = time.monotonic()
    with refused(f"(?s)mine\\.yaml .*{message}"):
        load_study(path)
    assert time.monotonic() - began < 10


@YAML
def test_a_folder_is_no_study(tmp_path):
    with refused(r"cannot be read: Is a directory; expected a file config/STUDY\.yaml"):
        load_study(tmp_path)


def write(path, changes):
    """The tiny study with changes, below the current folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(TINY.read_text()), changes), sort_keys=False))
    return path


def test_a_symbolic_link_to_a_study_is_one(tmp_path):
    (tmp_path / "mine.yaml").symlink_to(write(tmp_path / "elsewhere" / "other.yaml", {}))
    assert load_study(tmp_path / "mine.yaml").name == "mine"


WORDS = [
    "a b",
    "a;mkdir ran",
    "$(mkdir ran)",
    "`mkdir ran`",
    "a'b",
    'a"b',
    "a\nb",
    "a\n",
    "-rf",
    "--help",
    "..",
    "../a",
]
WORDS += ["a/b", "a|b", "a&b", "a>b", "{a}", "${a}", "a*", ""]


@NAMES
@pytest.mark.parametrize("kind", ["experiments", "detectors"])
@pytest.mark.parametrize("name", WORDS)
def test_names_are_plain_words(tmp_path, kind, name):
    values = yaml.safe_load(TINY.read_text())[kind]
    with refused(r"mine\.yaml: (experiments|detectors)\.(?s:.*): String should match pattern"):
        load_study(write(tmp_path / "mine.yaml", {kind: {name: next(iter(values.values()))}}))


@NAMES
@pytest.mark.parametrize("name", [word for word in WORDS if word and "/" not in word and word != ".."])
def test_a_studys_own_name_is_a_plain_word(tmp_path, name):
    with refused(r"\.yaml: name is .*String should match pattern"):
        load_study(write(tmp_path / f"{name}.yaml", {}))


@NAMES
@pytest.mark.parametrize("path", [word for word in WORDS if word not in ("..", "../a", "a/b", "")])
def test_folders_are_plain_paths(path):
    with refused(
        r"path .*: expected letters, digits and \._-/ only, and no - in front|data\.folder is .* (a shell's|blank at)"
    ):
        Pipeline(write(Path("config/mine.yaml"), {"data": {"folder": path}}))
    with refused(r"path .*: expected letters, digits and \._-/ only, and no - in front"):
        Pipeline(write(Path(path) / "mine.yaml", {}))


ADDRESSES = {
    "base_url": "http://me:hush@some.host",
    "proxy": "http://hush@proxy.host:3128",
    "url": "http://me:hush@some.host/mine.zip",
}


@SECRETS
@pytest.mark.parametrize(("key", "address"), ADDRESSES.items(), ids=ADDRESSES)
def test_a_password_in_an_address_is_refused_and_not_shown(key, address):
    source = {"source": "coco_format", "sha256": "0" * 64} if key == "url" else {"source": "coco2017"}
    raw = yaml.safe_load(TINY.read_text()) | {"data": {"folder": "data/mine", key: address, **source}}
    Path("mine.yaml").write_text(yaml.safe_dump(raw))
    with refused(r"mine\.yaml: data\.\w+ holds a user's name or password, .*HTTPS_PROXY") as error:
        Pipeline(Path("mine.yaml"))
    assert f"data.{key} " in str(error.value)
    assert "hush" not in str(error.value)
