"""What a study's file may leave unquoted, and the places that it may name."""

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


ELSEWHERE = ["~/coco", "~", "~user/coco", "$DATA/coco", "/data/${USER}/coco", "", " ", "s3://bucket/coco"]


@REFUSED_WELL
@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.parametrize("key", ["folder", "path"])
def test_places_that_only_a_shell_knows_are_refused(tmp_path, key, place):
    """No folder named ``~`` is made, and no record holds the home of the one who trained."""
    data = {"source": "coco_format", "folder": "data/mine", "path": "mine.zip", key: place}
    with refused(r"mine.yaml: data.*\.\w+ is '.*': .*(from the project's folder|expected a path)"):
        load_changed(tmp_path, set_at(["data"], data))


@pytest.mark.parametrize("place", ["../shared/coco", "/mnt/a~b/x", "a$", "costs $ 5"])
def test_other_places_are_taken(tmp_path, place):
    assert load_changed(tmp_path, set_at(["data", "folder"], place)).data.folder == place
