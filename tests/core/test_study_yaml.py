"""What a study's file may leave unquoted, how large its integers are, and the places that it may name."""

import pytest
from changed_study import REFUSED_WELL, TINY, load_changed, load_text, set_at
from promises import refused
from ruamel.yaml import YAML

READ = {
    "off": "off",
    "no": "no",
    "true": True,
    "1e-2": 0.01,
    "2E5": 200000.0,
    ".5": 0.5,
    "1_000": 1000,
    "010": 10,
    "0x1F": 31,
    "0o17": 15,
    "12:30": "12:30",
    "~": None,
}
WITH_DATES = {"2026-01-01": "2026-01-01"}  # a number or a text is expected wherever a study might have one


@pytest.mark.parametrize(("written", "value"), (READ | WITH_DATES).items())
def test_values_are_read_as_yaml_1_2_has_them(tmp_path, written, value):
    """As DVC does, which reads the same file."""
    text = TINY.read_text().replace("{name: focal, alpha: 0.25", f"{{name: focal, alpha: {written}")
    read = load_text(tmp_path, text).experiment("focal-g2.0").method["alpha"]
    assert (type(read), read) == (type(value), value)
    assert written in WITH_DATES or YAML(typ="safe").load(written) == value


def test_words_and_numbers_of_a_study_need_no_quotes(tmp_path):
    text = TINY.read_text().replace("low_quality: argmax", "low_quality: off").replace("lr: 0.01", "lr: 1e-2")
    study = load_text(tmp_path, text)
    assert study.detector("ce").assigner.low_quality == "off"
    assert study.train.optimizer.lr == 0.01


INTEGERS = [
    ("seeds", 0),
    ("data", "seed"),
    ("data", "image_size"),
    ("data", "objects", 1),
    ("data", "validation", "max_pixels"),
    ("detectors", "retinanet", "long_side"),
    ("detectors", "faster_rcnn", "rpn", "sampled"),
    ("detectors", "faster_rcnn", "roi", "sampled"),
    ("detectors", "faster_rcnn", "rpn", "training", "kept"),
    ("train", "steps"),
    ("train", "schedule", "warmup_steps"),
    ("evaluate", "batch_size"),
    ("loss_samples", "background"),
]


@REFUSED_WELL
@pytest.mark.parametrize("path", INTEGERS, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize(
    "value", [10**400, -(10**400), "1" + 400 * "0", 2**63], ids=["1e400", "-1e400", "text", "2**63"]
)
def test_integers_too_large_for_a_machine_are_refused(tmp_path, path, value):
    """Python has them, but neither floats nor tensors do."""

    def change(raw):
        raw["data"]["validation"] = {}
        raw["train"]["schedule"] = {"name": "multistep", "warmup_steps": 0, "milestones": [0.5], "factor": 0.1}
        set_at(path, value)(raw)

    with refused(r"mine.yaml: [\w.]+ is '?-?\d+'?: .*(64 bits|less than or equal|greater than or equal)") as error:
        load_changed(tmp_path, change)
    assert ".".join(map(str, path)) in str(error.value).replace(".shapes", "").replace(".multistep", "")


ELSEWHERE = ["~/coco", "~", "~user/coco", "$DATA/coco", "/data/${USER}/coco", "", " ", "s3://bucket/coco"]


@REFUSED_WELL
@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.parametrize("key", ["folder", "path"])
def test_places_that_only_a_shell_knows_are_refused(tmp_path, key, place):
    """No folder named ``~`` is made, and no record holds the home of the one who trained."""
    data = {"source": "coco_format", "folder": "data/mine", "path": "mine.zip", key: place}
    with refused(r"mine.yaml: data.*\.\w+ is '.*': .*(from the project's folder|expected a path)"):
        load_changed(tmp_path, set_at(["data"], data))


FOREIGN = {
    r"data\coco": r"a folder's name: write 'data/coco'",
    r"data/coco\train": r"write 'data/coco/train'",
    r"C:\data": r"from / or from the project's folder",
    "d:/data": r"from / or from the project's folder",
    "%USERPROFILE%/d": r"from / or from the project's folder",
    "/mnt/%TEMP%": r"from / or from the project's folder",
    "file:/x": r"such as file:/data: write /data",
    "FILE:x": r"such as file:/data: write /data",
    " data": r"write 'data'",
    "data ": r"write 'data'",
    "data/coco\t": r"write 'data/coco'",
}


@REFUSED_WELL
@pytest.mark.parametrize(("place", "advice"), FOREIGN.items())
@pytest.mark.parametrize("key", ["folder", "path"])
def test_places_that_would_become_names_of_folders_are_refused(tmp_path, key, place, advice):
    data = {"source": "coco_format", "folder": "data/mine", "path": "mine.zip", key: place}
    with refused(rf"mine.yaml: data.*\.{key} is '.*': .*{advice}"):
        load_changed(tmp_path, set_at(["data"], data))


PLACES = ["../shared/coco", "/mnt/a~b/x", "a$", "costs $ 5", "a$5", "50%", "a 5% b 10%", "files:x", "my data/coco"]


@pytest.mark.parametrize("place", PLACES)
def test_other_places_are_taken(tmp_path, place):
    assert load_changed(tmp_path, set_at(["data", "folder"], place)).data.folder == place
