"""A training before its first step."""

import torch

from imbdet.config import Study
from imbdet.data.facts import read_facts
from imbdet.detectors import Detector, build_detector, check_stored_features
from imbdet.layout import Layout
from imbdet.seeding import number
from imbdet.training.checkpoint import State
from imbdet.training.optimizer import build_optimizers, build_schedule


def initial_model(study: Study, layout: Layout, experiment: str) -> Detector:
    """The untrained detector; equal seeds give equal weights wherever shapes agree, whatever the method."""
    torch.manual_seed(number(study.seed, "weights"))
    model = build_detector(study, experiment, read_facts(layout))
    check_stored_features(model, study.detector(experiment), layout)
    for stage in study.experiment(experiment).methods:
        model.method(stage).compiled = study.training(experiment).compile_loss
    return model


def initial_state(study: Study, layout: Layout, experiment: str, device: torch.device) -> State:
    """The untrained detector on a device, with its optimizers and schedules."""
    model = initial_model(study, layout, experiment).to(device)
    # Convolutions are faster so on both kinds of device, and the heads' outputs become views, not copies.
    model = model.to(memory_format=torch.channels_last)
    settings = study.training(experiment)
    optimizers = build_optimizers(model, settings)
    return State(model, optimizers, [build_schedule(optimizer, settings) for optimizer in optimizers])
