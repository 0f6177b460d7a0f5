"""Where torchvision's two-stage parts go wrong, and this project does not: each test shows both."""

import torch
from studies import DETECTOR, ROI, RPN
from torch import nn
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_iou, roi_align

from imbdet.data.batch import Batch
from imbdet.detectors.anchors import Anchors
from imbdet.detectors.faster_rcnn import build_faster_rcnn
from imbdet.detectors.proposals import pool, propose
from imbdet.geometry import BoxCoder, nms_in_groups
from imbdet.methods import build_method
from imbdet.settings import FasterRCNN, Proposals

STRIDES = (4, 8, 16, 32)
CANDIDATES = 300  # of each level


def test_what_torchvision_suppresses_depends_on_the_number_of_the_class():
    """It shifts boxes by class number times image size: at class 1,000 fp32 has only eighths of a pixel left."""
    far = [900.0, 700.0, 1333.0, 800.0]
    scores = torch.tensor([0.9, 0.8, 0.7])

    def left(suppressed, boxes):
        return [len(suppressed(boxes, scores, torch.full((3,), number), 0.5)) for number in (0, 79, 1000)]

    for shift, theirs in {3.333: [2, 3, 3], 3.32: [2, 2, 3]}.items():
        boxes = torch.tensor([[100.0, 100.0, 110.0, 110.0], [100.0, 100.0 + shift, 110.0, 110.0 + shift], far])
        assert box_iou(boxes[:1], boxes[1:2]) > 0.5
        assert left(batched_nms, boxes) == theirs
        assert left(nms_in_groups, boxes) == [2, 2, 2]


class FixedHead(nn.Module):
    """Stands in for RPN's head: given outputs of each level."""

    def __init__(self, logits, deltas):
        super().__init__()
        self.outputs = logits, deltas

    def forward(self, features):
        return self.outputs


def torchvision_proposals(logits, deltas, size, kept=1000):
    """Of a square image, from [1, 1, h, w] logits and [1, 4, h, w] offsets of each level's anchors of 7 strides."""
    generator = AnchorGenerator(tuple((7 * stride,) for stride in STRIDES), ((1.0,),) * len(STRIDES))
    candidates, limits = {"testing": CANDIDATES}, {"testing": kept}
    rpn = RegionProposalNetwork(generator, FixedHead(logits, deltas), 0.7, 0.3, 256, 0.5, candidates, limits, 0.99)
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    return rpn.eval()(images, {str(i): level for i, level in enumerate(logits)})[0][0]


def our_proposals(logits, deltas, size, kept=1000):
    anchors = Anchors([[7.0 * stride] for stride in STRIDES], [1.0], STRIDES)
    flat = torch.cat([level.flatten(1) for level in logits], dim=1)
    offsets = torch.cat([level.flatten(2).transpose(1, 2) for level in deltas], dim=1)
    limits = Proposals(candidates_per_level=CANDIDATES, kept=kept)
    boxes, counts = anchors(size, size)[0], anchors.counts(size, size)
    return propose(flat, offsets, boxes, counts, torch.tensor([[size, size]]), BoxCoder(), limits, 0.99)[0]


def outputs_of_rpn(size, dtype=torch.float32):
    random = torch.Generator().manual_seed(1)
    shapes = [(1, 1, size // stride, size // stride) for stride in STRIDES]
    logits = [torch.randn(shape, generator=random).to(dtype) for shape in shapes]
    return logits, [torch.zeros(1, 4, *shape[2:], dtype=dtype) for shape in shapes]


def test_bf16_moves_torchvision_proposals_and_not_ours():
    """Offsets of 0 propose the anchors themselves, clipped."""
    size = 768
    anchors = Anchors([[7.0 * stride] for stride in STRIDES], [1.0], STRIDES)(size, size)[0].clamp(0, size)
    exact, outputs = outputs_of_rpn(size), outputs_of_rpn(size, torch.bfloat16)

    def moved(boxes):
        return float(torch.cdist(boxes.float(), anchors, p=torch.inf).amin(1).max())

    assert moved(torchvision_proposals(*exact, size)) == 0
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = torchvision_proposals(*outputs, size), our_proposals(*outputs, size)
    assert moved(theirs) >= 1
    assert ours.dtype == torch.float32
    assert moved(ours) == 0


def test_torchvision_forgets_which_of_two_confident_boxes_is_better():
    """It ranks by probability, which is 1 in fp32 from a logit of 17 on, in bf16 from 6 on: the finer level wins."""
    logits, deltas = outputs_of_rpn(64)
    logits[0][0, 0, 8, 8], logits[3][0, 0, 1, 1] = 18.0, 25.0
    best = torch.tensor([[32.0 - 112, 32.0 - 112, 32.0 + 112, 32.0 + 112]]).clamp(0, 64)
    other = torch.tensor([[32.0 - 14, 32.0 - 14, 32.0 + 14, 32.0 + 14]])
    assert_close(torchvision_proposals(logits, deltas, 64, kept=1), other)
    assert_close(our_proposals(logits, deltas, 64, kept=1), best)


def test_the_first_image_decides_where_torchvision_pools_for_ever():
    """It infers strides from the first images before padding: 65 pixels padded to 128 make P2's stride 2."""
    random = torch.Generator().manual_seed(2)
    features = [torch.randn(1, 3, 128 // stride, 128 // stride, generator=random) for stride in STRIDES]
    boxes = torch.tensor([[8.0, 8.0, 40.0, 56.0], [60.0, 70.0, 100.0, 90.0]])
    named = {str(i): level for i, level in enumerate(features)}
    expected = roi_align(features[0], [boxes], 4, 1 / 4, 2)
    for first, right in {65: False, 128: True}.items():
        theirs = MultiScaleRoIAlign(list(named), output_size=4, sampling_ratio=2)
        theirs(named, [boxes], [(first, first)])
        pooled = theirs(named, [boxes], [(128, 128)])
        assert torch.allclose(pooled, expected) == right
    assert_close(pool(features, STRIDES, boxes, torch.zeros(2, dtype=torch.int64), 4, 2, 224.0), expected)


def test_no_proposal_at_all_makes_torchvision_lose_nan():
    """As where RPN's boxes have left the images, and these have no ground truth."""
    none = torch.zeros(0, dtype=torch.int64)
    theirs, _ = fastrcnn_loss(torch.zeros(0, 4), torch.zeros(0, 16), [none], [torch.zeros(0, 4)])
    assert theirs.isnan()
    methods = {"rpn": build_method(RPN), "roi": build_method(ROI)}
    ours = build_faster_rcnn(FasterRCNN.model_validate(DETECTOR), 3, methods)
    nn.init.constant_(ours.rpn.head.bbox_pred.bias, 1e4)
    losses = ours(empty_batch())
    assert losses["roi_classification"].isfinite()
    assert losses["roi_classification"] > 0


def empty_batch():
    none = torch.zeros(0, dtype=torch.int64)
    return Batch(
        images=torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        sizes=torch.full((2, 2), 64),
        scales=torch.ones(2, 2),
        image_ids=torch.arange(2),
        gt_boxes=torch.zeros(0, 4),
        gt_labels=none,
        gt_images=none,
        ignore_boxes=torch.zeros(0, 4),
        ignore_images=none,
    )
