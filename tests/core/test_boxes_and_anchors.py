"""Box arithmetic and anchors: inverses, orders, shapes and refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.ops import box_iou

from imbdet.detectors.anchors import Anchors
from imbdet.detectors.backbones import build_backbone
from imbdet.errors import UserError
from imbdet.geometry import BoxCoder, clip, paired_iou
from imbdet.heads import HeadSpec
from imbdet.settings import Backbone, RetinaNet

TINY = Backbone(name="tiny", weights="none", frozen="none")
WEIGHTS = st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])


@st.composite
def boxes(draw):
    """One xyxy box [1, 4] in fp64, 1 to 500 pixels wide and high."""
    x, y = draw(st.floats(-100, 1000)), draw(st.floats(-100, 1000))
    return torch.tensor([[x, y, x + draw(st.floats(1, 500)), y + draw(st.floats(1, 500))]], dtype=torch.float64)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(boxes(), boxes(), WEIGHTS)
def test_decoding_inverts_encoding(box, prior, weights):
    coder = BoxCoder(weights, max_ratio=1000.0)
    assert_close(coder.decode(coder.encode(box, prior), prior), box, rtol=1e-9, atol=1e-9)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(boxes(), st.lists(st.floats(-3, 3), min_size=4, max_size=4), WEIGHTS)
def test_encoding_inverts_decoding(prior, offsets, weights):
    coder, deltas = BoxCoder(weights), torch.tensor([offsets], dtype=torch.float64)
    assert_close(coder.encode(coder.decode(deltas, prior), prior), deltas, rtol=1e-7, atol=1e-7)


def test_offsets_by_hand():
    prior = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = torch.tensor([[5.0, 10.0, 25.0, 20.0]])
    expected = torch.tensor([[1.0, 0.25, 2.0, 0.5]])
    expected[:, 2:].log_()
    assert_close(BoxCoder().encode(box, prior), expected)
    assert_close(BoxCoder((10.0, 10.0, 5.0, 5.0)).encode(box, prior), expected * torch.tensor([10.0, 10.0, 5.0, 5.0]))


def test_a_decoded_size_is_bounded_and_in_the_priors_precision():
    prior = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    box = BoxCoder().decode(torch.full((1, 4), 100.0, dtype=torch.float16), prior)
    assert box.dtype == torch.float32
    assert_close(box[:, 2:] - box[:, :2], torch.full((1, 2), 625.0))


def test_clipping_keeps_boxes_inside_height_and_width():
    box = torch.tensor([[-5.0, -5.0, 300.0, 300.0], [10.0, 20.0, 30.0, 40.0]])
    clipped = clip(box, torch.tensor([100, 200]))
    assert clipped.tolist() == [[0, 0, 200, 100], [10, 20, 30, 40]]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([torch.float32, torch.float64]))
def test_iou_of_pairs_is_the_diagonal_of_iou_of_all(seed, dtype):
    """Corners on a coarse grid, so that boxes touch, coincide and have no area; there torchvision has 0 / 0."""
    corners = torch.randint(0, 5, (2, 30, 2, 2), generator=torch.Generator().manual_seed(seed)).sort(2).values
    one, other = corners.flatten(2).to(dtype)
    iou = paired_iou(one, other)
    assert iou.dtype == dtype
    assert_close(iou, box_iou(one, other).diagonal().nan_to_num(0.0))
    assert_close(paired_iou(one.view(5, 6, 4), other.view(5, 6, 4)), iou.view(5, 6))


def test_iou_of_pairs_of_boxes_of_no_area_is_0_with_a_finite_gradient():
    point, box = torch.tensor([5.0, 5.0, 5.0, 5.0]), torch.tensor([0.0, 0.0, 10.0, 10.0])
    boxes = torch.stack([point, point, box]).requires_grad_()
    iou = paired_iou(boxes, torch.stack([point, box, point]))
    iou.sum().backward()
    assert iou.tolist() == [0, 0, 0]
    assert boxes.grad.isfinite().all()


def make_anchors():
    return Anchors([[8.0, 12.0], [16.0, 24.0], [32.0, 48.0]], [0.5, 1.0, 2.0], (8, 16, 32))


def test_anchors_have_their_area_ratio_centre_and_order():
    """Level, row, column, ratio, size; centres at the cells' upper left corners; sides rounded to even pixels."""
    height, width = 64, 96
    anchors, levels = make_anchors()(height, width)
    assert anchors.dtype == torch.float32
    expected = torch.tensor(
        [
            (level, x, y, size / ratio**0.5, size * ratio**0.5)
            for level, stride in enumerate((8, 16, 32))
            for y in range(0, height, stride)
            for x in range(0, width, stride)
            for ratio in (0.5, 1.0, 2.0)
            for size in (stride, 1.5 * stride)
        ]
    )
    centres, sides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    assert torch.equal(levels, expected[:, 0].long())
    assert torch.equal(centres, expected[:, 1:3])
    assert ((sides - expected[:, 3:]).abs() <= 1).all()


def test_anchor_counts_are_by_level():
    anchors = make_anchors()
    counts = anchors.counts(64, 96)
    assert counts == [8 * 12 * 6, 4 * 6 * 6, 2 * 3 * 6]
    assert anchors(64, 96)[1].bincount().tolist() == counts


def test_anchors_of_a_size_are_made_once():
    anchors = make_anchors()
    first = anchors(64, 96)
    assert anchors(64, 96)[0] is first[0]
    assert len(anchors(96, 64)[0]) == len(first[0])
    assert not torch.equal(anchors(96, 64)[0], first[0])


def test_anchors_are_no_part_of_a_checkpoint():
    assert dict(make_anchors().state_dict()) == {}


def test_anchors_of_a_place_are_the_same_however_the_image_is_padded():
    """Where the coarsest stride does not divide the padded image as where it does."""
    anchors = make_anchors()

    def at(height, width):
        boxes, levels = anchors(height, width)
        return {(level, *box) for level, box in zip(levels.tolist(), boxes.tolist(), strict=True)}

    assert len(at(72, 104)) == len(anchors(72, 104)[0]) == (9 * 13 + 5 * 7 + 3 * 4) * 6
    assert at(64, 96) < at(72, 104) < at(96, 128)


def test_anchors_refuse_sizes_that_fit_no_pyramid():
    with pytest.raises(ValueError, match="2 lists of anchor sizes for 3 levels"):
        Anchors([[8.0], [16.0]], [1.0], (8, 16, 32))
    with pytest.raises(ValueError, match="same number of anchor sizes"):
        Anchors([[8.0], [16.0, 20.0], [32.0]], [1.0], (8, 16, 32))


PYRAMIDS = [
    ("c5", (3, 7)),
    ("p5", (3, 7)),
    ("p5", (3, 6)),
    ("none", (3, 5)),
    ("pool", (2, 6)),
    ("pool", (4, 7)),
    ("none", (2, 5)),
]


@pytest.mark.parametrize(("p6_source", "ends"), PYRAMIDS)
@pytest.mark.parametrize(("height", "width"), [(128, 256), (96, 224), (32, 160)])
def test_levels_have_a_cell_a_stride_and_round_up(p6_source, ends, height, width):
    """As many as there are anchors for, also where the image is no multiple of the coarse levels' strides."""
    backbone = build_backbone(TINY, ends, p6_source, fpn_channels=8).eval()
    with torch.no_grad():
        levels = list(backbone(torch.zeros(1, 3, height, width)).values())
    strides = RetinaNet.model_construct(levels=ends).strides
    expected = [(1, 8, math.ceil(height / s), math.ceil(width / s)) for s in strides]
    assert [tuple(level.shape) for level in levels] == expected
    anchors = Anchors([[8.0]] * len(strides), [1.0], strides)
    assert anchors.counts(height, width) == [h * w for _, _, h, w in expected]
    assert anchors(height, width)[1].bincount().tolist() == anchors.counts(height, width)


@pytest.mark.parametrize("p6_source", ["c5", "p5"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 64), (64, 192), (32, 32)])
def test_gradients_of_coarse_levels_in_bf16_are_those_of_fp32(p6_source, height, width):
    """Also where P6 has one column, of which PyTorch's own bf16 on a CPU leaves a part unset."""
    torch.manual_seed(0)
    backbone = build_backbone(TINY, (3, 7), p6_source, fpn_channels=64).eval()
    images = torch.rand(2, 3, height, width)
    gradients = []
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            levels = list(backbone(images).values())
        backbone.zero_grad()
        sum(level.float().square().sum() for level in levels).backward()
        gradients.append([p.grad for p in backbone.fpn.extra_blocks.parameters()])
        assert levels[0].dtype == levels[2].dtype == precision
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_p6_reads_what_it_is_told_also_at_equal_widths():
    c = [torch.randn(1, 96, side, side) for side in (8, 4)]
    p = [torch.randn_like(level) for level in c]
    for source, below in (("c5", c), ("p5", p)):
        extra = build_backbone(TINY, (3, 7), source, fpn_channels=96).fpn.extra_blocks
        levels, names = extra([*p], c, ["0", "1"])
        assert names == ["0", "1", "p6", "p7"]
        assert torch.equal(levels[2], extra.p6(below[-1]))
        assert torch.equal(levels[3], extra.p7(levels[2].relu()))


def test_unknown_backbones_are_refused_with_the_nearest():
    unknown = TINY.model_copy(update={"name": "resnet5"})
    with pytest.raises(UserError, match=r"'resnet5' does not exist; did you mean 'resnet50'"):
        build_backbone(unknown, (3, 7), "c5", fpn_channels=8)


def test_the_prior_bias_gives_the_prior_probability():
    head = HeadSpec("sigmoid", 0.01)
    assert head.bias == pytest.approx(-4.59511985)
    for prior in (1e-3, 0.01, 0.5, 0.9):
        head = HeadSpec("sigmoid", prior)
        assert head.scores(torch.tensor([head.bias])).item() == pytest.approx(prior)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_without_a_prior_the_bias_is_0(activation):
    assert HeadSpec(activation, None).bias == 0


def test_softmax_has_a_column_for_the_background_and_no_score_of_it():
    sigmoid, softmax = HeadSpec("sigmoid", None), HeadSpec("softmax", None)
    assert (sigmoid.columns(3), softmax.columns(3)) == (3, 4)
    logits = torch.log(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert_close(softmax.scores(logits), torch.tensor([[[0.1, 0.2, 0.3]]]))
    assert_close(sigmoid.scores(logits), torch.tensor([[[1 / 2, 2 / 3, 3 / 4, 4 / 5]]]))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_scores_are_in_fp32_and_fp64_is_kept(activation):
    head = HeadSpec(activation, None)
    half = torch.tensor([[3.0, -1.0, 0.5]], dtype=torch.bfloat16)
    assert_close(head.scores(half), head.scores(half.float()), rtol=0, atol=0)
    assert head.scores(half.double()).dtype == torch.float64


def test_a_prior_is_refused_with_softmax():
    with pytest.raises(
        ValueError, match=r"^prior_prob is for sigmoid heads, softmax starts with a bias of 0: got 0.01$"
    ):
        HeadSpec("softmax", 0.01)
