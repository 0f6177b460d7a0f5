"""``python -m imbdet detect STUDY EXPERIMENT``: every detection of a trained detector on the val split."""

import torch
from tqdm import tqdm

from imbdet.config import Study
from imbdet.data.coco import Categories
from imbdet.data.facts import read_facts
from imbdet.data.loader import EvaluationBatches
from imbdet.detectors import Detector, build_detector, check_stored_features
from imbdet.detectors.base import ImageDetections
from imbdet.errors import UserError
from imbdet.evaluation.detections import Detections
from imbdet.layout import Layout
from imbdet.settings import Evaluate
from imbdet.training.checkpoint import load_tensors


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Write the detections of an experiment's weights."""
    batches = EvaluationBatches(study, layout, experiment, "val")
    model, device = load_trained(study, layout, experiment)
    found = detect_all(model, batches, study.evaluate, device)
    found.save(layout.detections(experiment), layout.annotations("val"))


def detect_all(model: Detector, batches: EvaluationBatches, settings: Evaluate, device: torch.device) -> Detections:
    """Detections of a model in evaluation mode on all images of a split, in pixels of the original images."""
    parts = []
    for batch in tqdm(batches, desc="detect", mininterval=5, leave=False):
        found = model.detect(batch.to(device), settings)
        for image, image_id, scale in zip(found, batch.image_ids.tolist(), batch.scales, strict=True):
            parts.append(_in_original_pixels(image, image_id, scale, batches.categories))
    return Detections.concatenate(parts)


def load_trained(study: Study, layout: Layout, experiment: str) -> tuple[Detector, torch.device]:
    """An experiment's trained detector in evaluation mode, on the GPU where there is one, and that device.

    Raises :class:`UserError` where the weights are missing, damaged or those of another detector.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_detector(study, experiment, read_facts(layout))
    weights = load_tensors(layout.weights(experiment), device)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise UserError(
            f"{layout.weights(experiment)} holds the weights of another detector or number of classes than "
            f"study {study.name} says; train {experiment} again"
        ) from None
    check_stored_features(model, study.detector(experiment), layout)
    return model.to(device).eval(), device


def _in_original_pixels(
    image: ImageDetections, image_id: int, scale: torch.Tensor, categories: Categories
) -> Detections:
    boxes = image.boxes.cpu() / scale.repeat(2)
    boxes[:, 2:] -= boxes[:, :2]
    labels = image.labels.cpu().numpy()
    return Detections(
        image_id=torch.full((len(boxes),), image_id).numpy(),
        category_id=categories.category_ids(labels),
        bbox=boxes.numpy(),
        score=image.scores.cpu().numpy(),
    )
