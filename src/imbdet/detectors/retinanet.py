"""RetinaNet from torchvision's parts, with this project's path from features to ``Samples``.

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4. The parameters have torchvision's names, so
that its ``retinanet_resnet50_fpn`` state dict loads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import batched_nms

from imbdet.assigners import MaxIoUAssigner
from imbdet.config import Detector, Evaluate
from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import build_backbone, strides
from imbdet.detectors.boxes import BoxCoder, clip
from imbdet.heads import HeadSpec
from imbdet.methods import Method
from imbdet.samples import Samples, dense_samples

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageDetections:
    """Detections of one image, by falling score: boxes [D, 4] fp32 xyxy pixels, labels [D] int64, scores [D] fp32."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class RetinaNet(nn.Module):
    """Backbone with FPN, the two heads, and the method that makes losses of their outputs.

    ``model(batch)`` returns the method's losses by name; :meth:`detect` returns detections. The method is a submodule:
    its state is saved, moved and distributed with the network.
    """

    def __init__(
        self,
        backbone: BackboneWithFPN,
        num_classes: int,
        anchors: Anchors,
        assigner: MaxIoUAssigner,
        method: Method,
        head_norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """``head_norm``: makes the normalisation of a number of channels, after each convolution of the towers."""
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = RetinaNetHead(backbone.out_channels, anchors.per_location, num_classes, head_norm)
        self.anchors = anchors
        self.assigner = assigner
        self.method = method
        self.box_coder = BoxCoder()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        _initialise(self.head.classification_head.cls_logits, method.head)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the method's scalar losses."""
        losses: dict[str, Tensor] = self.method(self.samples(batch))
        return losses

    def samples(self, batch: Batch) -> Samples:
        """Run the network on a batch and match its anchors with the ground truth."""
        logits, deltas = self.predict(batch)
        return self.match(batch, logits, deltas)

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return [B, A, K] logits and [B, A, 4] offsets."""
        features = list(self.backbone(self._normalise(batch)).values())
        outputs = self.head(features)
        return outputs["cls_logits"], outputs["bbox_regression"]

    def match(self, batch: Batch, logits: Tensor, deltas: Tensor) -> Samples:
        """Match the anchors with the ground truth; nothing here waits for the device."""
        images, (height, width) = len(batch), batch.images.shape[-2:]
        anchors, levels = self.anchors(height, width)
        matches = self.assigner(
            anchors, batch.gt_boxes, batch.gt_images, batch.ignore_boxes, batch.ignore_images, images
        )
        truth = batch.gt_boxes, batch.gt_labels
        return dense_samples(logits, deltas, anchors, levels, matches, *truth, self.box_coder, self.num_classes)

    @torch.no_grad()
    def detect(self, batch: Batch, settings: Evaluate) -> list[ImageDetections]:
        """Detections of each image, in pixels of the resized image.

        Section 4.1: at each level the ``candidates_per_level`` highest scores above ``score_threshold`` are decoded;
        non-maximum suppression by class at ``nms_iou`` over all levels; the best ``detections_per_image`` remain.
        """
        logits, deltas = self.predict(batch)
        height, width = batch.images.shape[-2:]
        anchors, _ = self.anchors(height, width)
        counts = self.anchors.counts(height, width)
        levels = [
            self._candidates(*parts, batch.sizes, settings)
            for parts in zip(logits.split(counts, 1), deltas.split(counts, 1), anchors.split(counts), strict=True)
        ]
        boxes, labels, scores = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        return [_suppress(*image, settings) for image in zip(boxes, labels, scores, strict=True)]

    def _candidates(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Tensor, settings: Evaluate
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One level's best (anchor, class) pairs of each image: boxes [B, k, 4], labels [B, k], scores [B, k]."""
        scores = self.method.head.scores(logits).flatten(1)
        scores, index = scores.topk(min(settings.candidates_per_level, scores.shape[1]), dim=1)
        anchor, label = index // self.num_classes, index % self.num_classes
        picked = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = self.box_coder.decode(picked, anchors[anchor])
        return clip(boxes, sizes[:, None]), label, scores

    def _normalise(self, batch: Batch) -> Tensor:
        """uint8 images to normalised fp32; the padding is 0 afterwards, as the mean colour is."""
        height, width = batch.images.shape[-2:]
        rows = torch.arange(height, device=batch.images.device) < batch.sizes[:, :1]
        columns = torch.arange(width, device=batch.images.device) < batch.sizes[:, 1:]
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]
        # In place, as nothing here needs a gradient: on a CPU these passes cost as much as a convolution.
        return batch.images.float().mul_(1 / (255 * self.std)).sub_(self.mean / self.std).mul_(inside)


def build_retinanet(settings: Detector, num_classes: int, method: Method) -> RetinaNet:
    """Build the detector of a study. Raises :class:`imbdet.errors.UserError` for a backbone that does not exist."""
    backbone = build_backbone(settings.backbone, settings.pretrained, settings.fpn_channels, settings.p6_source)
    anchors = Anchors(settings.anchors.sizes, settings.anchors.ratios, strides(settings.p6_source))
    rule = settings.assigner
    assigner = MaxIoUAssigner(rule.foreground_iou, rule.background_iou, rule.low_quality)
    return RetinaNet(
        backbone, num_classes, anchors, assigner, method, _group_norm if settings.head_norm == "group" else None
    )


def _group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 8 channels, as torchvision's second RetinaNet has with 256; larger ones where 8 is no divisor."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


def _initialise(last_layer: nn.Conv2d, head: HeadSpec) -> None:
    nn.init.normal_(last_layer.weight, std=head.weight_std)
    nn.init.constant_(last_layer.bias, head.bias)  # type: ignore[arg-type]


def _suppress(boxes: Tensor, labels: Tensor, scores: Tensor, settings: Evaluate) -> ImageDetections:
    above = scores > settings.score_threshold
    boxes, labels, scores = boxes[above], labels[above], scores[above]
    keep = batched_nms(boxes, scores, labels, settings.nms_iou)[: settings.detections_per_image]
    return ImageDetections(boxes[keep], labels[keep], scores[keep])
