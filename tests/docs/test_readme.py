"""The README's code is the tested example, its commands exist, and its verdicts are those of the records."""

import re
import shutil
from pathlib import Path

import pandas as pd

from imbdet.study_file import load_study

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_code_is_that_of_the_tested_example() -> None:
    example = (ROOT / "examples" / "own_torchvision_model.py").read_text().split("\n\n", 1)[1].strip()
    assert f"```python\n{example}\n```" in README


def test_the_study_with_a_base_is_a_whole_study(tmp_path: Path) -> None:
    """With what the text says of it."""
    text = re.search(r"```yaml\n(base: voc-pilot\n.*?)```", README, re.DOTALL)
    assert text
    for name in ("voc-pilot", "coco"):  # the base, and its base
        shutil.copy(ROOT / "config" / f"{name}.yaml", tmp_path)
    (tmp_path / "voc-small.yaml").write_text(text[1])
    base, study = (load_study(tmp_path / f"{name}.yaml") for name in ("voc-pilot", "voc-small"))
    assert base.experiments.keys() - study.experiments.keys() == {"ce"}
    assert study.experiments["focal-g2"].method == base.experiments["focal-g2"].method | {"gamma": 1.5}
    assert {detector.short_side for detector in study.detectors.values()} == {192}
    assert study.train == base.train


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= targets


def test_it_has_the_verdicts_of_the_committed_records() -> None:
    counts = pd.read_csv(ROOT / "paper_figures" / "claims" / "verdicts.csv")["verdict"].value_counts()
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
    agree, disagree, untold = (int(counts.get(verdict, 0)) for verdict in ("agrees", "disagrees", "cannot tell"))
    told = ((agree, "agree"), (disagree, "disagree"))
    clauses = [f"{words[count]} {verb}{'s' * (count < 2)}" for count, verb in told]
    assert f"{', '.join(clauses)}, of {words[untold]} the study cannot tell" in README
    assert f"{words[counts.sum()]} claims" in README
    signs = (
        pd.read_csv(ROOT / "paper_figures" / study / "verdicts.csv").set_index("claim")["difference"] > 0
        for study in ("claims", "demo-seeds")
    )
    both = pd.concat(signs, axis=1, join="inner")
    assert (both.iloc[:, 0] != both.iloc[:, 1]).any(), "signs differ in the demo's set-up"
