"""``python -m imbdet funnel STUDY EXPERIMENT``: foreground and background on their way through a two-stage detector."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from imbdet.config import Study
from imbdet.data.batch import Batch
from imbdet.data.loader import Split
from imbdet.detectors.faster_rcnn import FasterRCNN
from imbdet.errors import UserError
from imbdet.evaluation.detect import load_trained
from imbdet.files import write_json
from imbdet.layout import Layout
from imbdet.samples import Candidates
from imbdet.seeding import number

MOST_IMAGES = 500
KINDS = ("foreground", "background", "ignored")


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Write the mean number of foreground, background and ignored candidates of an image at each station.

    Stations: all anchors, RPN's sample of them, the proposals (ground truth, which training appends, not counted), the
    RoI head's sample (ground truth counted, as it is trained on). On at most 500 training images, evenly spaced by id,
    as training would see them, with the trained weights. Raises :class:`UserError` for a one-stage detector.
    """
    model, device = load_trained(study, layout, experiment)
    if not isinstance(model, FasterRCNN):
        raise UserError(f"report.funnel names {experiment}, whose detector has one stage; name a two-stage experiment")
    split = Split.with_features(study.detector(experiment), layout, "train")
    images = np.unique(np.linspace(0, len(split) - 1, MOST_IMAGES).astype(int))
    totals: dict[str, Tensor] = {}
    for image in tqdm(images, desc=f"funnel {experiment}", mininterval=5):
        batch = split.batch([int(image)], [False], number(study.seed, "funnel", int(image)))
        for station, label, background in stations(model, batch.to(device)):
            totals[station] = totals.get(station, torch.zeros(3, dtype=torch.int64)) + count(label, background)
    means = {station: (counts.double() / len(images)).tolist() for station, counts in totals.items()}
    write_json(
        layout.funnel,
        {
            "study": study.name,
            "experiment": experiment,
            "images": len(images),
            "stations": [
                {"name": station, **dict(zip(KINDS, counts, strict=True))} for station, counts in means.items()
            ],
        },
    )


@torch.no_grad()
def stations(model: FasterRCNN, batch: Batch) -> Iterator[tuple[str, Tensor, int]]:
    """Name, [N] labels and the label of background, at each station of a batch."""
    features = model.features(batch)
    logits, deltas = model.predict_objects(features)
    generator = batch.generator(logits.device)
    proposals = model.propose(batch, logits, deltas, model.rpn_settings.training)
    matched = model.match_proposals(batch, proposals)
    found = sum(len(boxes) for boxes in proposals)
    samples: list[tuple[str, Candidates]] = [
        ("anchors", model.match_anchors(batch)),
        ("RPN sample", model.sample_anchors(batch, logits, deltas, generator)),
        ("proposals", matched),
        ("RoI sample", model.sample_proposals(features, matched, generator)),
    ]
    for station, candidates in samples:
        label = candidates.label[:found] if station == "proposals" else candidates.label
        yield station, label, candidates.num_classes


def count(label: Tensor, background: int) -> Tensor:
    """[N] labels to [3] int64 counts of foreground, background and ignored."""
    kinds = ((label >= 0) & (label < background), label == background, label < 0)
    return torch.stack([kind.sum() for kind in kinds]).cpu()
