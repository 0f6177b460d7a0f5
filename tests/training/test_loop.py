"""The loop on a network of one weight, whose training can be followed by hand."""

import pytest
import torch
from torch import nn

from imbdet.data.batch import Batch
from imbdet.errors import UserError
from imbdet.settings import Cosine, MultiStep, Train
from imbdet.signals import StopRequest
from imbdet.training.checkpoint import State
from imbdet.training.loop import curve_csv, train
from imbdet.training.optimizer import build_optimizers, build_schedule
from imbdet.training.process import Process

ALONE = Process(0, 1, torch.device("cpu"))
CONSTANT = MultiStep(name="multistep", warmup_steps=0, milestones=(), factor=0.1)


class Line(nn.Module):
    """``classification`` = weight x the batch's first image id, ``box_regression`` = 1; NaN where ``bad`` says."""

    def __init__(self, bad=(), **methods):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.methods = nn.ModuleDict(methods)
        self.bad = bad

    def forward(self, batch):
        image = int(batch.image_ids[0])
        factor = self.bad[image] if image in self.bad else float(image)
        return {"classification": self.weight * factor, "box_regression": torch.tensor(1.0)}


class Learned(nn.Module):
    """A method with a weight of its own, which Adam learns."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def param_groups(self):
        return [{"params": [self.weight], "lr": 0.01}]


class LineWithMethod(Line):
    """The method's weight is a loss too."""

    def forward(self, batch):
        return super().forward(batch) | {"regularizer": self.methods["dense"].weight}


def batch_of(*image_ids):
    boxes, none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    size = torch.full((len(image_ids), 2), 4)
    images = torch.zeros(len(image_ids), 3, 4, 4, dtype=torch.uint8)
    return Batch(images, size, size.float(), torch.tensor(image_ids), boxes, none, none, boxes, none)


def settings(**changes):
    values = {"steps": 5, "batch_size": 1, "clip_norm": None, "flip": 0.0, "log_every": 2, "schedule": CONSTANT}
    return Train(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}, **(values | changes))


def run(model, batches, chosen, keep=lambda state: None):
    optimizers = build_optimizers(model, chosen)
    state, rows = State(model, optimizers, [build_schedule(optimizer, chosen) for optimizer in optimizers]), []
    try:
        train(state, model, batches, chosen, ALONE, StopRequest(), keep, lambda state: None, rows.append)
    except UserError as error:
        return state, rows, str(error)
    return state, rows, None


def test_each_row_of_the_curve_is_the_mean_of_the_losses_since_the_last():
    state, logged, _ = run(Line(), [batch_of(i) for i in (1, 2, 3, 4, 5)], settings())
    weight, velocity, losses = 2.0, 0.0, []
    for image in (1, 2, 3, 4, 5):
        losses.append(weight * image)
        velocity = 0.9 * velocity + image
        weight -= 0.1 * velocity
    assert [row["step"] for row in state.curve] == [2, 4, 5]  # every second step and the last
    means = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2, losses[4]]
    assert [row["classification"] for row in state.curve] == pytest.approx(means, rel=1e-6)
    assert [row["total"] for row in state.curve] == pytest.approx([mean + 1 for mean in means], rel=1e-6)
    assert logged == state.curve
    assert state.model.weight.item() == pytest.approx(weight, rel=1e-6)


def test_learning_rate_of_a_row_is_the_one_that_its_last_step_took():
    cosine = Cosine(name="cosine", warmup_steps=1)
    state, _, _ = run(Line(), [batch_of(1)] * 5, settings(schedule=cosine, log_every=1))
    expected = [0.05, 0.0904508497, 0.0654508497, 0.0345491503, 0.0095491503]
    assert [row["learning_rate"] for row in state.curve] == pytest.approx(expected)


def test_a_methods_own_optimizer_takes_its_steps_beside_the_common_one():
    """Adam moves a weight of constant gradient by its rate at each step, on the same schedule."""
    cosine = Cosine(name="cosine", warmup_steps=1)
    chosen = settings(schedule=cosine, log_every=1)
    state, _, _ = run(LineWithMethod(dense=Learned()), [batch_of(1)] * 5, chosen)
    plain, _, _ = run(Line(), [batch_of(1)] * 5, chosen)
    assert torch.equal(state.model.weight, plain.model.weight)
    rates = [row["learning_rate"] for row in state.curve]
    assert rates == [row["learning_rate"] for row in plain.curve]  # that of the common optimizer
    assert state.model.methods["dense"].weight.item() == pytest.approx(1 - 0.01 * sum(rates) / 0.1, abs=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_loss_stops_before_the_step_and_names_step_and_images(value):
    batches = [batch_of(1), batch_of(3), batch_of(7, 11), batch_of(1)]
    good, _, _ = run(Line(), batches[:2], settings(steps=2))
    state, _, message = run(Line(bad={7: value}), batches, settings())
    assert "step 3: the loss is not finite" in message
    assert "images [7, 11]" in message
    assert f"classification {value:g}" in message
    assert torch.equal(state.model.weight, good.model.weight)
    assert state.optimizers[0].state_dict()["state"][0]["momentum_buffer"].isfinite()
    assert state.step == 2


def test_no_optimizer_takes_the_step_of_a_loss_that_is_not_finite():
    batches = [batch_of(1), batch_of(7)]
    good, _, _ = run(LineWithMethod(dense=Learned()), batches[:1], settings(steps=1))
    state, _, message = run(LineWithMethod(bad={7: float("nan")}, dense=Learned()), batches, settings())
    assert "step 2: the loss is not finite" in message
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, good.model.state_dict()[name])


def test_no_checkpoint_holds_the_step_of_a_loss_that_is_not_finite():
    kept = []
    batches = [batch_of(1), batch_of(7)]
    run(Line(bad={7: float("nan")}), batches, settings(checkpoint_every=1), lambda state: kept.append(state.step))
    assert kept == [1]


@pytest.mark.parametrize(("clip", "moved"), [(None, 300.0), (0.5, 0.5), (1000.0, 300.0)])
def test_clipping_bounds_the_step(clip, moved):
    state, _, _ = run(Line(), [batch_of(300)], settings(steps=1, clip_norm=clip))
    assert 2.0 - state.model.weight.item() == pytest.approx(0.1 * moved, rel=1e-4)


def test_curve_as_csv_has_a_column_for_each_term():
    state, _, _ = run(Line(), [batch_of(1)] * 2, settings(steps=2))
    header, row = curve_csv(state.curve).splitlines()
    assert header == "step,learning_rate,classification,box_regression,total"
    assert [float(x) for x in row.split(",")] == [2, 0.1, pytest.approx(1.95), 1, pytest.approx(2.95)]
