"""torchvision's RetinaNet and ours with the same weights, and one batch in the form that each of them reads."""

import torch
from torchvision.models.detection import retinanet_resnet50_fpn

from imbdet.assigners import MaxIoUAssigner
from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import build_backbone
from imbdet.detectors.retinanet import RetinaNet
from imbdet.methods import build_method
from imbdet.settings import Backbone, Evaluate

RESNET = Backbone(name="resnet50", weights="none", frozen="none")
NUM_CLASSES = 91
HEIGHT, WIDTH = 256, 384
UNEVEN = 320  # a width that P7's stride does not divide
# torchvision rounds the sides of its anchors down to whole pixels.
SIZES = [[x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))] for x in (32, 64, 128, 256, 512)]
RATIOS = [0.5, 1.0, 2.0]
STRIDES = (8, 16, 32, 64, 128)
FOCAL = {
    "name": "focal",
    "alpha": 0.25,
    "gamma": 2.0,
    "prior_prob": 0.01,
    "normalizer": "per_image",
    "box_beta": 0.0,
}
SETTINGS = Evaluate(
    batch_size=2,
    score_threshold=0.05,
    nms_iou=0.5,
    candidates_per_level=1000,
    detections_per_image=300,
    operating_score=0.3,
)


def torchvision_retinanet(**kwargs):
    return retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=HEIGHT, max_size=WIDTH, detections_per_img=300, **kwargs
    )


def our_retinanet():
    anchors = Anchors(SIZES, RATIOS, STRIDES)
    backbone = build_backbone(RESNET, (3, 7), "p5", fpn_channels=256)
    return RetinaNet(backbone, NUM_CLASSES, anchors, MaxIoUAssigner(0.5, 0.4, "argmax"), build_method(FOCAL))


def scaled_pair():
    """Both networks with equal random weights, the last layers scaled so that scores and offsets vary."""
    torch.manual_seed(0)
    theirs, ours = torchvision_retinanet().eval(), our_retinanet().eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        logits, deltas = ours.predict(make_batch())
        classification, regression = theirs.head.classification_head.cls_logits, theirs.head.regression_head.bbox_reg
        classification.weight *= 2 / logits.std()
        classification.bias.fill_(-6.0)
        regression.weight *= 0.2 / deltas.std()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_batch(boxes=((), ()), labels=(), width=WIDTH):
    """Two noise images of 256 x ``width`` pixels; ``boxes`` lists each one's xyxy boxes."""
    random = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, HEIGHT // 16, width // 16, generator=random)
    images = torch.nn.functional.interpolate(coarse, size=(HEIGHT, width), mode="bilinear")
    flat = [box for of_image in boxes for box in of_image]
    return Batch(
        images=(255 * images).to(torch.uint8),
        sizes=torch.tensor([[HEIGHT, width]] * 2),
        scales=torch.ones(2, 2),
        image_ids=torch.arange(2),
        gt_boxes=torch.tensor(flat, dtype=torch.float32).reshape(-1, 4),
        gt_labels=torch.tensor(labels, dtype=torch.int64),
        gt_images=torch.tensor([i for i, of_image in enumerate(boxes) for _ in of_image], dtype=torch.int64),
        ignore_boxes=torch.zeros(0, 4),
        ignore_images=torch.zeros(0, dtype=torch.int64),
    )


def images_and_targets(batch):
    """The same batch as torchvision reads it: images of 0 to 1, and a dictionary for each."""
    of_image = [batch.gt_images == i for i in range(len(batch))]
    targets = [{"boxes": batch.gt_boxes[rows], "labels": batch.gt_labels[rows]} for rows in of_image]
    return list(batch.images / 255), targets
