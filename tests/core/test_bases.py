"""A study with a base: its values over the base's, which plain configuration that is, and what is refused."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from changed_study import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from promises import refused
from ruamel.yaml import YAML
from studies import DETECTOR

from imbdet.bases import merge, resolve, write_plain
from imbdet.study_file import load_study
from imbdet.study_yaml import as_text, read_values

FOLDER = {"data": {"folder": "data/heir"}}
BASE = {"base": "tiny", **FOLDER}
FOCAL = "focal-g2.0"


@pytest.fixture
def tiny() -> dict:
    return yaml.safe_load(TINY.read_text())


@pytest.fixture
def studies(tmp_path, tiny):
    """Write studies, the tiny one among them, as NAME=VALUES beside each other; return their folder."""

    def write(**named):
        for name, values in {"tiny": tiny, **named}.items():
            (tmp_path / f"{name}.yaml").write_text(as_text(values))
        return tmp_path

    return write


def values_of(study):
    return study.model_dump(mode="json", exclude={"name"})


def test_an_heir_that_changes_nothing_is_its_base_but_for_name_and_folder(studies):
    folder = studies(heir=BASE)
    heir, base = load_study(folder / "heir.yaml"), load_study(folder / "tiny.yaml")
    assert (heir.name, heir.data.folder) == ("heir", "data/heir")
    assert values_of(heir) == values_of(base) | {"data": values_of(base)["data"] | {"folder": "data/heir"}}


def test_an_heir_changes_one_value_and_no_other(studies, tiny):
    folder = studies(heir=BASE | {"train": {"optimizer": {"lr": 0.5}}, "seeds": [3, 4]})
    expected = deepcopy(tiny) | {"seeds": [3, 4]}
    expected["train"]["optimizer"]["lr"] = 0.5
    expected["data"]["folder"] = "data/heir"
    assert resolve(folder / "heir.yaml").values == expected


def test_an_experiment_is_changed_in_one_parameter_and_another_is_added(studies, tiny):
    ce = tiny["experiments"]["ce"]
    changes = {FOCAL: {"label": "gamma 5", "methods": {"dense": {"gamma": 5.0}}}, "second": ce | {"label": "again"}}
    study = load_study(studies(heir=BASE | {"experiments": changes}) / "heir.yaml")
    assert list(study.experiments) == ["ce", FOCAL, "second"]
    dense = tiny["experiments"][FOCAL]["methods"]["dense"]
    assert study.experiments[FOCAL].methods == {"dense": dense | {"gamma": 5.0}}
    assert study.experiments[FOCAL].label == "gamma 5"


COCO = {"source": "coco_format", "folder": "data/heir", "path": "archive.zip"}
ADAMW = {"name": "adamw", "lr": 0.001, "weight_decay": 0.1}
OTHER_KINDS = {
    "data": (["data"], COCO),
    "optimizer": (["train", "optimizer"], ADAMW),
    "detector": (["detectors", "retinanet"], DETECTOR),
    "method": (["experiments", FOCAL, "methods", "dense"], {"name": "cross_entropy", "activation": "sigmoid"}),
}


@pytest.mark.parametrize(("path", "section"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_a_section_of_another_kind_is_replaced_as_a_whole(studies, tiny, path, section):
    own = section
    for key in reversed(path):
        own = {key: own}
    folder = studies(heir=merge(BASE, own))
    found, before = resolve(folder / "heir.yaml").values, tiny
    for key in path:
        found, before = found[key], before[key]
    assert found == section
    assert set(before) - set(section), "else a merge would give the same"


def test_a_section_that_names_its_own_kind_is_merged(studies):
    folder = studies(heir=merge(BASE, {"train": {"optimizer": {"name": "sgd", "lr": 0.5}}}))
    assert load_study(folder / "heir.yaml").train.optimizer.momentum == 0.9


def test_experiments_called_as_the_key_of_a_kind_are_merged(studies, tiny):
    """They are no kinds: their values are no text."""
    ce = tiny["experiments"]["ce"]
    folder = studies(
        tiny=merge(tiny, {"experiments": {"name": ce | {"label": "one"}, "source": ce | {"label": "two"}}}),
        heir=BASE | {"experiments": {"name": {"label": "three"}}},
    )
    study = load_study(folder / "heir.yaml")
    assert list(study.experiments) == ["ce", FOCAL, "name", "source"]
    assert study.experiments["name"].label == "three"


def test_null_is_a_value(studies):
    changes = {"experiments": {FOCAL: {"methods": {"dense": {"alpha": None}}}}, "train": {"clip_norm": None}}
    study = load_study(studies(heir=BASE | changes) / "heir.yaml")
    assert study.experiments[FOCAL].method["alpha"] is None
    assert study.train.clip_norm is None
    assert load_study(studies() / "tiny.yaml").train.clip_norm == 10.0


def test_without_takes_keys_out_of_the_base_first(studies, tiny):
    """Also one that holds a dot, and one that the study then says anew, of which nothing is left but that."""
    replaced = {"name": "focal", "prior_prob": 0.5}
    heir = BASE | {
        "without": [f"experiments.{FOCAL}", "train.clip_norm", "report.gamma", "experiments.ce.methods.dense"],
        "experiments": {"ce": {"methods": {"dense": replaced}}},
    }
    values = resolve(studies(heir=heir) / "heir.yaml").values
    assert values["experiments"] == {"ce": tiny["experiments"]["ce"] | {"methods": {"dense": replaced}}}
    assert values["train"].keys() == tiny["train"].keys() - {"clip_norm"}
    assert values["report"].keys() == tiny["report"].keys() - {"gamma"}
    assert "without" not in values
    assert "base" not in values


def test_of_keys_with_dots_the_one_that_leads_there_is_meant(studies, tiny):
    ce = tiny["experiments"]["ce"]
    more = {"a": ce | {"label": "a"}, "a.b": ce | {"label": "b"}, "a.b.c": ce | {"label": "c"}}
    heir = BASE | {"without": ["experiments.a.b", "experiments.a.b.c.label", "experiments.a.methods"]}
    folder = studies(tiny=merge(tiny, {"experiments": more}), heir=heir)
    experiments = resolve(folder / "heir.yaml").values["experiments"]
    assert {name: set(experiments[name]) for name in ("a", "a.b.c")} == {
        "a": {"label", "detector"},
        "a.b.c": {"detector", "methods"},
    }
    assert "a.b" not in experiments


def test_a_chain_is_each_over_the_next_and_may_be_cut_anywhere(studies):
    """In place of a base there may be its plain configuration."""
    middle = BASE | {"train": {"steps": 9, "batch_size": 4}, "without": ["report.gamma"]}
    heir = {"base": "middle", "data": {"folder": "data/heir2"}, "train": {"steps": 10, "optimizer": ADAMW}}
    folder = studies(middle=middle, heir=heir)
    plain = resolve(folder / "heir.yaml")
    assert [path.stem for path, _ in plain.files] == ["heir", "middle", "tiny"]
    assert plain.values["train"]["steps"] == 10
    assert plain.values["train"]["batch_size"] == 4
    assert plain.values["train"]["optimizer"] == ADAMW
    assert "gamma" not in plain.values["report"]
    for name in ("middle", "tiny"):
        (folder / f"{name}.yaml").write_text(as_text(resolve(folder / f"{name}.yaml").values))
        again = resolve(folder / "heir.yaml")
        assert again.values == plain.values
        assert list(again.values) == list(plain.values)
    assert load_study(folder / "heir.yaml").train.steps == 10


def test_a_base_does_not_hand_on_its_name(studies, tiny):
    folder = studies(tiny=tiny | {"name": "called"}, heir=BASE)
    assert load_study(folder / "tiny.yaml").name == "called"
    assert load_study(folder / "heir.yaml").name == "heir"


def test_a_base_need_be_no_whole_study(studies, tiny):
    """A recipe without experiments, say."""
    recipe = {key: value for key, value in tiny.items() if key not in ("experiments", "data", "report")}
    rest = {key: tiny[key] for key in ("experiments", "data", "report")}
    folder = studies(recipe=recipe, heir={"base": "recipe", **rest})
    assert values_of(load_study(folder / "heir.yaml")) == values_of(load_study(folder / "tiny.yaml"))


# What YAML reads as more than a letter, of several scripts; tables of all of Unicode take seconds to make.
LETTERS = "aZ09 .:,;#-+_{}[]()<>'\"&*!|%@`\\/~=?\t\n\r\x85\u2028\ufeff\u00e9\u4e2d\U0001f600"
# Mappings that are of no kind, as most sections of a study.
NESTED = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(LETTERS, max_size=3), st.lists(st.integers(), max_size=2)
    ),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = st.dictionaries(st.sampled_from("abcd"), NESTED, max_size=3)
HARD = ("1e-2", "off", "null", "", "0o17", "010", "~", "1_0", ".5", "on: #", " a", "12:30", "<<", "=", "0_", "._")
TEXTS = st.one_of(st.text(LETTERS), st.sampled_from(HARD))


@given(SECTIONS, SECTIONS)
def test_values_over_themselves_or_over_what_they_are_in_change_nothing(base, own):
    both = merge(base, own)
    assert merge(own, own) == own
    assert merge(both, own) == both
    assert merge(base, {}) == base
    assert merge({}, own) == own


@given(SECTIONS, SECTIONS)
def test_each_value_is_that_of_the_study_or_else_of_the_base(base, own):
    def check(merged, base, own):
        assert merged.keys() == base.keys() | own.keys()
        for key, value in merged.items():
            if key in base and key in own and isinstance(base[key], dict) and isinstance(own[key], dict):
                check(value, base[key], own[key])
            else:
                assert value is (own[key] if key in own else base[key])

    check(merge(base, own), base, own)


@settings(deadline=None)  # which files take while others run
@given(st.dictionaries(TEXTS, st.recursive(st.one_of(st.floats(allow_nan=False), TEXTS, NESTED), st.lists), max_size=4))
def test_the_plain_configuration_is_read_back_by_both_tools(tmp_path_factory, values):
    """As DVC reads YAML, and as this project does."""
    path = tmp_path_factory.mktemp("plain") / "study.yaml"
    path.write_text(as_text(values), encoding="utf-8")
    assert repr(read_values(path)) == repr(values)
    assert repr(as_plain(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))) == repr(values)


def as_plain(value):
    return dict(value) if isinstance(value, dict) else value


def test_the_plain_configuration_has_no_base_and_is_the_same_study(studies, tiny, monkeypatch):
    """To resolve what is resolved changes nothing."""
    folder = studies(heir=BASE | {"train": {"steps": 9}, "description": "1e-2"})
    monkeypatch.chdir(folder)
    written = write_plain(Path("heir.yaml"))
    assert written == Path("pipelines/heir/study.yaml")
    assert read_values(written) == resolve(written).values == resolve(Path("heir.yaml")).values
    assert values_of(load_study(written)) == values_of(load_study("heir.yaml"))
    assert written.read_text().startswith("# Written by `python -m imbdet.bases heir.yaml`")


MISTAKES = {
    "a value of the base": ({}, {"train": {"steps": 0}}, r"^tiny.yaml, base of heir.yaml: train.steps is 0: "),
    "a value of its own": ({"train": {"steps": 0}}, {}, r"^heir.yaml: train.steps is 0: "),
    "its own over that of the base": (
        {"train": {"steps": 0}},
        {"train": {"steps": -1}},
        r"^heir.yaml: train.steps is 0",
    ),
    "a value of a kind": (
        {},
        {"train": {"optimizer": {"lr": -1}}},
        r"^tiny.yaml, base of heir.yaml: train.optimizer.lr",
    ),
    "an unknown key of the base": (
        {},
        {"train": {"step": 1}},
        r"^tiny.yaml, base of heir.yaml: unknown key 'train.step'",
    ),
    "an unknown key": ({"train": {"step": 1}}, {}, r"^heir.yaml: unknown key 'train.step'; did you mean 'steps'"),
    "a word like base": ({"bases": "tiny"}, {}, r"^heir.yaml: unknown key 'bases'; did you mean 'base'"),
    "a check of a section": (
        {},
        {"data": {"objects": [3, 1]}},
        r"^tiny.yaml, base of heir.yaml: data: objects is \[smallest, largest\]",
    ),
    "a name of an experiment": (
        {},
        {"report": {"precision_recall": ["cee"]}},
        r"^tiny.yaml, base of heir.yaml: report.precision_recall names 'cee', not an experiment; did you mean 'ce'",
    ),
    "an experiment with a dot": (
        {},
        {"experiments": {FOCAL: {"detector": "retina"}}},
        r"^tiny.yaml, base of heir.yaml: experiments.focal-g2.0.detector names 'retina'",
    ),
    "a section that both say": ({"seeds": [1, 1]}, {}, r"^heir.yaml: seeds has one of \[1, 1\] twice"),
    "a key that is left out": ({"without": ["seeds"]}, {}, r"^heir.yaml: key 'seeds' is missing"),
    "a key of a section of the base": (
        {"without": ["train.optimizer.lr"]},
        {},
        r"^tiny.yaml, base of heir.yaml: key 'train.optimizer.lr' is missing",
    ),
    "an experiment that the base's figures show": (
        {"without": ["experiments.ce"]},
        {},
        r"^tiny.yaml, base of heir.yaml: report.precision_recall names 'ce', not an experiment; .*Known: focal-g2.0",
    ),
}


@pytest.mark.parametrize(("own", "in_base", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_said_of_the_file_in_which_the_value_stands(studies, tiny, monkeypatch, own, in_base, message):
    monkeypatch.chdir(studies(tiny=merge(tiny, in_base), heir=merge(BASE, own)))
    with refused(message):
        load_study("heir.yaml")


REFUSED = {
    **{
        f"base that is {base!r}": (
            {"heir": {"base": base}},
            r"^heir.yaml: base is .*; expected the name of a study beside this one, without .yaml$",
        )
        for base in (3, None, "", ["tiny"], "../tiny", "config/tiny", "-x", True)
    },
    "a base that does not exist": (
        {"heir": {"base": "tny"}},
        r"^heir.yaml: base is 'tny', but there is no tny.yaml; did you mean 'tiny'\? Known: other, tiny$",
    ),
    "a base's base that does not exist": (
        {"heir": BASE | {"base": "middle"}, "middle": {"base": "tny"}},
        r"^middle.yaml: base is 'tny', but there is no tny.yaml; did you mean 'tiny'",
    ),
    "itself": ({"heir": {"base": "heir"}}, r"^heir.yaml: base is 'heir', which leads back to itself: heir -> heir; "),
    "a circle": (
        {"heir": {"base": "b"}, "b": {"base": "c"}, "c": {"base": "b"}},
        r"^c.yaml: base is 'b', which leads back to itself: b -> c -> b; one of them needs no base$",
    ),
    "without a base": ({"heir": {"without": ["sweep"]}}, r"^heir.yaml: without takes keys out of a base, but this stu"),
    "a base's without a base": (
        {"heir": {"base": "b"}, "b": {"without": ["sweep"]}},
        r"^b.yaml: without takes keys out of a base, but this study has none",
    ),
    "no list": (
        {"heir": BASE | {"without": "sweep"}},
        r"^heir.yaml: without is 'sweep'; expected a list of keys of the base, such as \[sweep\]$",
    ),
    "no keys": ({"heir": BASE | {"without": [1]}}, r"^heir.yaml: without is \[1\]; expected a list of keys"),
    "a key that the base lacks": (
        {"heir": BASE | {"without": ["experiments.focal-g2"]}},
        r"^heir.yaml: without names 'experiments.focal-g2', which tiny does not have; did you mean "
        r"'experiments.focal-g2.0' or .*\? Known: experiments.ce, experiments.focal-g2.0$",
    ),
    "a key below a value": (
        {"heir": BASE | {"without": ["train.steps.few"]}},
        r"^heir.yaml: without names 'train.steps.few', which tiny does not have; nothing is below train.steps$",
    ),
    "a key twice": ({"heir": BASE | {"without": ["report", "report"]}}, r"without names 'report', which tiny does not"),
    "the data of the base": (
        {"heir": {"base": "tiny"}},
        r"^heir.yaml: data.folder is 'data/demo', that of its base tiny: two studies would write the same files; give "
        r"it a folder of its own, such as data/heir$",
    ),
    "the data of the base, said again": (
        {"heir": {"base": "tiny", "data": {"folder": "data/demo"}}},
        r"^heir.yaml: data.folder is 'data/demo', that of its base tiny",
    ),
}


@pytest.mark.parametrize(("named", "message"), REFUSED.values(), ids=REFUSED)
def test_bases_that_make_no_sense_are_refused(studies, monkeypatch, named, message):
    monkeypatch.chdir(studies(other={}, **named))
    with refused(message):
        load_study("heir.yaml")


def test_a_base_that_is_no_yaml_is_refused_as_that_file(studies, monkeypatch):
    monkeypatch.chdir(studies(heir=BASE))
    Path("tiny.yaml").write_text("seeds: [1\n")
    with refused(r"^tiny.yaml is not valid YAML"):
        load_study("heir.yaml")
