"""torchvision's Faster R-CNN and ours with the same weights, and batches in the form that each of them reads."""

from collections import OrderedDict

import torch
from torch.testing import assert_close
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import build_backbone
from imbdet.detectors.faster_rcnn import FasterRCNN
from imbdet.methods import build_method
from imbdet.settings import RPN, Backbone, Evaluate, RoI

RESNET = Backbone(name="resnet50", weights="none", frozen="none")
NUM_CLASSES = 90  # torchvision's 91 columns have the background first
SIZES = [[256, 384], [256, 320]]  # height and width of the images, which no side of torchvision's resizes
UNEVEN = [[256, 352], [256, 320]]  # padded to 352, which P6's stride does not divide
HEIGHT, WIDTH = 256, 384
STRIDES = (4, 8, 16, 32, 64)
SHARED = {"name": "cross_entropy", "alpha": None, "prior_prob": None, "normalizer": "sampled", "box_beta": 1 / 9}
SETTINGS = Evaluate(
    batch_size=2,
    score_threshold=0.05,
    nms_iou=0.5,
    candidates_per_level=1000,
    detections_per_image=300,
    operating_score=0.3,
)
RPN_SETTINGS = RPN.model_validate(
    {
        "assigner": {"foreground_iou": 0.7, "background_iou": 0.3, "low_quality": "argmax"},
        "sampled": 256,
        "foreground_share": 0.5,
        "nms_iou": 0.7,
        "training": {"candidates_per_level": 2000, "kept": 2000},
        "inference": {"candidates_per_level": 1000, "kept": 1000},
    }
)
ROI_SETTINGS = RoI.model_validate(
    {
        "assigner": {"foreground_iou": 0.5, "background_iou": 0.5, "low_quality": "off"},
        "sampled": 512,
        "foreground_share": 0.25,
        "pool_size": 7,
        "sampling_ratio": 2,
        "canonical_size": 224.0,
        "head_channels": 1024,
    }
)


def torchvision_faster_rcnn():
    return fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES + 1,
        min_size=HEIGHT,
        max_size=WIDTH,
        box_detections_per_img=SETTINGS.detections_per_image,
    )


def our_faster_rcnn():
    anchors = Anchors([[8.0 * stride] for stride in STRIDES], [0.5, 1.0, 2.0], STRIDES)
    backbone = build_backbone(RESNET, (2, 6), "pool", fpn_channels=256)
    methods = {
        "rpn": build_method({**SHARED, "activation": "sigmoid"}),
        "roi": build_method({**SHARED, "activation": "softmax"}),
    }
    return FasterRCNN(backbone, NUM_CLASSES, anchors, methods, RPN_SETTINGS, ROI_SETTINGS)


@torch.no_grad()
def scaled_pair():
    """Both networks with equal random weights, the last layers scaled so that scores and offsets vary."""
    torch.manual_seed(0)
    theirs, ours = torchvision_faster_rcnn().eval(), our_faster_rcnn().eval()
    ours.load_state_dict(theirs.state_dict())
    batch = make_batch()
    features = ours.features(batch)
    spread(ours.rpn.head.cls_logits, 2.0, lambda: ours.rpn.head(features))
    spread(ours.rpn.head.bbox_pred, 0.2, lambda: ours.rpn.head(features))
    proposals = ours.propose(batch, *ours.predict_objects(features), ours.rpn_settings.inference)
    images = torch.arange(len(batch)).repeat_interleave(torch.tensor([len(boxes) for boxes in proposals]))
    boxes = torch.cat(proposals)
    spread(ours.roi_heads.box_predictor.cls_score, 3.0, lambda: ours.predict_classes(features, boxes, images))
    spread(ours.roi_heads.box_predictor.bbox_pred, 1.0, lambda: ours.predict_classes(features, boxes, images))
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


def spread(layer, std, run):
    """Scale and centre what a last layer says, which a random network says of all places nearly alike."""
    outputs = []
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.transpose(0, 1).flatten(1)))
    run()
    hook.remove()
    values = torch.cat(outputs, dim=1)
    factor = std / values.std(1).mean()
    layer.weight *= factor
    layer.bias.copy_(factor * (layer.bias - values.mean(1)))


def make_batch(boxes=((), ()), labels=(), seed=None, sizes=SIZES):
    """Two noise images, the second narrower than the padded batch; ``boxes`` lists each one's xyxy boxes."""
    random = torch.Generator().manual_seed(1)
    images = torch.zeros(2, 3, HEIGHT, sizes[0][1], dtype=torch.uint8)
    for image, (height, width) in zip(images, sizes, strict=True):
        coarse = torch.rand(1, 3, height // 16, width // 16, generator=random)
        fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
        image[:, :height, :width] = (255 * fine).to(torch.uint8)
    flat = [box for of_image in boxes for box in of_image]
    return Batch(
        images=images,
        sizes=torch.tensor(sizes),
        scales=torch.ones(2, 2),
        image_ids=torch.arange(2),
        gt_boxes=torch.tensor(flat, dtype=torch.float32).reshape(-1, 4),
        gt_labels=torch.tensor(labels, dtype=torch.int64),
        gt_images=torch.tensor([i for i, of_image in enumerate(boxes) for _ in of_image], dtype=torch.int64),
        ignore_boxes=torch.zeros(0, 4),
        ignore_images=torch.zeros(0, dtype=torch.int64),
        seed=seed,
    )


def images_and_targets(batch):
    """The same batch as torchvision reads it: images of 0 to 1, and a dictionary for each; classes from 1."""
    of_image = [batch.gt_images == i for i in range(len(batch))]
    targets = [{"boxes": batch.gt_boxes[rows], "labels": batch.gt_labels[rows] + 1} for rows in of_image]
    sizes = batch.sizes.tolist()
    images = [image[:, :height, :width] / 255 for image, (height, width) in zip(batch.images, sizes, strict=True)]
    return images, targets


def image_list_and_features(batch, features):
    """The inputs of torchvision's RPN and RoI heads."""
    names = ("0", "1", "2", "3", "pool")
    return ImageList(batch.images, [tuple(size) for size in batch.sizes.tolist()]), OrderedDict(
        zip(names, features, strict=True)
    )


class Recorder:
    """A sampler of ours that remembers what it was asked and what it chose."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __call__(self, candidates, score, generator):
        self.candidates, self.kept = candidates, self.sampler(candidates, score, generator)
        return self.kept

    def chosen(self):
        """[N] bool, whether each candidate is in the sample; images one after the other, as torchvision has them."""
        rows = torch.zeros(len(self.candidates.label), dtype=torch.bool)
        rows[self.kept.index[self.kept.valid]] = True
        return rows[self.candidates.image_id.argsort(stable=True)]

    def labels(self):
        """[N] labels of all candidates in the same order, torchvision's: 0 background, -1 ignored."""
        label = self.candidates.label[self.candidates.image_id.argsort(stable=True)]
        return torch.where(label == self.candidates.num_classes, 0, torch.where(label < 0, -1, label + 1))

    def rows_in_torchvision(self):
        """[M] the row of torchvision's sample, in the order of its candidates, that each of our slots is."""
        assert self.kept.valid.all()
        place = self.candidates.image_id.argsort(stable=True).argsort()
        return (self.chosen().cumsum(0) - 1)[place[self.kept.index]]


class Replay:
    """Stands in for torchvision's sampler: takes the same candidates, after making sure that they have our labels."""

    def __init__(self, recorder):
        self.recorder = recorder

    def __call__(self, labels):
        assert torch.equal(torch.cat(labels).long(), self.recorder.labels())
        chosen = self.recorder.chosen().split([len(of_image) for of_image in labels])
        foreground = [rows & (of_image >= 1) for rows, of_image in zip(chosen, labels, strict=True)]
        background = [rows & (of_image == 0) for rows, of_image in zip(chosen, labels, strict=True)]
        return foreground, background


def share_samples(pair, monkeypatch):
    """Make torchvision's network train on what ours drew last; return what remembers it, by stage.

    torchvision's proposals, the same boxes, are brought into our order first: it ranks rounded probabilities, among
    which there are ties.
    """
    theirs, ours = pair
    recorders = {stage: Recorder(sampler) for stage, sampler in ours.samplers.items()}
    for stage, head in {"rpn": theirs.rpn, "roi": theirs.roi_heads}.items():
        monkeypatch.setitem(ours.samplers, stage, recorders[stage])
        monkeypatch.setattr(head, "fg_bg_sampler", Replay(recorders[stage]))
    propose = theirs.rpn.filter_proposals

    def in_our_order(*arguments):
        boxes, scores = propose(*arguments)
        candidates = recorders["roi"].candidates
        for i, others in enumerate(boxes):
            rows = candidates.priors[candidates.image_id == i][: len(others)]  # after them comes the ground truth
            boxes[i] = others[nearest(rows, others)]
        return boxes, scores

    monkeypatch.setattr(theirs.rpn, "filter_proposals", in_our_order)
    return recorders


def share_pixels(pair, batch, monkeypatch):
    """Hand torchvision's network our normalised images, which are its own but for rounding.

    That rounding, after fifty layers, now and then decides which of two boxes suppresses the other.
    """
    theirs, ours = pair
    transform, pixels = theirs.transform.forward, ours._normalise(batch)

    def same_pixels(images, targets=None):
        image_list, targets = transform(images, targets)
        assert_close(image_list.tensors, pixels, rtol=0, atol=2e-6)
        return ImageList(pixels, image_list.image_sizes), targets

    monkeypatch.setattr(theirs.transform, "forward", same_pixels)


def nearest(rows, others):
    """[N] the row of ``others`` [N, d] that is nearest to each of ``rows`` [N, d], each of them once."""
    assert len(rows) == len(others)
    index = torch.cdist(rows, others, p=torch.inf).argmin(1)
    assert len(index.unique()) == len(index)
    return index
