"""Optimizers and learning-rate schedule of a study."""

import math
from typing import cast

from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imbdet.detectors import Detector
from imbdet.methods import Method
from imbdet.settings import Cosine, MultiStep, Train


def build_optimizers(model: Detector, settings: Train) -> list[Optimizer]:
    """SGD or AdamW over every parameter that is not frozen, and Adam over those that a method learns for itself."""
    groups = [group for method in model.methods.values() for group in cast(Method, method).param_groups()]
    own = {id(parameter) for group in groups for parameter in group["params"]}
    parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    chosen = settings.optimizer
    common: Optimizer
    if chosen.name == "sgd":
        common = SGD(parameters, chosen.lr, chosen.momentum, weight_decay=chosen.weight_decay, fused=True)
    else:
        common = AdamW(parameters, lr=chosen.lr, weight_decay=chosen.weight_decay, fused=True)
    return [common, Adam(groups, fused=True)] if groups else [common]


def build_schedule(optimizer: Optimizer, settings: Train) -> LambdaLR:
    """The rate of each step as a factor of the optimizer's."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, settings.steps, settings.schedule))


def rate_factor(step: int, steps: int, schedule: MultiStep | Cosine) -> float:
    """Factor of the learning rate at ``step`` of ``steps``: linear warm-up times steps down or half a cosine."""
    warmup = min(1.0, (step + 1) / (schedule.warmup_steps + 1))
    if schedule.name == "multistep":
        return float(warmup * schedule.factor ** sum(step >= share * steps for share in schedule.milestones))
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
