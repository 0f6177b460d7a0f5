"""Faster R-CNN on a feature pyramid from torchvision's parts, with this project's path to ``Samples`` of both stages.

Ren et al., Faster R-CNN, NIPS 2015; Lin et al., Feature Pyramid Networks, CVPR 2017. The parameters have torchvision's
names, so that its ``fasterrcnn_resnet50_fpn`` state dict loads.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from imbdet.assigners import MaxIoUAssigner
from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import Backbone, build_backbone
from imbdet.detectors.base import Detector, ImageDetections, initialise, refuse_nan, suppress
from imbdet.detectors.proposals import pool, propose
from imbdet.geometry import BoxCoder, clip
from imbdet.heads import HeadSpec
from imbdet.methods import Method
from imbdet.samplers import RandomSampler
from imbdet.samples import Candidates, Samples, Stage, dense_candidates, proposal_candidates
from imbdet.settings import RPN, Evaluate, Proposals, RoI
from imbdet.settings import FasterRCNN as FasterRCNNSettings

ROI_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
SMALLEST = 1e-2  # pixels; torchvision drops detections with a shorter side
COARSEST_POOLED = 32  # stride of P5; the levels above are for RPN alone


class FasterRCNN(Detector):
    """RPN finds objects, the RoI head tells their classes; each is trained on a sample, by a method of its own."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        anchors: Anchors,
        methods: Mapping[Stage, Method],
        rpn: RPN,
        roi: RoI,
    ) -> None:
        """``methods``: of "rpn" (one sigmoid column) and "roi"; a method's own sampler replaces random sampling."""
        super().__init__(backbone, num_classes, anchors, methods)
        self.rpn = _RPN(RPNHead(backbone.out_channels, anchors.per_location))
        initialise(self.rpn.head.cls_logits, self.method("rpn").head)
        self.roi_heads = _RoIHead(backbone.out_channels, num_classes, roi, self.method("roi").head)
        self.rpn_settings, self.roi_settings = rpn, roi
        self.assigners = {
            "rpn": MaxIoUAssigner(**rpn.assigner.model_dump()),
            "roi": MaxIoUAssigner(**roi.assigner.model_dump()),
        }
        self.samplers = {
            "rpn": self.method("rpn").sampler() or RandomSampler(rpn.sampled, rpn.foreground_share),
            "roi": self.method("roi").sampler() or RandomSampler(roi.sampled, roi.foreground_share),
        }
        self.rpn_coder = BoxCoder()

    def samples(self, batch: Batch) -> dict[Stage, Samples]:
        features = self.features(batch)
        logits, deltas = self.predict_objects(features)
        generator = batch.generator(logits.device)
        proposals = self.propose(batch, logits, deltas, self.rpn_settings.training)
        return {
            "rpn": self.sample_anchors(batch, logits, deltas, generator),
            "roi": self.sample_proposals(features, self.match_proposals(batch, proposals), generator),
        }

    def predict_objects(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """RPN's [B, A] logits and [B, A, 4] offsets, in the order of the anchors."""
        logits, deltas = self.rpn.head(features)
        flat = [x.permute(0, 2, 3, 1).flatten(1) for x in logits]
        offsets = [x.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in deltas]
        return torch.cat(flat, dim=1), torch.cat(offsets, dim=1)

    def sample_anchors(
        self, batch: Batch, logits: Tensor, deltas: Tensor, generator: torch.Generator | None
    ) -> Samples:
        """RPN's sample of the anchors; nothing here waits for the device."""
        candidates = self.match_anchors(batch)
        flat_logits, flat_deltas = logits.flatten()[:, None], deltas.flatten(0, 1)[:, None]
        kept = self.samplers["rpn"](
            candidates, lambda: candidates.predicted(flat_logits.detach(), flat_deltas.detach(), generator), generator
        )
        chosen = candidates.select(kept)
        return chosen.predicted(flat_logits[kept.index], flat_deltas[kept.index], generator)

    def match_anchors(self, batch: Batch) -> Candidates:
        """All anchors of all images, with one class: object."""
        anchors, levels = self.anchors(*batch.images.shape[-2:])
        matches = self.assigners["rpn"](anchors, batch.truth)
        objects = torch.zeros_like(batch.gt_labels)
        return dense_candidates(anchors, levels, matches, batch.gt_boxes, objects, self.rpn_coder, 1, "rpn")

    def propose(self, batch: Batch, logits: Tensor, deltas: Tensor, limits: Proposals) -> list[Tensor]:
        """Each image's proposals, [P, 4] fp32 xyxy pixels, without gradient, as many as ``limits`` allow."""
        size = batch.images.shape[-2:]
        anchors, _ = self.anchors(*size)
        counts, nms_iou = self.anchors.counts(*size), self.rpn_settings.nms_iou
        return propose(logits, deltas, anchors, counts, batch.sizes, self.rpn_coder, limits, nms_iou)

    def match_proposals(self, batch: Batch, proposals: list[Tensor]) -> Candidates:
        """The proposals of all images and, after them, all ground truth, as candidates of the RoI head."""
        boxes = torch.cat([*proposals, batch.gt_boxes])
        images = torch.cat([_positions(proposals), batch.gt_images])
        if not len(boxes):  # RPN sends every box out of its image and there is no ground truth: take the image
            boxes = torch.cat([torch.zeros_like(batch.sizes), batch.sizes.flip(1)], dim=1).float()
            images = torch.arange(len(batch), device=boxes.device)
        matches = self.assigners["roi"].match_proposals(boxes, images, batch.truth)
        return proposal_candidates(boxes, images, matches, batch.truth, ROI_CODER, self.num_classes)

    def sample_proposals(
        self, features: list[Tensor], candidates: Candidates, generator: torch.Generator | None
    ) -> Samples:
        """The RoI head's sample of the proposals, with its predictions."""

        @torch.no_grad()
        def score() -> Samples:
            outputs = self.predict_classes(features, candidates.priors, candidates.image_id)
            return candidates.predicted(*outputs, generator)

        chosen = candidates.select(self.samplers["roi"](candidates, score, generator))
        return chosen.predicted(*self.predict_classes(features, chosen.priors, chosen.image_id), generator)

    def predict_classes(self, features: list[Tensor], boxes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """[P, C] logits, the background's last, and [P, K, 4] offsets of proposals [P, 4] of the images [P]."""
        settings = self.roi_settings
        shape = settings.pool_size, settings.sampling_ratio, settings.canonical_size
        strides = tuple(stride for stride in self.anchors.strides if stride <= COARSEST_POOLED)
        pooled = pool(features[: len(strides)], strides, boxes, images, *shape)
        logits, deltas = self.roi_heads(pooled)
        return logits, deltas

    @torch.no_grad()
    def detect(self, batch: Batch, settings: Evaluate) -> list[ImageDetections]:
        """Detections of each image: every class of every proposal above the threshold, suppressed by class."""
        features = self.features(batch)
        objects = self.predict_objects(features)
        refuse_nan(batch, *objects)
        proposals = self.propose(batch, *objects, self.rpn_settings.inference)
        boxes, images = torch.cat(proposals), _positions(proposals)
        logits, deltas = self.predict_classes(features, boxes, images)
        refuse_nan(batch, logits, deltas)
        scores = self.method("roi").head.scores(logits)
        found = clip(ROI_CODER.decode(deltas, boxes[:, None]), batch.sizes[images][:, None])
        whole = ((found[..., 2:] - found[..., :2]) >= SMALLEST).all(-1)
        scores = torch.where(whole, scores, -1.0)
        labels = torch.arange(self.num_classes, device=boxes.device).expand_as(scores)
        limits = self.score_threshold(settings), settings.nms_iou, settings.detections_per_image
        counts = [len(image) for image in proposals]
        return [
            suppress(boxes.flatten(0, 1), label.flatten(), score.flatten(), *limits)
            for boxes, label, score in zip(found.split(counts), labels.split(counts), scores.split(counts), strict=True)
        ]


class _RPN(nn.Module):
    """Holds the head under torchvision's name, ``rpn.head``."""

    def __init__(self, head: RPNHead) -> None:
        super().__init__()
        self.head = head


class _RoIHead(nn.Module):
    """Two layers, then logits and offsets; torchvision's names and, for softmax, its order: the background first."""

    def __init__(self, channels: int, num_classes: int, settings: RoI, head: HeadSpec) -> None:
        super().__init__()
        self.box_head = TwoMLPHead(channels * settings.pool_size**2, settings.head_channels)
        # Offsets for the background too, as torchvision has them; nothing reads them.
        self.box_predictor = FastRCNNPredictor(settings.head_channels, num_classes + 1)
        nn.init.normal_(self.box_predictor.bbox_pred.weight, std=0.001)  # Girshick, Fast R-CNN, section 2.3
        nn.init.zeros_(self.box_predictor.bbox_pred.bias)
        # Last, as it alone depends on the method: the others draw the same initial weights for all of them.
        self.softmax = head.activation == "softmax"
        if not self.softmax:
            self.box_predictor.cls_score = nn.Linear(settings.head_channels, num_classes)
        initialise(self.box_predictor.cls_score, head)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[P, channels, size, size] to [P, C] logits and [P, K, 4] offsets."""
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return logits.roll(-1, dims=1) if self.softmax else logits, deltas.unflatten(1, (-1, 4))[:, 1:]


def _positions(proposals: list[Tensor]) -> Tensor:
    """[P] int64 position in the batch of all images' proposals."""
    return torch.cat([torch.full((len(boxes),), i, device=boxes.device) for i, boxes in enumerate(proposals)])


def build_faster_rcnn(chosen: FasterRCNNSettings, num_classes: int, methods: Mapping[Stage, Method]) -> FasterRCNN:
    """Build the detector of a study. Raises what :func:`build_backbone` does."""
    backbone = build_backbone(chosen.backbone, chosen.levels, chosen.p6_source, chosen.fpn_channels)
    anchors = Anchors(chosen.anchors.sizes, chosen.anchors.ratios, chosen.strides)
    return FasterRCNN(backbone, num_classes, anchors, methods, chosen.rpn, chosen.roi)
