"""Optimizer and learning-rate schedule of a study."""

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imbdet.config import Cosine, MultiStep, Train


def build_optimizer(model: nn.Module, settings: Train) -> Optimizer:
    """SGD or AdamW over every parameter that is not frozen."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    chosen = settings.optimizer
    if chosen.name == "sgd":
        return SGD(parameters, chosen.lr, chosen.momentum, weight_decay=chosen.weight_decay, fused=True)
    return AdamW(parameters, lr=chosen.lr, weight_decay=chosen.weight_decay, fused=True)


def build_schedule(optimizer: Optimizer, settings: Train) -> LambdaLR:
    """The rate of each step as a factor of the optimizer's."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, settings.steps, settings.schedule))


def rate_factor(step: int, steps: int, schedule: MultiStep | Cosine) -> float:
    """Factor of the learning rate at ``step`` of ``steps``: linear warm-up times steps down or half a cosine."""
    warmup = min(1.0, (step + 1) / (schedule.warmup_steps + 1))
    if schedule.name == "multistep":
        return float(warmup * schedule.factor ** sum(step >= share * steps for share in schedule.milestones))
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
