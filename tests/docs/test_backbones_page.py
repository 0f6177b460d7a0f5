"""The page on backbones names what a study accepts, and no more."""

import re
from pathlib import Path

import yaml

from imbdet.detectors.backbones import RESNETS
from imbdet.settings import PACKAGED_WEIGHTS, Backbone

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"


def test_its_example_is_a_backbone_and_its_keys_are_all_there_are():
    text = PAGE.read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    Backbone.model_validate(yaml.safe_load(block)["backbone"])
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(Backbone.model_fields)
    for name in (*RESNETS, *PACKAGED_WEIGHTS, *PACKAGED_WEIGHTS.values()):
        assert f"`{name}`" in text
