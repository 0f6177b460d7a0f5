"""Names that people choose are text: in the data, the pictures and the tables, whatever they look like."""

import json
from html import unescape

import fabricate
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imbdet import figures
from imbdet.figures import checking, drawing, records, style
from imbdet.layout import Layout

# A column that holds nothing but these looks like numbers.
LIKE_NUMBERS = ("0", "01", "0.10", "1e5", "-0", "inf", "2", "5", "+3", ".5", "1_0", "1.", "007", "0x1", "NaN", "00")
LIKE_FORMULAS = ("US$ 5", "$x$", "$\\frac$", "\\$", "$$", "a_b^c & 50 %", "<i>$</i>", "é $ ß")
LIKE_NOTHING = ("NA", "nan", "None", "null", "True", " a ", '"', ",", "|", "#")
UNDRAWN = {  # structures name parts of detectors; the others tell classes or experiments apart by numbers
    *((figure, "name") for figure in ("structure", "structure_two_stage", "frequency_groups")),
    *((figure, "label") for figure in ("gradient_shares", "gamma")),
}
NAMED = [name for name in figures.FIGURES if name not in figures.OF_A_SWEEP]


def named(labels, classes, monkeypatch):
    """The fabricated study with other labels and class names, and its records under the current folder."""
    raw = fabricate.raw_study()
    for place, experiment in enumerate(raw["experiments"].values()):
        experiment["label"] = labels(place)
    monkeypatch.setattr(fabricate, "CLASSES", tuple(map(classes, range(len(fabricate.CLASSES)))))
    study = fabricate.study(experiments=raw["experiments"])
    fabricate.write(study, Layout.of(study))
    return study, Layout.of(study)


@pytest.fixture
def like_numbers(tmp_path, monkeypatch):
    """A study whose names all look like numbers."""
    monkeypatch.chdir(tmp_path)
    return named(lambda i: f"{'' if i < 16 else i}{LIKE_NUMBERS[i % 16]}", LIKE_NUMBERS.__getitem__, monkeypatch)


@pytest.fixture
def like_formulas(tmp_path, monkeypatch):
    """A study whose names matplotlib would take for formulas, most of them wrong ones."""
    monkeypatch.chdir(tmp_path)
    return named(lambda i: f"{LIKE_FORMULAS[i % 8]} {i}", lambda i: f"{LIKE_FORMULAS[i]}", monkeypatch)


def read_back(data, name):
    return records.parse_csv(data.to_csv(index=False), name)


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1)


@given(st.lists(words | st.sampled_from([*LIKE_NUMBERS, *LIKE_FORMULAS, *LIKE_NOTHING]), min_size=1))
@example(["0", "01"])
@example(["2", "5"])
@example(["0.10"])
@example(["NA", "1"])
def test_names_are_read_back_as_they_were_written(names):
    data = records.frame(dict.fromkeys(records.NAMES, name) for name in names)
    assert read_back(data, "names").to_dict("list") == dict.fromkeys(records.NAMES, names)


def test_all_that_a_figure_writes_as_text_is_read_as_text(like_numbers):
    study, layout = like_numbers
    for name in NAMED:
        data = figures.figure(name).data(study, layout)
        again = read_back(data, name)
        for column in data:
            texts = [value if isinstance(value, str) else None for value in data[column]]
            assert [value if isinstance(value, str) else None for value in again[column]] == texts, (name, column)


def test_tables_show_labels_that_look_like_numbers(like_numbers):
    study, layout = like_numbers
    shown = 0
    for name in NAMED:
        module = figures.figure(name)
        if hasattr(module, "table"):
            columns = module.table(read_back(module.data(study, layout), name))
            for column in columns:
                if column.heading == "experiment":
                    assert set(column.cells) - {"–"} <= {one.label for one in study.experiments.values()}
                    shown += 1
    assert shown > 8


def test_names_with_dollars_are_drawn_as_they_are(like_formulas, monkeypatch):
    """In every picture, beside formulas of its own."""
    study, layout = like_formulas
    drawn, shown, encode = {}, 0, style.encode
    monkeypatch.setattr(style, "encode", lambda figure, kind: encode(figure, kind) if kind == "svg" else b"")
    monkeypatch.setattr(drawing, "write_bytes", lambda path, content: drawn.update({path.name: content}))
    for name in NAMED:
        if hasattr(figures.figure(name), "draw") and figures.inputs(study, layout, name):
            figures.run(study, layout, name)
            words = " ".join(unescape(" ".join(checking._labels(drawn[f"{name}.svg"]))).split())
            data = pd.read_csv(layout.figures / f"{name}.csv")
            for column in {"label", "category", "name"} & set(data):
                for value in data[column].dropna().unique() if (name, column) not in UNDRAWN else ():
                    assert value in words, (name, value)
                    shown += "$" in value
    assert shown > 100


def test_a_label_that_became_a_number_is_a_difference():
    old, new = (f"experiment,label,AP\nce,{label},1.0\n".encode() for label in ("0.1", "0.10"))
    assert checking._data(old, new) == "label of row 0 is 0.1, redrawn 0.10"


@given(st.dictionaries(st.integers(0, 99), st.sampled_from(["a", "b", "a (1)", "a (1) (1)", "", " ", None, 5, "5"])))
def test_classes_are_called_by_their_names_and_told_apart(names):
    shown = records.class_names(names.items())
    assert list(shown) == list(names.items())
    assert len(set(shown.values())) == len(names)
    for (key, name), words in shown.items():
        assert words in (name, str(name), f"{name} ({key})", f"({key})")
        assert words.strip()
    if len(set(names.values())) == len(names) and set(names.values()) <= {"a", "b", "5"}:
        assert list(shown.values()) == list(names.values())


ALIKE = [("cat", "cat "), ("cat x", "cat  x"), ("cat", "c\u200bat"), ("cat", "cat\ufeff"), ("\u00e9", "e\u0301")]


@pytest.mark.parametrize("names", ALIKE, ids=ascii)
def test_classes_whose_names_look_alike_are_told_apart_by_their_ids(names):
    shown = records.class_names([(3, names[0]), (7, names[1]), (9, "dog")])
    suffixes = [words.removeprefix(name) for words, name in zip(shown.values(), (*names, "dog"), strict=True)]
    assert suffixes == [" (3)", " (7)", ""]


@pytest.mark.parametrize("name", ["", " ", "\u200b", "\u2060 \ufeff"], ids=ascii)
def test_a_class_whose_name_cannot_be_seen_is_called_by_its_id(name):
    assert records.class_names([(5, name)])[5, name].endswith("(5)")


@pytest.fixture
def twins(tmp_path, monkeypatch):
    """The fabricated study in which a class of the tail has the name of the commonest."""
    monkeypatch.chdir(tmp_path)
    classes = list(fabricate.CLASSES)
    classes[4] = classes[0]
    return named(lambda i: f"label {i}", classes.__getitem__, monkeypatch)


def test_classes_of_one_name_stay_apart(twins, tmp_path, monkeypatch):
    """In every figure, and in what is measured of each."""
    study, layout = twins
    found = {name: figures.figure(name).data(study, layout) for name in ("equalization_table", "frequency_groups")}
    table = found["equalization_table"].dropna(subset="measured_experiment")
    assert table["tail"].unique().tolist() == ["disc (5), ring"]
    rows = json.loads(layout.evaluation("two-equalization").read_text())["per_class"]
    tail = [100 * row["AP"] for row in rows if row["category_id"] in (5, 6)]
    assert table["measured_AP_tail"].tolist() == pytest.approx([sum(tail) / 2] * len(table))
    named = dict(zip(found["frequency_groups"]["id"], found["frequency_groups"]["name"], strict=True))
    assert [named[key] for key in (1, 2, 5)] == ["disc (1)", "square", "disc (5)"]
    for name, column in (("census", "name"), ("suppressed_gradients", "name"), ("detections", "category")):
        shown = set(figures.figure(name).data(study, layout)[column].dropna())
        assert {"disc (1)", "disc (5)"} <= shown
        assert "disc" not in shown


def test_colours_of_detections_tell_classes_of_one_name_apart(twins):
    study, layout = twins
    module = figures.figure("detections")
    colours = module._colours(read_back(module.data(study, layout), "detections"))
    assert colours["disc (1)"] != colours["disc (5)"]
