"""What all detectors are: a pyramid of features, a method for each stage, and detections."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import Backbone
from imbdet.errors import UserError
from imbdet.geometry import nms_in_groups
from imbdet.heads import HeadSpec
from imbdet.methods import Method
from imbdet.samples import Candidates, Samples, Stage
from imbdet.settings import Evaluate


@dataclass(frozen=True)
class ImageDetections:
    """Detections of one image, by falling score: boxes [D, 4] fp32 xyxy pixels, labels [D] int64, scores [D] fp32."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class Detector(nn.Module, ABC):
    """``model(batch)`` returns the losses by name; :meth:`detect` returns detections.

    Methods are submodules: their state is saved, moved and distributed with the network. Where a detector has more
    than one stage, a loss's name begins with its stage: ``roi_classification``.
    """

    def __init__(self, backbone: Backbone, num_classes: int, anchors: Anchors, methods: Mapping[Stage, Method]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.anchors = anchors
        self.methods = nn.ModuleDict({str(stage): method for stage, method in methods.items()})
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def method(self, stage: Stage) -> Method:
        """The method of a stage."""
        method = self.methods[stage]
        assert isinstance(method, Method)
        return method

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the methods' scalar losses."""
        terms: dict[str, Tensor] = {}
        for stage, samples in self.samples(batch).items():
            prefix = f"{stage}_" if len(self.methods) > 1 else ""
            terms |= {prefix + name: loss for name, loss in self.method(stage)(samples).items()}
        return terms

    @abstractmethod
    def samples(self, batch: Batch) -> dict[Stage, Samples]:
        """Run the network on a batch: the samples of each stage, matched with the ground truth."""

    @abstractmethod
    def match_anchors(self, batch: Batch) -> Candidates:
        """Match the anchors of all images with the ground truth; neither pixels nor predictions are needed."""

    @abstractmethod
    def detect(self, batch: Batch, settings: Evaluate) -> list[ImageDetections]:
        """Detections of each image, in pixels of the resized image.

        Raises :class:`imbdet.errors.UserError` where the network gives NaN.
        """

    def score_threshold(self, settings: Evaluate) -> float:
        """The study's lowest score of a detection, unless the paper of the last stage's method has its own."""
        own = self.method("roi" if "roi" in self.methods else "dense").head.score_threshold
        return settings.score_threshold if own is None else own

    def features(self, batch: Batch) -> list[Tensor]:
        """Feature maps [B, channels, h, w] of each level of the pyramid, the finest first."""
        return list(self.backbone.pyramid(self.backbone_levels(batch)).values())

    def backbone_levels(self, batch: Batch) -> list[Tensor]:
        """The backbone's levels [B, channels, h, w] fp32: those stored of the images, or made of their pixels."""
        if batch.features is None:
            return self.backbone.levels(self._normalise(batch))
        return [level.float().contiguous(memory_format=torch.channels_last) for level in batch.features]

    def _normalise(self, batch: Batch) -> Tensor:
        """uint8 images to normalised fp32; the padding is 0 afterwards, as the mean colour is."""
        height, width = batch.images.shape[-2:]
        rows = torch.arange(height, device=batch.images.device) < batch.sizes[:, :1]
        columns = torch.arange(width, device=batch.images.device) < batch.sizes[:, 1:]
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]
        # In place, as nothing here needs a gradient: on a CPU these passes cost as much as a convolution.
        return batch.images.float().mul_(1 / (255 * self.std)).sub_(self.mean / self.std).mul_(inside)


def initialise(last_layer: nn.Conv2d | nn.Linear, head: HeadSpec) -> None:
    """Initial weights and bias of a classification head's last layer, as its method asks."""
    nn.init.normal_(last_layer.weight, std=head.weight_std)
    assert last_layer.bias is not None
    nn.init.constant_(last_layer.bias, head.bias)


def refuse_nan(batch: Batch, *outputs: Tensor) -> None:
    """Raise :class:`UserError` where a head's outputs for a batch hold NaN: thresholds would drop them in silence."""
    if torch.stack([output.isnan().any() for output in outputs]).any():
        raise UserError(
            f"images {batch.image_ids.tolist()}: the detector's outputs are NaN: its weights are damaged or too large. "
            "Fetch the weights again, or train again with a lower train.optimizer.lr or with train.clip_norm"
        )


def suppress(
    boxes: Tensor, labels: Tensor, scores: Tensor, threshold: float, nms_iou: float, most: int
) -> ImageDetections:
    """The ``most`` best boxes of one image with a score above ``threshold``, after suppression within each class."""
    above = scores > threshold
    boxes, labels, scores = boxes[above], labels[above], scores[above]
    keep = nms_in_groups(boxes, scores, labels, nms_iou)[:most]
    return ImageDetections(boxes[keep], labels[keep], scores[keep])
