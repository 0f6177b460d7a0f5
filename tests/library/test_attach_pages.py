"""The code of the page about the library runs as it stands there, and is that of the example."""

import re

import pytest
import torch
from stock_models import TESTS

PAGE = (TESTS.parent / "docs" / "library.md").read_text(encoding="utf-8")
EXAMPLE = TESTS.parent / "examples" / "own_faster_rcnn.py"


@pytest.fixture(scope="module")
def ran():
    """What the page's code, block after block, has defined after each."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    names, after = {}, []
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
        after.append(dict(names))
    return after


def test_the_first_block_is_the_tested_example():
    example = EXAMPLE.read_text(encoding="utf-8").split("\n\n", 1)[1].strip()
    assert f"```python\n{example}\n```" in PAGE


def test_the_example_trains_both_stages(ran):
    losses = ran[0]["losses"]
    terms = ("classification", "box_regression")
    assert losses.keys() == {f"{stage}_{term}" for stage in ("rpn", "roi") for term in terms}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    learned = [parameter for parameter in ran[0]["model"].parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learned)


def test_two_optimizers_share_all_parameters(ran):
    model, optimizers = ran[1]["model"], ran[1]["optimizers"]
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert type(optimizers[1]) is torch.optim.Adam
    learned = {id(parameter) for parameter in model.roi_heads.method.parameters()}
    assert learned == {id(p) for group in optimizers[1].param_groups for p in group["params"]}


def test_a_backbone_in_half_precision_trains(ran):
    model, losses = ran[2]["model"], ran[2]["losses"]
    assert "roi_regularizer" in losses
    assert all(loss.isfinite() for loss in losses.values())
    levels = model.backbone(torch.zeros(1, 3, 128, 128))
    assert {level.dtype for level in levels.values()} == {torch.float32}
    model.backbone.backbone.register_forward_hook(lambda backbone, inputs, levels: dtypes.update(levels))
    dtypes = {}
    model.backbone(torch.zeros(1, 3, 128, 128))
    assert {level.dtype for level in dtypes.values()} == {torch.bfloat16}


def test_the_losses_alone_are_what_the_page_says(ran):
    loss, logits = ran[3]["loss"], ran[3]["logits"]
    assert (torch.autograd.grad(loss, logits)[0] > 0).all()
    with pytest.raises(ValueError, match="None for no weighing"):
        ran[3]["imbdet"].sigmoid_focal_loss(logits, ran[3]["targets"], alpha=-1, gamma=2.0)
