"""Learning rates and optimizers: their values, step by step."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import Adam

from imbdet.settings import Cosine, MultiStep
from imbdet.training.optimizer import build_optimizers, build_schedule, rate_factor

COSINE = Cosine(name="cosine", warmup_steps=0)
MULTISTEP = MultiStep(name="multistep", warmup_steps=0, milestones=(0.5, 0.75), factor=0.1)


def test_multistep_falls_at_its_milestones():
    factors = [rate_factor(step, 8, MULTISTEP) for step in range(8)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_goes_from_one_over_a_half_to_zero():
    assert [rate_factor(step, 10, COSINE) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    assert rate_factor(2, 10, COSINE) == pytest.approx(0.5 * (1 + math.cos(0.2 * math.pi)))


@pytest.mark.parametrize("schedule", [MULTISTEP, COSINE])
def test_warm_up_is_linear_and_its_first_step_is_above_zero(schedule):
    warm = schedule.model_copy(update={"warmup_steps": 3})
    ratios = [rate_factor(step, 100, warm) / rate_factor(step, 100, schedule) for step in range(6)]
    assert ratios == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


@given(st.integers(1, 500), st.integers(0, 50), st.sampled_from([MULTISTEP, COSINE]))
def test_rate_stays_within_zero_and_one_and_never_rises_after_the_warm_up(steps, warmup, schedule):
    warm = schedule.model_copy(update={"warmup_steps": warmup})
    factors = [rate_factor(step, steps, warm) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert all(a >= b for a, b in zip(factors[warmup:], factors[warmup + 1 :], strict=False))


class Method(nn.Module):
    """A method with two parameters, of which it learns the first for itself."""

    def __init__(self, lr):
        super().__init__()
        self.own, self.common, self.lr = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1)), lr

    def param_groups(self):
        return [{"params": [self.own], "lr": self.lr, "weight_decay": 0.3}]


def layer(optimizer, **methods):
    """A layer with one frozen parameter and the methods of a detector, its optimizers and schedules."""
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    module.methods = nn.ModuleDict(methods)
    settings = SimpleNamespace(optimizer=SimpleNamespace(**optimizer), steps=8, schedule=MULTISTEP)
    built = build_optimizers(module, settings)
    return module, built, [build_schedule(each, settings) for each in built]


SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
ADAMW = {"name": "adamw", "lr": 0.1, "weight_decay": 0.5}


def test_sgd_step_by_hand():
    module, (optimizer,), (schedule,) = layer(SGD)
    expected, velocity, gradient = module.weight.detach().clone(), torch.zeros(1, 2), torch.tensor([[1.0, -2.0]])
    for step in range(8):
        module.weight.grad = gradient.clone()
        optimizer.step()
        schedule.step()
        velocity = 0.9 * velocity + gradient + 0.01 * expected
        expected = expected - 0.1 * rate_factor(step, 8, MULTISTEP) * velocity
        torch.testing.assert_close(module.weight.detach(), expected)


def test_adamw_first_step_moves_each_weight_by_the_rate_and_decays_it():
    module, (optimizer,), _ = layer(ADAMW)
    before = module.weight.detach().clone()
    module.weight.grad = torch.tensor([[3.0, -0.01]])
    optimizer.step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-4, atol=1e-5)


def parameters_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def are(parameters, expected):
    return {id(p) for p in parameters} == {id(p) for p in expected} and len(parameters) == len(expected)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
def test_frozen_parameters_are_left_out(optimizer):
    module, (built,), _ = layer(optimizer)
    assert are(parameters_of(built), [module.weight])


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
def test_each_parameter_has_one_optimizer_and_learned_ones_have_adam(optimizer):
    rpn, roi = Method(0.01), Method(0.002)
    module, (common, adam), _ = layer(optimizer, rpn=rpn, roi=roi)
    assert are(parameters_of(common), [module.weight, rpn.common, roi.common])
    assert are(parameters_of(adam), [rpn.own, roi.own])
    assert type(adam) is Adam
    assert [group["lr"] for group in adam.param_groups] == [0.01, 0.002]


def test_adam_step_by_hand():
    """Kingma and Ba 2015, algorithm 1, weight decay as part of the gradient, and the study's schedule."""
    method = Method(0.01)
    _, (_, adam), (_, schedule) = layer(SGD, roi=method)
    expected, first, second = 1.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, -2.0, 0.5, 0.1, 3.0, -1.0, 0.2, 0.3)):
        method.own.grad = torch.tensor([gradient])
        adam.step()
        schedule.step()
        whole = gradient + 0.3 * expected
        first, second = 0.9 * first + 0.1 * whole, 0.999 * second + 0.001 * whole**2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        expected -= 0.01 * rate_factor(step, 8, MULTISTEP) * mean / (math.sqrt(square) + 1e-8)
        assert method.own.item() == pytest.approx(expected, rel=1e-5)
