"""Equal seeds give equal bits, whatever else runs beside and however many processes read; others do not."""

import os

import pytest
import torch
from test_run import EXPERIMENT, equal, trained

from imbdet.data.loader import TrainingBatches
from imbdet.layout import Layout
from imbdet.training.process import deterministic
from imbdet.training.run import run

DETERMINED = pytest.mark.promise("The same seed gives the same bits on a CPU, and another seed does not", "law")


@DETERMINED
@pytest.mark.parametrize("changes", [{"workers": 2}, {"deterministic": True}, {"checkpoint_every": 1}])
def test_what_must_not_matter_does_not(workspace, make_study, changes):
    first, rows = trained(make_study())
    again, rows_again = trained(make_study(train=changes))
    assert all(equal(first, again).values())
    assert rows == rows_again


@DETERMINED
def test_order_and_flips_are_a_function_of_the_seed_alone(workspace, make_study):
    """Two seeds part; a start in the middle is the middle."""
    layout = Layout.of(make_study())

    def stream(start=0, **changes):
        batches = TrainingBatches(make_study(**changes), layout, EXPERIMENT).iterate(start)
        return [(batch.image_ids.tolist(), batch.gt_boxes.tolist(), batch.seed) for batch in batches]

    whole = stream()
    assert stream(train={"workers": 2}) == whole
    assert stream(start=3, train={"workers": 1}) == whole[3:]
    assert stream(seeds=[2]) != whole


def test_deterministic_algorithms_are_on_within_and_as_before_after(workspace, make_study, monkeypatch):
    seen = []
    complete = TrainingBatches.iterate

    def watch(self, start=0):
        seen.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return complete(self, start)

    monkeypatch.setattr(TrainingBatches, "iterate", watch)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    for wanted in (True, False):
        study = make_study(train={"deterministic": wanted, "steps": 1, "schedule": {"warmup_steps": 0}})
        run(study, Layout.of(study), EXPERIMENT)
    assert seen == [(True, ":16:8"), (False, ":16:8")]
    assert not torch.are_deterministic_algorithms_enabled()


def test_cublas_is_set_up_where_nobody_has(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is removed in the end
