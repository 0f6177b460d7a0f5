"""From RPN's outputs to proposals, and from proposals to the features of each."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import MultiScaleRoIAlign

from imbdet.detectors.proposals import pool, propose
from imbdet.geometry import BoxCoder
from imbdet.settings import Proposals

STRIDES = (4, 8, 16, 32)
SIZES = [[64, 96], [50, 70], [64, 64]]  # height and width of images inside the padded ones of 64x128
COUNTS = [600, 150, 40]


def propose_at_random(seed, limits=(100, 80), spread=1.0):
    """Boxes of three images from random anchors and outputs; some are pushed out of their image."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(sum(COUNTS), 2, generator=random) * torch.tensor([128.0, 64.0]) - 8
    anchors = torch.cat([corner, corner + 4 + 40 * torch.rand(sum(COUNTS), 2, generator=random)], dim=1)
    logits = 5 * torch.randn(3, sum(COUNTS), generator=random)
    deltas = spread * torch.randn(3, sum(COUNTS), 4, generator=random)
    limits = Proposals(candidates_per_level=limits[0], kept=limits[1])
    settings = anchors, COUNTS, torch.tensor(SIZES), BoxCoder(), limits, 0.6
    return propose(logits, deltas, *settings), (logits, deltas, *settings)


def slow_proposals(logits, deltas, anchors, counts, sizes, coder, limits, nms_iou):
    """The same, one image, one level and one box at a time (Ren et al. 2015, section 3.1)."""
    images = []
    for own_logits, own_deltas, (height, width) in zip(logits, deltas, sizes.tolist(), strict=True):
        kept, first = [], 0
        for count in counts:
            rows = sorted(range(first, first + count), key=lambda row: -own_logits[row])[: limits.candidates_per_level]
            survivors = []
            for row in rows:
                x1, y1, x2, y2 = coder.decode(own_deltas[row], anchors[row]).tolist()
                box = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
                whole = min(box[2] - box[0], box[3] - box[1]) >= 1e-3
                if whole and all(iou(box, other) <= nms_iou for _, other in survivors):
                    survivors.append((float(own_logits[row]), box))
            kept += survivors
            first += count
        kept.sort(key=lambda pair: -pair[0])
        images.append(torch.tensor([box for _, box in kept[: limits.kept]]).reshape(-1, 4))
    return images


def iou(box, other):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    inside = max(width, 0) * max(height, 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other)]
    return inside / (sum(areas) - inside)


@pytest.mark.parametrize(("limits", "cut"), [((100, 80), True), ((1000, 5000), False), ((7, 1), True)])
@pytest.mark.parametrize("seed", [0, 1])
def test_proposals_are_those_of_plain_loops(seed, limits, cut):
    proposals, arguments = propose_at_random(seed, limits)
    expected = slow_proposals(*arguments)
    for boxes, others, (height, width) in zip(proposals, expected, SIZES, strict=True):
        assert (len(others) == limits[1]) == cut
        assert_close(boxes, others, rtol=0, atol=1e-4)
        assert boxes.min() >= 0
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] - boxes[:, :2]).min() >= 1e-3


def test_an_image_whose_boxes_all_vanish_has_no_proposal_and_changes_no_other():
    proposals, (logits, deltas, *settings) = propose_at_random(2)
    deltas[1, :, 0] = 1e4
    without = propose(logits, deltas, *settings)
    assert without[1].shape == (0, 4)
    for image in (0, 2):
        assert torch.equal(without[image], proposals[image])


def test_a_box_below_the_smallest_side_suppresses_no_other():
    anchors = torch.tensor([[0.0, 0.0, 0.00095, 20.0], [0.0, 0.0, 0.00105, 20.0]])
    limits = Proposals(candidates_per_level=10, kept=10)
    for logits in ([2.0, 1.0], [1.0, 2.0]):
        arguments = torch.zeros(1, 2, 4), anchors, [2], torch.tensor([[64, 64]]), BoxCoder(), limits, 0.5
        assert_close(propose(torch.tensor([logits]), *arguments)[0], anchors[1:])


def test_equal_boxes_leave_one_at_each_level():
    _, (logits, deltas, anchors, *settings) = propose_at_random(3)
    same = torch.tensor([10.0, 10.0, 30.0, 30.0]).expand_as(anchors)
    for boxes in propose(logits, torch.zeros_like(deltas), same, *settings):
        assert_close(boxes, same[: len(COUNTS)])


def test_proposals_have_no_gradient():
    _, (logits, deltas, *settings) = propose_at_random(4)
    proposals = propose(logits.requires_grad_(), deltas.requires_grad_(), *settings)
    assert not any(boxes.requires_grad for boxes in proposals)


def random_features(channels=5, images=3, side=256):
    random = torch.Generator().manual_seed(5)
    shapes = [(images, channels, side // stride, side // stride) for stride in STRIDES]
    return [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]


def test_pooling_is_that_of_torchvision_whatever_the_order_of_the_boxes():
    random = torch.Generator().manual_seed(6)
    corner = 200 * torch.rand(90, 2, generator=random)
    sides = 700 ** torch.rand(90, 1, generator=random) * (0.5 + torch.rand(90, 2, generator=random))
    boxes = torch.cat([corner, corner + sides], dim=1)
    images = torch.randint(0, 3, (90,), generator=random)
    features = random_features()
    pooled = pool(features, STRIDES, boxes, images, pool_size=4, sampling_ratio=2, canonical_size=224.0)
    theirs = MultiScaleRoIAlign([str(s) for s in STRIDES], output_size=4, sampling_ratio=2)
    named = dict(zip(theirs.featmap_names, features, strict=True))
    expected = theirs(named, [boxes[images == i] for i in range(3)], [(256, 256)] * 3)
    expected = expected[images.argsort(stable=True).argsort()]
    assert_close(pooled, expected)
    weight = torch.randn(pooled.shape, generator=random)
    gradients = [torch.autograd.grad((weight * x).sum(), features) for x in (pooled, expected)]
    for gradient, other in zip(*gradients, strict=True):
        assert gradient.any()  # boxes of every level
        assert_close(gradient, other)


@pytest.mark.parametrize("canonical", [224.0, 64.0])
def test_levels_are_those_of_the_paper(canonical):
    """FPN, equation 1: floor(4 + log2(sqrt(width height) / canonical size)), from P2 to P5."""
    sides = {0.001: 2, 0.25: 2, 0.499: 2, 0.5: 3, 0.99: 3, 1.0: 4, 1.99: 4, 2.0: 5, 8.0: 5}
    shapes = [(canonical * side, canonical * side, level) for side, level in sides.items()]
    shapes += [(canonical / 4, canonical * 4, 4), (canonical / 8, canonical * 2, 3), (0.0, 10.0, 2)]
    boxes = torch.tensor([[0.0, 0.0, width, height] for width, height, _ in shapes])
    levels = [torch.full((1, 1, 2048 // stride, 2048 // stride), float(p)) for p, stride in enumerate(STRIDES, 2)]
    pooled = pool(levels, STRIDES, boxes, torch.zeros(len(boxes), dtype=torch.int64), 1, 2, canonical)
    assert pooled.flatten().tolist() == [level for _, _, level in shapes]


def test_rounding_does_not_put_a_box_of_the_canonical_size_a_level_lower():
    boxes = torch.tensor([[900.7, 900.7, 1124.7, 1124.7]])
    assert boxes[0, 2] - boxes[0, 0] < 224
    levels = [torch.full((1, 1, 2048 // stride, 2048 // stride), float(p)) for p, stride in enumerate(STRIDES, 2)]
    assert pool(levels, STRIDES, boxes, torch.tensor([0]), 1, 2, 224.0) == 4


def test_no_boxes_pool_to_no_features():
    none = torch.zeros(0, dtype=torch.int64)
    assert pool(random_features(), STRIDES, torch.zeros(0, 4), none, 4, 2, 224.0).shape == (0, 5, 4, 4)
