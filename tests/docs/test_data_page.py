"""The page about data: every study that it shows can be loaded, and it names every source and setting of theirs."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from imbdet.settings import CocoFormatData, Data, VocFormatData
from imbdet.study_file import parse_study

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
TINY = ROOT / "tests" / "pipeline" / "tiny.yaml"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_study_s_data(example: str) -> None:
    raw = yaml.safe_load(TINY.read_text()) | yaml.safe_load(example)
    assert parse_study(raw, "example", "docs/data.md").data.source == yaml.safe_load(example)["data"]["source"]


def test_all_sources_and_settings_of_files_are_named() -> None:
    members = get_args(get_args(Data)[0])
    sources = {name for member in members for name in get_args(member.model_fields["source"].annotation)}
    assert len(sources) == 7
    assert set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)) == sources
    for key in CocoFormatData.model_fields.keys() | VocFormatData.model_fields.keys():
        assert re.search(rf"\b{key}\b", PAGE), key
