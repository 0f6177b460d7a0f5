"""``python -m imbdet``: mistakes end with one line that says what to do, and exit code 1."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from imbdet.__main__ import main
from imbdet.layout import Layout
from imbdet.training.process import Process

METHOD = {"name": "cross_entropy", "activation": "sigmoid", "alpha": None, "prior_prob": 0.01}
METHOD |= {"normalizer": "batch", "box_beta": 0.0}


@pytest.fixture
def error(monkeypatch):
    """Run the command line and return the message that it ends with."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["imbdet", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code

    return command


def test_a_mistake_is_one_line_on_stderr_with_exit_code_1(config):
    arguments = [sys.executable, "-m", "imbdet", "train", config(), "focal-g3"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 1
    assert done.stdout == ""
    assert (
        done.stderr == "error: study tiny: no experiment 'focal-g3'; did you mean 'focal-g2.0'? Known: ce, focal-g2.0\n"
    )


@pytest.mark.parametrize("command", ["train", "detect", "evaluate", "loss-samples"])
def test_unknown_experiment_gets_the_nearest_names(error, config, command):
    message = error(command, config(), "focal-g2")
    assert message.startswith("error: ")
    assert "'focal-g2'" in message
    assert "did you mean 'focal-g2.0'" in message


def test_unknown_detector_gets_the_nearest_names(error, config):
    message = error("census", config(), "retina")
    assert message == "error: study tiny: no detector 'retina'; did you mean 'retinanet'? Known: retinanet"


def test_unknown_study(error, config):
    config()
    assert "no study config/tinny.yaml; did you mean 'config/tiny.yaml'" in error("train", "config/tinny.yaml", "ce")


def test_data_that_are_not_prepared(error, config, make_study):
    path = config()
    Layout.of(make_study()).manifest.unlink()
    assert "`python -m imbdet data` with the study's config makes it" in error("train", path, "ce")


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_annotations(error, config, make_study, split):
    path = config()
    file = Layout.of(make_study()).annotations(split)
    file.unlink()
    command = "train" if split == "train" else "detect"
    assert f"{file} does not exist; `python -m imbdet data`" in error(command, path, "ce")


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_image_is_named(error, config, make_study, workers):
    path = config(train={"workers": workers})
    image = min(Layout.of(make_study()).images("train").iterdir())
    image.unlink()
    assert f"image {image} is missing; run `python -m imbdet data`" in error("train", path, "ce")


def test_corrupt_image_is_named(error, config, make_study):
    path = config()
    image = min(Layout.of(make_study()).images("train").iterdir())
    image.write_bytes(image.read_bytes()[:100])
    assert f"image {image} cannot be read" in error("train", path, "ce")


@pytest.mark.parametrize("command", ["detect", "loss-samples"])
def test_missing_and_damaged_weights(error, config, make_study, command):
    path, weights = config(), Layout.of(make_study()).weights("ce")
    assert f"{weights} does not exist; train the experiment" in error(command, path, "ce")
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"not weights")
    assert f"{weights} cannot be read" in error(command, path, "ce")


def test_weights_of_another_detector(error, config, make_study, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["imbdet", "train", config(), "ce"])
    main()
    message = error("detect", config(detectors={"retinanet": {"fpn_channels": 16}}), "ce")
    assert f"{Layout.of(make_study()).weights('ce')} holds the weights of another detector" in message


def test_unknown_backbone(error, config):
    message = error(
        "train",
        config(detectors={"retinanet": {"backbone": {"name": "resnet5", "weights": "none", "frozen": "none"}}}),
        "ce",
    )
    assert "detector.backbone.name 'resnet5' does not exist; did you mean 'resnet50'" in message


def test_wrong_parameter_of_a_method_is_found_with_the_data(error, config):
    """The first command of a study checks every experiment, before any training."""
    path = config(experiments={"ce": {"methods": {"dense": METHOD | {"gama": 2}}}})
    message = error("data", path)
    assert "study tiny, experiment ce: method cross_entropy: unknown parameter 'gama'" in message


def test_batch_that_processes_cannot_share(error, config, monkeypatch):
    three = nullcontext(Process(0, 3, torch.device("cpu")))
    monkeypatch.setattr("imbdet.training.run.join_processes", lambda: three)
    assert "train.batch_size is 4: no multiple of the 3 processes" in error("train", config(), "ce")
