"""The check of committed figures: nothing to say about what was just drawn, and a line for everything that differs."""

import re

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from imbdet import figures
from imbdet.figures import analytic, derivatives


@pytest.fixture
def few(monkeypatch):
    """Only some figures, since each check redraws all."""

    def choose(*names):
        monkeypatch.setattr(figures, "FIGURES", dict.fromkeys(names))

    return choose


def test_what_was_drawn_is_right(project, study, layout):
    assert figures.check(study, layout) == []


def test_everything_that_differs_is_named_once(project, study, layout, few):
    few("census", "focal_loss_pt", "derivatives", "results", "structure", "alpha_ablation")
    folder = layout.figures
    for path in folder.iterdir():
        if path.stem not in figures.FIGURES:
            path.unlink()
    changes = {
        "census.csv": lambda text: text.replace(",60\n", ",61\n", 1),
        "derivatives.csv": lambda text: text.replace("value", "values", 1),
        "structure.svg": lambda text: text.replace("<!-- heads -->", "<!-- tails -->"),
        "results.md": lambda text: text.replace("25.0", "25.1"),
        "alpha_ablation.tex": lambda text: text + "%",
    }
    for name, change in changes.items():
        before = (folder / name).read_text()
        assert change(before) != before
        (folder / name).write_text(change(before))
    (folder / "focal_loss_pt.png").unlink()
    (folder / "old_figure.png").touch()
    found = figures.check(study, layout)
    named = sorted(re.match(r"[^:]*/([^:]*):", line)[1] for line in found)
    assert named == sorted([*changes, "focal_loss_pt.png", "old_figure.png"])
    assert any("redraw it with `python -m imbdet figure config/fabricated.yaml census`" in line for line in found)


def test_a_hair_more_than_gamma_is_caught_in_the_data(project, study, layout, few, monkeypatch):
    few("focal_loss_pt")
    exact = analytic.focal_loss_of_probability
    monkeypatch.setattr(analytic, "focal_loss_of_probability", lambda p_t, gamma: exact(p_t, gamma * 1.0005))
    found = [line for line in figures.check(study, layout) if "belongs to no figure" not in line]
    assert any("focal_loss_pt.csv: loss of row" in line for line in found)
    assert not any("focal_loss_pt.png" in line for line in found)


def test_rounding_of_another_machine_is_no_difference(project, study, layout, few, monkeypatch):
    few("focal_loss_pt")
    exact = analytic.focal_loss_of_probability
    monkeypatch.setattr(analytic, "focal_loss_of_probability", lambda p_t, gamma: exact(p_t, gamma) * (1 + 1e-13))
    assert not [line for line in figures.check(study, layout) if "focal_loss_pt" in line]


def test_changed_drawing_code_is_caught_in_the_pixels(project, study, layout, few, monkeypatch):
    few("derivatives")
    monkeypatch.setattr(derivatives.style, "DASHES", ("-",))
    assert any("derivatives.png: pixels differ" in line for line in figures.check(study, layout))


def test_a_curve_moved_by_a_pixel_is_caught_and_faint_noise_is_not(project, study, layout, few):
    few("derivatives")
    path = layout.figures / "derivatives.png"
    image = imread(path)
    rng = np.random.default_rng(0)
    imsave(path, np.clip(image + rng.normal(0, 0.5 / 255, image.shape), 0, 1))
    assert not [line for line in figures.check(study, layout) if "derivatives" in line]
    imsave(path, np.roll(image, 1, axis=0))
    assert any("derivatives.png: pixels differ" in line for line in figures.check(study, layout))


def test_a_changed_record_is_caught(project, study, layout, few):
    few("structure")
    record = layout.structure("retinanet")
    record.write_text(record.read_text().replace("412345", "412346"))
    found = figures.check(study, layout)
    assert any("structure.csv: detector_parameters of row 0 is 412345, redrawn 412346" in line for line in found)
    assert any("structure.rst: another text" in line for line in found)
