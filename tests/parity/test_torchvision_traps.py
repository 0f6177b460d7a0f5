"""Where torchvision goes wrong, and this project does not: each test shows both.

NaN gradients of its focal loss are shown with the laws of the losses.
"""

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from torchvision_pair import RATIOS, SIZES, STRIDES

from imbdet.assigners import FOREGROUND, MaxIoUAssigner, Truth
from imbdet.detectors.anchors import Anchors


def torchvision_anchors(height, width, feature_shapes, dtype=torch.float32):
    generator = AnchorGenerator(tuple(map(tuple, SIZES)), (tuple(RATIOS),) * 5)
    images = ImageList(torch.zeros(1, 3, height, width, dtype=dtype), [(height, width)])
    return generator(images, [torch.zeros(1, 1, *shape, dtype=dtype) for shape in feature_shapes])[0]


def our_anchors(height, width):
    return Anchors(SIZES, RATIOS, STRIDES)(height, width)[0]


def test_bf16_moves_torchvision_anchors_and_not_ours():
    height, width = 768, 1280
    shapes = [(height // s, width // s) for s in STRIDES]
    exact = our_anchors(height, width)
    theirs = torchvision_anchors(height, width, shapes, torch.bfloat16).float()
    moved = (theirs - exact).abs().amax(1)
    assert (moved > 0).float().mean() > 0.5
    assert moved.max() >= 4
    with torch.autocast("cpu", torch.bfloat16):
        ours = our_anchors(height, width)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, exact)


def test_torchvision_strides_are_wrong_where_128_does_not_divide_the_image():
    """800x1344: P6 and P7 have 13x21 and 7x11 cells, and 800 // 13 = 61 where 64 is meant."""
    height, width = 800, 1344
    shapes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    counts = [9 * h * w for h, w in shapes]
    theirs, ours = torchvision_anchors(height, width, shapes), our_anchors(height, width)
    for stride, (_, columns), *both in zip(STRIDES, shapes, theirs.split(counts), ours.split(counts), strict=True):
        right = [steps(anchors, columns) == ({stride}, {stride}) for anchors in both]
        assert right == [stride <= 32, True]
        assert torch.equal(*both) == (stride <= 32)


def steps(anchors, columns):
    """The distances of neighbours in a level's rows, and of those in its columns."""
    grid = anchors.reshape(-1, columns, 9, 4)
    return set(grid[..., 0].diff(dim=1).unique().tolist()), set(grid[..., 1].diff(dim=0).unique().tolist())


def test_torchvision_anchors_of_one_place_depend_on_the_padding():
    """And so on which other images are in the batch; at P7 of 320 pixels they are 106 apart."""
    height, width = 256, 320
    shapes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    theirs = torchvision_anchors(height, width, shapes)
    padded = torchvision_anchors(height, 384, [(height // s, 384 // s) for s in STRIDES])
    anchors = {tuple(box) for box in our_anchors(height, 384).tolist()}
    assert {tuple(box) for box in padded.tolist()} == anchors
    assert {tuple(box) for box in our_anchors(height, width).tolist()} < anchors
    assert not {tuple(box) for box in theirs.tolist()} <= anchors
    assert steps(theirs[-9 * 2 * 3 :], 3) == ({106.0}, {128.0})


@pytest.mark.parametrize("box", [[400.0, 400.0, 420.0, 420.0], [50.0, 50.0, 50.0, 50.0]], ids=["outside", "of no area"])
def test_a_box_that_nothing_overlaps_makes_every_anchor_foreground_in_torchvision(box):
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0], [60.0, 60.0, 90.0, 90.0]])
    boxes = torch.tensor([[20.0, 20.0, 40.0, 41.0], box])
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, anchors))
    zeros = torch.zeros(2, dtype=torch.int64)
    truth = Truth(boxes, zeros, zeros, torch.zeros(0, 4), zeros[:0], num_images=1)
    ours = MaxIoUAssigner(0.5, 0.4, "argmax")(anchors, truth)
    assert (theirs >= 0).all()
    assert (ours.status[0] == FOREGROUND).tolist() == [False, True, False]
