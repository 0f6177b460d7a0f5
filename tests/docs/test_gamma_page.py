"""docs/gamma.md: made from the data of its study's figure, and its sentences hold of the committed records."""

import json
from contextlib import chdir

import fabricate
import pandas as pd
import pytest
import yaml
from pages import ROOT, read

from imbdet import figures
from imbdet.evaluation.inspection import EASY
from imbdet.layout import Layout
from imbdet.study_file import load_study


@pytest.fixture
def project(tmp_path):
    """A project whose study of gamma is fabricated, with its figure."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "demo.yaml").write_text(yaml.safe_dump(fabricate.raw_study(), sort_keys=False))
    study = load_study(tmp_path / "config" / "demo.yaml")
    with chdir(tmp_path):
        fabricate.write(study, Layout.of(study))
        figures.run(study, Layout.of(study), "gamma")
    return tmp_path


def test_generated_part_holds_the_numbers_of_the_records(build, project):
    text = read("gamma.md")
    page = build.gamma_page(text, project)
    assert build.gamma_page(page, project) == page
    assert page.startswith(text.partition(build.BEGIN)[0])
    assert page.endswith(text.partition(build.END)[2])
    assert "](../paper_figures/demo/gamma.png)" in page
    assert "These are not COCO results." in page
    found = json.loads((project / "results/demo/intervals.json").read_text())["experiments"]["focal-g5"]["AP"]
    value, low, high = (f"{100 * found[key]:.1f}" for key in ("value", "low", "high"))
    assert f"| 5 | 0.25 | 32.2 | {value} ({low} to {high}) |" in page


def test_generated_part_is_that_of_the_committed_figure(build):
    text = read("gamma.md")
    assert text == build.gamma_page(text, ROOT), "run `python docs/build.py` and commit docs/gamma.md"


def test_factors_in_the_text_are_those_of_the_formula():
    """At p_t = 0.9 and 0.5 for γ = 2 and 5, and at 0.7 for γ = 5."""
    text = " ".join(read("gamma.md").split())
    assert "$p_t = 0.9$ loses a factor of 100 and one with $p_t = 0.5$ a factor of 4. At γ = 5" in text
    assert [(1 - p) ** -2 for p in (0.9, 0.5)] == pytest.approx([100, 4])
    assert "the same two lose factors of 100,000 and 32, and one with $p_t = 0.7$" in text
    assert [(1 - p) ** -5 for p in (0.9, 0.5)] == pytest.approx([100_000, 32])
    assert "loses a factor of about 400" in text
    assert [(1 - p) ** -5 for p in (0.7,)] == pytest.approx([400], rel=0.05)


def test_sentences_hold_of_the_committed_records(build):
    """Those of the sections on the setting and on the gradient."""
    study = load_study(ROOT / "config" / "demo.yaml")
    layout = Layout.of(study)
    shares = {name: pd.read_csv(ROOT / layout.gradient_shares(name)) for name in study.report.gamma}
    parts = [table[table["by"] == "difficulty"] for table in shares.values()]  # γ rises
    results = {name: json.loads((ROOT / layout.evaluation(name)).read_text()) for name in study.experiments}

    by_gamma = [results[name]["AP"] for name in study.report.gamma]
    by_alpha = [results[name]["AP"] for name in study.report.alpha]
    assert len(study.seeds) == 1
    assert by_gamma[2:] == sorted(by_gamma[2:], reverse=True), "γ = 1, 2, 5: the greater is the worse one"
    assert max(by_gamma) == max(by_gamma[:2]), "the best γ is lower than the paper's"
    assert max(by_alpha) - min(by_alpha) > 0.8 * (max(by_gamma) - min(by_gamma)), "α moves AP about as far as γ"
    assert results["ce-a0.75"]["AP"] < max(by_alpha), "the best α is not the paper's"

    foreground = [part.loc[part["set"] == "foreground", "gradient"].sum() for part in parts]
    assert all(0.4 < share < 0.6 for share in foreground), "even"
    assert EASY < 1 - 0.01, "training starts with easy background"
    easy = [part.loc[part["value"] == "easy", "logits"].sum() for part in parts]
    assert easy[0] > 0.99
    assert min(easy) == easy[-1] < 0.75, "a large part is easy no longer"
    of_background = [part[part["set"] == "background"].set_index("value")["gradient"] for part in parts]
    assert of_background[-1]["easy"] < 0.1 * of_background[0]["easy"]
    assert of_background[-1]["middling"] > 2 * of_background[0]["middling"]
    limit = study.evaluate.detections_per_image
    last = results[study.report.gamma[-1]]
    assert last["detections"] == limit * last["images"], "detections of every image fill their limit"
    left = [part["gradient"].sum() / part["cross_entropy"].sum() for part in parts]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.01, "less than one percent"
    curve = pd.read_csv(ROOT / layout.loss_curve(study.report.gamma[-1])).iloc[-1]
    assert curve["box_regression"] > 2 * curve["classification"], "the box loss is by far the greater part"
