"""Batches for the tests of hard example mining."""

from dataclasses import replace

import torch
from batches import make_samples

UNUSUAL = {
    "an image without foreground": {"label": [0, 3, 2, -1, 3, 3, 3, -1]},
    "one foreground row": {"label": [3, 3, 1, 3]},
    "no foreground": {"label": [3, -1, 3, 3]},
    "ignored": {"label": [-1, -1]},
    "an image ignored": {"label": [3, 1, -1, -1]},
    "foreground": {"label": [0, 1, 2, 0, 1, 1]},
    "one class": {"label": [0, 1, -1, 0, 1, 1], "num_classes": 1},
    "three images": {"label": [0, 0, 1, 3, 3, -1, 2, 3, 0], "images": 3},
}


def random_samples(stage, seed, rows=None, images=2, **options):
    """Samples of which most rows are background, with random weights, and rubbish where rows are ignored."""
    random = torch.Generator().manual_seed(seed)
    if rows is not None:
        draw = torch.randint(-1, 12, (rows,), generator=random)
        options["label"] = draw.clamp(max=3).tolist()
    samples = make_samples(stage, seed=seed, images=images, **options)
    ignored = (samples.label == -1)[:, None]
    return replace(
        samples,
        weight=3 * torch.rand(len(ignored), generator=random, dtype=torch.float64),
        logits=torch.where(ignored, torch.nan, samples.logits),
        deltas=torch.where(ignored[..., None], torch.inf, samples.deltas),
    )


def rows_of(mask):
    return mask.nonzero()[:, 0].tolist()
