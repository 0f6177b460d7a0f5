"""The page says what the records say, all of it as text, and asks nothing of anybody."""

import contextlib
import csv
import io
import json
import re
import tomllib
from pathlib import Path
from statistics import fmean
from urllib.parse import unquote

import made_up_study
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Page
from promises import refused

from imbdet import figures, report
from imbdet.evaluation.errors import ERRORS
from imbdet.figures import captions
from imbdet.figures.tables import Column
from imbdet.layout import Layout
from imbdet.report import pictures, results
from imbdet.report.page import build
from imbdet.report.tables import as_number
from imbdet.study_file import load_study

ROOT = Path(__file__).parents[2]
NUMBERS = pytest.mark.promise("Every number of the report is the mean of its records, to the last bit", "law")
TEXT = pytest.mark.promise("Names and labels in the report are shown as text, whatever they hold", "law")
RECORDS = pytest.mark.promise("A report of no records, or of those of another run, is refused", "bad input")


@pytest.fixture(scope="module")
def html(built, study):
    with contextlib.chdir(built):
        return Layout.of(study).report.read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def records(root, study, kind):
    """A kind of record of each experiment, in the study's order, by seed."""
    layout = Layout.of(study)
    with contextlib.chdir(root):
        return [
            [json.loads(getattr(layout.at_seed(seed), kind)(name).read_text()) for seed in study.seeds]
            for name in study.experiments
        ]


def assert_means(cells, values, text):
    """Cells hold the means of the values of their row, and show them and the single ones in a format."""
    assert len(cells) == len(values)
    for cell, row in zip(cells, values, strict=True):
        known = [value for value in row if value is not None]
        assert cell.value == (fmean(known) if known else None)
        assert cell.text == (text(fmean(known)) if known else "–")
        assert cell.small.split("\n")[-1] == (" · ".join(map(text, known)) if len(known) > 1 else "")


def in_percent(value):
    return f"{100 * value:.1f}"


@NUMBERS
@pytest.mark.parametrize("key", [key for key in made_up_study.METRICS if "small" not in key and "medium" not in key])
def test_metrics_are_those_of_the_evaluations(built, study, page, key):
    values = [[record[key] for record in seeds] for seeds in records(built, study, "evaluation")]
    cells = page.table("recall of every experiment").column(key.replace("_", " "))
    assert_means(cells, values, in_percent)


@NUMBERS
def test_sizes_are_those_of_the_evaluations(built, study, page):
    table = page.table("size of the objects")
    assert table.headings == ["experiment", "small", "medium", "small", "medium", "detector", "source"]
    for place, key in enumerate(("AP_small", "AP_medium", "AR_small", "AR_medium"), start=1):
        values = [[record[key] for record in seeds] for seeds in records(built, study, "evaluation")]
        assert_means([row[place] for row in table.rows], values, in_percent)


@NUMBERS
def test_classes_are_those_of_the_evaluations(built, study, page):
    for place, name in enumerate(made_up_study.CLASSES):
        found = records(built, study, "evaluation")
        values = [[record["per_class"][place]["AP"] for record in seeds] for seeds in found]
        assert_means(page.table("by class").column(name), values, in_percent)


@pytest.mark.parametrize("columns", [True, False])
def test_classes_of_one_name_are_not_taken_for_seeds(folder, study, monkeypatch, columns):
    """Each has a column or, of many, a row of its own, with the values of its own seeds; and its own colour."""
    monkeypatch.setattr(made_up_study, "CLASSES", ("disc", "ring", "disc"))
    monkeypatch.setattr(results, "MANY", 20 if columns else 1)
    made_up_study.write(study)
    layout, values = Layout.of(study), {}
    for path in sorted(layout.results.rglob("evaluation.json")):
        for row in json.loads(path.read_text())["per_class"]:
            values.setdefault((path.parts[-3], row["category_id"]), []).append(row["AP"])
    page = Page(build(study, layout))
    table = page.table("by class")
    shown = {1: "disc (1)", 2: "ring", 3: "disc (3)"}
    if columns:
        assert table.headings[1:4] == list(shown.values())
    else:
        assert [cell.text for cell in table.column("class")] == list(shown.values())
    for place, experiment in enumerate(study.experiments):
        own = [values[experiment, key] for key in shown]
        cells = table.rows[place][1:4] if columns else [row[2 + place] for row in table.rows]
        assert_means(cells, own, in_percent)
    examples = json.loads(layout.examples.read_text())
    for box in examples["images"][0]["ground_truth"]:
        box["category_id"] = 3
    layout.examples.write_text(json.dumps(examples))
    categories = json.loads(Page(build(study, layout)).scripts[0])["categories"]
    assert {int(key): category["name"] for key, category in categories.items()} == shown
    assert len({category["colour"] for category in categories.values()}) == 3


@pytest.mark.parametrize("names", [("0", "01", "0.10"), ("", " ", "NA"), ("$", "nan", "a\\$b$"), (5, None, True)])
def test_names_and_labels_are_shown_as_they_are_in_every_table(folder, monkeypatch, names):
    """Though they look like numbers or missing values, or come from records that hold something else."""
    labels = dict(zip(("ce", "focal-g2.0", "two-stage"), ("0", "01", "0.10"), strict=True))
    study = made_up_study.study(experiments={name: {"label": label} for name, label in labels.items()})
    monkeypatch.setattr(made_up_study, "CLASSES", names)
    made_up_study.write(study)
    figures.run(study, Layout.of(study), "results")
    page = Page(build(study, Layout.of(study)))
    shown = page.table("by class").headings[1:4]
    for table in ("The table of a study's results", "recall of every experiment"):
        assert [cell.text for cell in page.table(table).column("experiment")] == list(labels.values())
    assert shown == [f"({i})" if name in ("", " ", None) else str(name) for i, name in enumerate(names, 1)]


@NUMBERS
@pytest.mark.parametrize("kind", ERRORS)
def test_errors_are_those_of_the_analysis(built, study, page, kind):
    values = [[record["cost"][kind] for record in seeds] for seeds in records(built, study, "errors")]
    assert_means(page.table("kind of error").column(kind), values, in_percent)


@NUMBERS
def test_costs_are_those_of_the_trainings(built, study, page):
    measured = [[record["measured"] for record in seeds] for seeds in records(built, study, "training")]
    table = page.table("each training took")
    seconds = [[one["seconds"] for one in seeds] for seeds in measured]
    assert_means(table.column("time"), seconds, lambda value: f"{value:,.1f}")
    memory = [[one["peak_memory_mb"]["host"] for one in seeds] for seeds in measured]
    assert_means(table.column("memory"), memory, lambda value: f"{value:,.0f}")
    assert "GPU" not in table.headings
    assert "No run used a GPU" in page.text


@NUMBERS
def test_differences_and_intervals_are_those_of_the_record(built, study, page):
    with contextlib.chdir(built):
        record = json.loads(Layout.of(study).intervals.read_text())
    cells = page.table("less its baseline").rows[0]
    for place, entry in enumerate(record["differences"]):
        difference, p, smallest = cells[1 + 3 * place : 4 + 3 * place]
        assert (difference.value, p.value, smallest.value) == (entry["value"], 0.03, 0.025)
        low, high = (f"{100 * entry[key]:+.1f}".replace("-", "−") for key in ("low", "high"))
        assert difference.small.split("\n")[0] == f"{low} to {high}"
    of_ce = page.table("recall of every experiment").column("AP")[0]
    expected = record["experiments"]["ce"]["AP"]
    assert of_ce.small.split("\n")[0] == f"{in_percent(expected['low'])} to {in_percent(expected['high'])}"


def test_gpu_hours_are_time_times_gpus(study, folder):
    made_up_study.write(study)
    path = Layout.of(study).training("ce")
    record = json.loads(path.read_text())
    record["hardware"] |= {"device": "a GPU", "processes": 4}
    record["measured"] |= {"seconds": 1800.0, "peak_memory_mb": {"host": 1, "device": 2345}}
    path.write_text(json.dumps(record))
    page = Page(build(study, Layout.of(study)))
    hours = page.table("each training took").column("GPU")
    assert [cell.value for cell in hours] == [2.0, None, None]
    assert [cell.text for cell in hours] == ["2.000", "–", "–"]
    assert "No run used a GPU" not in page.text


def test_every_row_leads_to_its_records(built, study, page):
    entries = page.table("Every run with its records")
    by_id = dict(zip(entries.ids, entries.rows, strict=True))
    for caption in (
        "recall of every experiment",
        "size of the objects",
        "by class",
        "kind of error",
        "each training took",
    ):
        for name, cell in zip(study.experiments, page.table(caption).column("source"), strict=True):
            assert len(cell.links) == len(study.seeds)
            for seed, link in zip(study.seeds, cell.links, strict=True):
                row = by_id[link.removeprefix("#")]
                paths = row[entries.headings.index("records")].text.split("\n")
                assert f"results/made-up/{name}/seed-{seed}/evaluation.json" in paths
                assert all((built / path).is_file() for path in paths)
    assert {cell.text for cell in entries.column("commit")} == {"0123456789ab"}
    changed = [cell.small for cell in entries.column("commit")]
    assert changed == ["", "and changes that are in no commit"] * len(study.experiments)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inside = [a["href"][1:] for tag, a in page.elements if tag == "a" and a["href"].startswith("#")]
    assert set(inside) <= set(ids)


@TEXT
def test_labels_are_text(html, page):
    labels = [row[0].text for row in page.table("recall of every experiment").rows]
    assert labels[1] == made_up_study.HOSTILE
    assert "made up <u>for</u> a test" in page.text
    assert set(page.table("by class").headings) >= set(made_up_study.CLASSES)
    assert not {tag for tag, _ in page.elements} & {"b", "i", "u"}
    assert len(page.scripts) == 2
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]


@TEXT
def test_examples_reach_the_script_as_they_are(built, study, page):
    with contextlib.chdir(built):
        record = json.loads(Layout.of(study).examples.read_text())
    shown = json.loads(page.scripts[0])
    names = list(record["images"][0]["detections"])
    assert dict(shown["choices"]) == {"truth": "ground truth", names[0]: "CE", names[1]: made_up_study.HOSTILE}
    assert {category["name"] for category in shown["categories"].values()} == set(made_up_study.CLASSES[:2])
    for ours, theirs in zip(shown["images"], record["images"], strict=True):
        assert ours["pixels"] == theirs["pixels"]
        for name in names:
            assert [(b["bbox"], b["score"]) for b in ours["boxes"][name]] == [
                (b["bbox"], b["score"]) for b in theirs["detections"][name]
            ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("−16.1 (−18.0 to −14.8)", -16.1),
        ("+3.7 (+1.9 to +5.3)", 3.7),
        ("< 0.001", 0.001),
        ("≤ 0.013", 0.013),
        ("1,234", 1234),
        ("0.5", 0.5),
        ("baseline", None),
        ("–", None),
        ("2 of 3", None),
        ("−19.6 to 21.6", None),
        ("", None),
    ],
)
def test_cells_sort_by_the_number_that_they_begin_with(text, value):
    assert as_number(text) == value


def test_nothing_comes_from_elsewhere(html, page):
    addresses = [a[key] for _, a in page.elements for key in ("src", "href", "srcset", "action") if key in a]
    assert addresses
    assert not [address for address in addresses if not address.startswith(("data:", "#"))]
    (style,) = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"fetch|XMLHttpRequest|import\(", page.scripts[1])
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_figures_are_those_that_were_drawn(built, study, page):
    caption = pictures.plain((built / "paper_figures/made-up/focal_loss_pt.rst").read_text())
    (image,) = [a for tag, a in page.elements if tag == "img"]
    assert image["alt"] == "Focal loss against the probability of the true side (Lin et al. 2017, figure 1)"
    assert caption in page.text
    (links,) = [[a for tag, a in page.elements if a.get("download") == f"{name}.csv"] for name in ("focal_loss_pt",)]
    kept = unquote(links[0]["href"].removeprefix("data:text/csv;charset=utf-8,"))
    assert kept == (built / "paper_figures/made-up/focal_loss_pt.csv").read_text()
    table = page.table("The table of a study's results")
    with (built / "paper_figures/made-up/results.csv").open() as file:
        expected = [f"{float(row['AP']):.1f}" for row in csv.DictReader(file)]
    assert [cell.text for cell in table.column("AP")] == expected
    assert "Not drawn yet: focal_loss_xt" in page.text


def test_a_picture_is_the_drawn_one_without_its_caption(built):
    from PIL import Image, ImageChops

    path = built / "paper_figures/made-up/focal_loss_pt.png"
    caption = pictures.plain(path.with_suffix(".rst").read_text())
    shown = pictures.picture(path, caption)
    kept = Image.open(io.BytesIO(pictures.base64.b64decode(shown.address.partition(",")[2]))).convert("RGB")
    drawn = Image.open(path).convert("RGB")
    assert kept.size == (shown.width, shown.height)
    assert ImageChops.difference(kept, drawn.crop((0, 0, *kept.size))).getbbox() is None
    below = drawn.crop((0, kept.height, *drawn.size))
    ink = ImageChops.invert(below.convert("L")).getbbox()
    lines = len(caption) / 105  # about so many characters stand in a line
    assert ink[1] >= 1, "the cut goes through what was drawn"
    assert below.height / lines == pytest.approx(24, rel=0.5)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])))
def test_a_caption_is_read_back_as_it_was_written(text):
    assert pictures.plain(captions.rst(text)) == text.strip()


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["−1.5", "+2.0", "baseline", "–"], True),
        (["1,234", "–", "–"], True),
        (["3", "three"], False),
        (["–"], False),
        (["1 to 2", "2 to 3"], False),
    ],
)
def test_a_column_of_numbers_may_hold_a_word_or_a_blank(cells, numeric):
    assert pictures._table([Column("", "difference", cells)], "").columns[0].numeric == numeric


def test_equal_files_give_equal_pages(built, study, html):
    with contextlib.chdir(built):
        assert build(study, Layout.of(study)) == html


def test_what_is_absent_is_said(folder):
    alone = made_up_study.study(seeds=[1], intervals=None)
    layout = Layout.of(alone)
    made_up_study.write(alone)
    for path in (layout.intervals, layout.examples, layout.manifest, layout.evaluation("ce")):
        path.unlink()
    for name in alone.experiments:
        layout.errors(name).unlink()
    text = Page(build(alone, layout)).text
    for sentence in (
        "No verdicts were drawn",
        "No intervals were estimated",
        "One seed: no interval",
        "Not measured yet, at one seed at least: CE.",
        "No errors were analysed",
        "No examples were picked",
        "The record of the data set is missing",
        "Not drawn yet: focal_loss_pt",
    ):
        assert sentence in text


def test_a_sweep_shows_its_conditions(folder):
    axis = {"label": "objects an image", "experiments": ["ce", "focal-g2.0"], "points": {4: {"objects": [4, 4]}, 2: {}}}
    swept = made_up_study.study(sweep={"objects": axis})
    made_up_study.write(swept)
    page = Page(build(swept, Layout.of(swept)))
    table = page.table("recall of every experiment")
    assert [cell.text for cell in table.column("condition")] == ["objects-4", "objects-4", "base", "base"]
    assert len({cell.links[0] for cell in table.column("source")}) == 4
    paths = [cell.text for cell in page.table("Every run").column("records")]
    assert "results/made-up/objects-4/ce/seed-1/training.json" in paths[0]


def test_classes_of_one_id_in_conditions_of_other_data_stay_apart(folder):
    axis = {"label": "objects an image", "experiments": ["ce", "focal-g2.0"], "points": {4: {"objects": [4, 4]}, 2: {}}}
    swept = made_up_study.study(sweep={"objects": axis})
    made_up_study.write(swept)
    for path in Path("results/made-up/base").rglob("evaluation.json"):
        record = json.loads(path.read_text())
        record["per_class"][0]["name"] = "cat"
        path.write_text(json.dumps(record))
    table = Page(build(swept, Layout.of(swept))).table("by class")
    assert [cell.value is None for cell in table.column("disc")] == [False, False, True, True]
    assert [cell.value is None for cell in table.column("cat")] == [True, True, False, False]


def test_the_demo_is_of_a_size_to_send(monkeypatch):
    monkeypatch.chdir(ROOT)
    demo = load_study("config/demo.yaml")
    html = build(demo, Layout.of(demo))
    assert len(html.encode()) < 10e6
    assert len(Page(html).table("recall of every experiment").rows) == len(demo.experiments)


@pytest.mark.parametrize("name", ["far_away", "model_config"])
def test_a_defect_of_another_version_is_shown_by_its_bare_name(folder, study, name):
    made_up_study.write(study)
    path = Layout.of(study).validation
    record = json.loads(path.read_text())
    record["splits"]["train"]["defects"][name] = {"count": 1234, "policy": "drop"}
    path.write_text(json.dumps(record))
    assert f"train: 1,234 × {name} (policy: drop)" in Page(build(study, Layout.of(study))).text


@RECORDS
def test_no_records_are_refused(folder, study):
    with refused(r"study made-up has no records in results/made-up, .*make study STUDY=made-up"):
        report.run(study, Layout.of(study))


@RECORDS
@pytest.mark.parametrize("kind", ["training", "evaluation", "errors"])
@pytest.mark.parametrize(("key", "value"), [("seed", 9), ("experiment", "other"), ("study", "other")])
def test_records_of_another_run_are_refused(folder, study, kind, key, value):
    made_up_study.write(study)
    path = getattr(Layout.of(study), kind)("ce")
    record = json.loads(path.read_text())
    (record["config"] if (kind, key) == ("training", "seed") else record)[key] = value
    path.write_text(json.dumps(record))
    with refused(r"seed-1/\w+\.json: \w+ is .*, expected .*, as the record's place says") as error:
        build(study, Layout.of(study))
    assert f"{key} is {value!r}" in str(error.value)


@RECORDS
@pytest.mark.parametrize(("content", "message"), [("{", "is not valid JSON"), ("[]", "must hold a JSON object")])
def test_damaged_records_are_refused(folder, study, content, message):
    made_up_study.write(study)
    Layout.of(study).evaluation("ce").write_text(content)
    with refused(r"evaluation\.json (is not valid JSON|must hold a JSON object)") as error:
        build(study, Layout.of(study))
    assert message in str(error.value)


def test_the_templates_are_installed_with_the_package():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["imbdet"]
    package = ROOT / "src" / "imbdet"
    kept = {path for pattern in declared for path in package.glob(pattern)}
    assert set((package / "report" / "templates").iterdir()) <= kept
