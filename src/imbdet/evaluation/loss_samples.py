"""``imbdet loss-samples STUDY EXPERIMENT``: a trained detector's logits, for the figures of cumulative loss."""

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from imbdet.config import Study
from imbdet.data.loader import EvaluationBatches
from imbdet.errors import UserError
from imbdet.evaluation.cumulative import cumulative_table
from imbdet.evaluation.detect import load_trained
from imbdet.evaluation.reservoir import Reservoir
from imbdet.files import write_npz, write_text
from imbdet.layout import Layout
from imbdet.samples import Samples
from imbdet.seeding import generator

Margins = NDArray[np.float32]


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Sample x_t on the val split and write the samples and the cumulative losses made from them.

    A foreground sample is the logit of the assigned class of a foreground anchor; a background sample is minus the
    logit of one class of a background anchor: these are the terms that the loss sums. All foreground samples are
    kept, and of the background a random sample of the whole split. Raises :class:`UserError` for a two-stage detector,
    and where the split gives fewer samples than the study asks for.
    """
    if "dense" not in study.experiment(experiment).methods:
        raise UserError(
            f"report.cumulative_loss names {experiment}, whose detector has two stages; name a one-stage one"
        )
    batches = EvaluationBatches(study, layout, experiment, "val")
    model, device = load_trained(study, layout, experiment)
    wanted = study.loss_samples
    foreground, kept = [], Reservoir(wanted.background)
    for step, batch in enumerate(tqdm(batches, desc=f"loss samples {experiment}", mininterval=5)):
        with torch.no_grad():
            positive, negative = margins(model.samples(batch.to(device))["dense"])
        foreground.append(positive)
        kept.add(generator(study.seed, "loss-samples", step).random(len(negative), np.float32), negative)
    positives, background = np.concatenate(foreground), kept.values
    for name, count, least in (
        ("foreground", len(positives), wanted.foreground),
        ("background", len(background), wanted.background),
    ):
        if count < least:
            raise UserError(
                f"{experiment}: the val split gives {count} {name} samples, loss_samples.{name} asks for {least}; "
                "lower it or take more images"
            )
    write_npz(layout.logits(experiment), foreground=positives, background=background)
    write_text(layout.cumulative_loss(experiment), cumulative_table(positives, background).to_csv(index=False))


def margins(samples: Samples) -> tuple[Margins, Margins]:
    """x_t of the assigned class at foreground rows [P] and of every class at background rows [Q], fp32."""
    logits = samples.logits.float()
    rows = samples.foreground
    positive = logits[rows].gather(1, samples.label[rows, None])[:, 0]
    negative = -logits[samples.label == samples.num_classes].flatten()
    return positive.cpu().numpy(), negative.cpu().numpy()
