"""Learning rates and optimizers: their values, step by step."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from imbdet.config import Cosine, MultiStep
from imbdet.training.optimizer import build_optimizer, build_schedule, rate_factor

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


def layer(optimizer):
    """A layer with one frozen parameter, its optimizer and schedule."""
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    settings = SimpleNamespace(optimizer=SimpleNamespace(**optimizer), steps=8, schedule=MULTISTEP)
    built = build_optimizer(module, settings)
    return module, built, build_schedule(built, settings)


def test_sgd_step_by_hand():
    module, optimizer, schedule = layer({"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01})
    expected, velocity, gradient = module.weight.detach().clone(), torch.zeros(1, 2), torch.tensor([[1.0, -2.0]])
    for step in range(8):
        module.weight.grad = gradient.clone()
        optimizer.step()
        schedule.step()
        velocity = 0.9 * velocity + gradient + 0.01 * expected
        expected = expected - 0.1 * rate_factor(step, 8, MULTISTEP) * velocity
        torch.testing.assert_close(module.weight.detach(), expected)


def test_adamw_first_step_moves_each_weight_by_the_rate_and_decays_it():
    module, optimizer, _ = layer({"name": "adamw", "lr": 0.1, "weight_decay": 0.5})
    before = module.weight.detach().clone()
    module.weight.grad = torch.tensor([[3.0, -0.01]])
    optimizer.step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.9}, {"name": "adamw"}])
def test_frozen_parameters_are_left_out(optimizer):
    module, built, _ = layer(optimizer | {"lr": 0.1, "weight_decay": 0.1})
    assert [p for group in built.param_groups for p in group["params"]] == [module.weight]
