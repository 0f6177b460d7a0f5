"""RetinaNet from torchvision's parts, with this project's path from features to ``Samples``.

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4. The parameters have torchvision's names, so
that its ``retinanet_resnet50_fpn`` state dict loads.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead

from imbdet.assigners import Assigner, MaxIoUAssigner
from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import Backbone, build_backbone
from imbdet.detectors.base import Detector, ImageDetections, initialise, refuse_nan, suppress
from imbdet.geometry import BoxCoder, clip
from imbdet.methods import Method
from imbdet.samples import Candidates, Samples, Stage, dense_candidates
from imbdet.settings import Evaluate
from imbdet.settings import RetinaNet as RetinaNetSettings


class RetinaNet(Detector):
    """Backbone with FPN and two heads on every level; every anchor is a sample of the stage "dense"."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchors: Anchors,
        assigner: Assigner,
        method: Method,
        head_norm: Callable[[int], nn.Module] | None = None,
        kaiming: bool = False,
    ) -> None:
        """``head_norm``: makes the normalisation of a number of channels, after each convolution of the towers.

        ``kaiming``: initialise the towers so that they keep the scale of their input (He et al., ICCV 2015, equation
        10). With the paper's standard deviation of .01 four layers of 256 channels divide it by 75, of 32 by 5,000.

        The method's own assigner, where it has one, takes the place of ``assigner``.
        """
        super().__init__(backbone, num_classes, anchors, {"dense": method})
        columns = method.head.columns(num_classes)
        self.head = RetinaNetHead(backbone.out_channels, anchors.per_location, columns, head_norm)
        self.assigner = method.assigner() or assigner
        self.box_coder = BoxCoder()
        if kaiming:
            towers = self.head.classification_head.conv, self.head.regression_head.conv
            for layer in nn.ModuleList(towers).modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        initialise(self.head.classification_head.cls_logits, method.head)

    def samples(self, batch: Batch) -> dict[Stage, Samples]:
        logits, deltas = self.predict(batch)
        return {"dense": self.match(batch, logits, deltas)}

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return [B, A, C] logits and [B, A, 4] offsets."""
        outputs = self.head(self.features(batch))
        return outputs["cls_logits"], outputs["bbox_regression"]

    def match(self, batch: Batch, logits: Tensor, deltas: Tensor) -> Samples:
        """All anchors as samples, with [B, A, C] logits and [B, A, 4] offsets; nothing here waits for the device."""
        generator = batch.generator(logits.device)
        return self.match_anchors(batch).predicted(logits.flatten(0, 1), deltas.flatten(0, 1)[:, None], generator)

    def match_anchors(self, batch: Batch) -> Candidates:
        anchors, levels = self.anchors(*batch.images.shape[-2:])
        matches = self.assigner(anchors, batch.truth)
        truth = batch.gt_boxes, batch.gt_labels
        return dense_candidates(anchors, levels, matches, *truth, self.box_coder, self.num_classes, "dense")

    @torch.no_grad()
    def detect(self, batch: Batch, settings: Evaluate) -> list[ImageDetections]:
        """Detections of each image, in pixels of the resized image.

        Section 4.1: at each level the ``candidates_per_level`` highest scores above the threshold are decoded;
        non-maximum suppression by class at ``nms_iou`` over all levels; the best ``detections_per_image`` remain.
        """
        logits, deltas = self.predict(batch)
        refuse_nan(batch, logits, deltas)
        size = batch.images.shape[-2:]
        anchors, _ = self.anchors(*size)
        counts = self.anchors.counts(*size)
        levels = [
            self._candidates(*parts, batch.sizes, settings.candidates_per_level)
            for parts in zip(logits.split(counts, 1), deltas.split(counts, 1), anchors.split(counts), strict=True)
        ]
        boxes, labels, scores = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        limits = self.score_threshold(settings), settings.nms_iou, settings.detections_per_image
        return [suppress(*image, *limits) for image in zip(boxes, labels, scores, strict=True)]

    def _candidates(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Tensor, most: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One level's best (anchor, class) pairs of each image: boxes [B, k, 4], labels [B, k], scores [B, k]."""
        scores = self.method("dense").head.scores(logits).flatten(1)
        scores, index = scores.topk(min(most, scores.shape[1]), dim=1)
        anchor, label = index // self.num_classes, index % self.num_classes
        picked = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = self.box_coder.decode(picked, anchors[anchor])
        return clip(boxes, sizes[:, None]), label, scores


def build_retinanet(chosen: RetinaNetSettings, num_classes: int, method: Method) -> RetinaNet:
    """Build the detector of a study. Raises what :func:`build_backbone` does."""
    backbone = build_backbone(chosen.backbone, chosen.levels, chosen.p6_source, chosen.fpn_channels)
    anchors = Anchors(chosen.anchors.sizes, chosen.anchors.ratios, chosen.strides)
    assigner = MaxIoUAssigner(**chosen.assigner.model_dump())
    norm = _group_norm if chosen.head_norm == "group" else None
    return RetinaNet(backbone, num_classes, anchors, assigner, method, norm, chosen.head_init == "kaiming")


def _group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 8 channels, as torchvision's second RetinaNet has with 256; larger ones where 8 is no divisor."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)
