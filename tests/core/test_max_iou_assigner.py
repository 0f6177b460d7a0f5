"""Laws of the max-IoU assigner: what a batch, a crowd, a tie, an order or an empty image changes, and what not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from imbdet.assigners import BACKGROUND, FOREGROUND, IGNORED, MaxIoUAssigner, Truth
from imbdet.geometry import pairwise_iou

RULES = ("argmax", "reassign", "off")


def as_boxes(rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def grid(side=16, step=8, extent=64):
    """Square anchors on a regular grid, so that ties are common."""
    return as_boxes([[x, y, x + side, y + side] for y in range(0, extent, step) for x in range(0, extent, step)])


def flatten(lists):
    """Lists of boxes, one list an image, as one tensor, and the image of each."""
    images = torch.tensor([i for i, rows in enumerate(lists) for _ in rows], dtype=torch.int64)
    return as_boxes([row for rows in lists for row in rows]), images


def truth_of(boxes, regions):
    """Lists of each image's boxes, all of class 0, and regions to ignore."""
    flat, images = flatten(boxes)
    return Truth(flat, torch.zeros_like(images), images, *flatten(regions), num_images=len(boxes))


def assign(boxes, rule="argmax", anchors=None, regions=None, foreground_iou=0.5, background_iou=0.4, least=0.0):
    """Match lists of each image's boxes (and regions to ignore) with the anchors."""
    assigner = MaxIoUAssigner(foreground_iou, background_iou, rule, least)
    return assigner(grid() if anchors is None else anchors, truth_of(boxes, regions or [[] for _ in boxes]))


@st.composite
def box(draw):
    x, y = draw(st.integers(0, 60)), draw(st.integers(0, 60))
    return [x, y, x + draw(st.integers(1, 40)), y + draw(st.integers(1, 40))]


def images_of_boxes(max_images=4):
    return st.lists(st.lists(box(), max_size=4), min_size=1, max_size=max_images)


seeded = settings(max_examples=60, deadline=None, derandomize=True)


@seeded
@given(images_of_boxes(), images_of_boxes(), st.sampled_from(RULES))
def test_a_batch_is_matched_as_its_images_are(boxes, regions, rule):
    regions = (regions + [[] for _ in boxes])[: len(boxes)]
    batch = assign(boxes, rule, regions=regions)
    first = 0
    for i, rows in enumerate(boxes):
        single = assign([rows], rule, regions=[regions[i]])
        assert torch.equal(batch.status[i], single.status[0])
        assert torch.equal(batch.iou[i], single.iou[0])
        shifted = torch.where(single.gt_id[0] >= 0, single.gt_id[0] + first, -1)
        assert torch.equal(batch.gt_id[i], shifted)
        first += len(rows)


PROPOSALS = st.lists(st.lists(box(), max_size=6), min_size=4, max_size=4)


@seeded
@given(PROPOSALS, images_of_boxes(), images_of_boxes(), st.sampled_from(RULES), st.randoms(use_true_random=False))
def test_proposals_are_matched_image_by_image(proposals, boxes, regions, rule, random):
    """Whatever order the proposals of all images stand in, and whether an image has any, or any box."""
    regions = (regions + [[] for _ in boxes])[: len(boxes)]
    assigner, truth = MaxIoUAssigner(0.5, 0.4, rule), truth_of(boxes, regions)
    flat, images = flatten(proposals[: len(boxes)])
    order = torch.tensor(random.sample(range(len(flat)), len(flat)), dtype=torch.int64)
    flat, images = flat[order], images[order]
    together = assigner.match_proposals(flat, images, truth)
    assert together.status.shape == (1, len(flat))
    for i in range(len(boxes)):
        of_image = images == i
        alone = assigner(flat[of_image], truth)
        for name in ("status", "iou", "gt_id", "multiplicity"):
            assert torch.equal(getattr(together, name)[0, of_image], getattr(alone, name)[i]), name


@seeded
@given(images_of_boxes(), st.sampled_from(RULES))
def test_one_of_several_boxes_picks_each_anchor(boxes, rule):
    assert (assign(boxes, rule).multiplicity == 1).all()


def slow_match(anchors, rows, rule):
    """The rule in words, one anchor at a time, for one image without crowds: status, and the box where foreground."""

    def iou(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inside = max(w, 0) * max(h, 0)
        return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)

    table = [[iou(gt, anchor) for anchor in anchors.tolist()] for gt in rows]
    best_of_box = [max(of_box) for of_box in table]
    result = []
    for a in range(len(anchors)):
        column = [of_box[a] for of_box in table]
        top = max(column, default=0.0)
        status = FOREGROUND if top >= 0.5 else IGNORED if top >= 0.4 else BACKGROUND
        gt = column.index(top) if column else -1
        forced = [g for g, value in enumerate(column) if value == best_of_box[g] > 0]
        if rule != "off" and forced:
            status = FOREGROUND
            gt = forced[-1] if rule == "reassign" else gt
        result.append((status, gt if status == FOREGROUND else None))
    return result


@seeded
@given(st.lists(box(), max_size=5), st.sampled_from(RULES))
def test_the_rule_in_words(rows, rule):
    """Whole-pixel corners, so that IoUs are ratios of small integers and ties are exact in fp32 too."""
    matches = assign([rows], rule)
    got = [
        (s, g if s == FOREGROUND else None)
        for s, g in zip(matches.status[0].tolist(), matches.gt_id[0].tolist(), strict=True)
    ]
    assert got == slow_match(grid(), rows, rule)


@seeded
@given(st.lists(box(), min_size=2, max_size=4, unique_by=tuple), st.randoms(use_true_random=False))
def test_the_order_of_boxes_changes_only_ties(rows, random):
    order = random.sample(range(len(rows)), len(rows))
    one, other = assign([rows], "argmax"), assign([[rows[i] for i in order]], "argmax")
    assert torch.equal(one.status, other.status)
    assert torch.equal(one.iou, other.iou)


def test_low_quality_matches():
    """Anchor 0 overlaps box 0 with IoU .6 and is the best of box 1, at IoU .25."""
    anchors = as_boxes([[0, 0, 10, 10], [40, 40, 50, 50]])
    rows = [[0, 0, 10, 6], [0, 0, 5, 5]]
    expected = {"off": 0, "argmax": 0, "reassign": 1}
    for rule, gt in expected.items():
        matches = assign([rows], rule, anchors)
        assert matches.status.tolist() == [[FOREGROUND, BACKGROUND]]
        assert matches.gt_id[0, 0] == gt
        assert matches.iou[0, 0].item() == pytest.approx([0.6, 0.25][gt])
    only_weak = {"off": BACKGROUND, "argmax": FOREGROUND, "reassign": FOREGROUND}
    for rule, status in only_weak.items():
        assert assign([rows[1:]], rule, anchors).status[0, 0] == status


@pytest.mark.parametrize("rule", ["argmax", "reassign"])
def test_a_match_is_forced_from_the_least_iou_on(rule):
    anchors = as_boxes([[0, 0, 10, 10]])
    for least, status in ((0.2, FOREGROUND), (0.25, FOREGROUND), (0.26, BACKGROUND)):
        assert assign([[[0, 0, 5, 5]]], rule, anchors, least=least).status == status


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rows", [[[200, 200, 220, 220]], [[8, 8, 8, 8]]], ids=["outside", "of no area"])
def test_a_box_that_nothing_overlaps_matches_nothing(rule, rows):
    matches = assign([rows], rule)
    assert (matches.status == BACKGROUND).all()
    assert (matches.iou == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_priors_without_area_match_nothing(rule):
    """Nor a box of no area at the same place, where 0 / 0 would be NaN; nor do those of a negative width."""
    priors = as_boxes([[8, 8, 8, 8], [8, 8, 8, 24], [24, 8, 8, 24], [24, 24, 8, 8], [0, 0, 16, 16]])
    boxes = [[8, 8, 8, 8], [8, 8, 8, 24], [0, 0, 16, 16]]
    truth, assigner = truth_of([boxes], [[]]), MaxIoUAssigner(0.5, 0.4, rule)
    for matches in (assigner(priors, truth), assigner.match_proposals(priors, torch.zeros(5).long(), truth)):
        assert matches.iou.tolist() == [[0, 0, 0, 0, 1]]
        assert matches.status.tolist() == [[BACKGROUND] * 4 + [FOREGROUND]]
        assert matches.gt_id[0, -1] == 2


@seeded
@given(images_of_boxes(), st.sampled_from([torch.float16, torch.float32, torch.float64, torch.int64]))
def test_an_iou_is_that_of_torchvision_to_the_bit(boxes, dtype):
    flat, _ = flatten(boxes)
    for one, other in ((flat, grid()), (flat, flat), (flat.to(dtype), grid()), (flat.to(dtype), grid().to(dtype))):
        got, expected = pairwise_iou(one, other), box_iou(one, other)
        assert torch.equal(got, expected.nan_to_num())
        assert got.dtype == (torch.float64 if torch.float64 in (one.dtype, other.dtype) else torch.float32)


@pytest.mark.parametrize("rule", RULES)
def test_images_without_boxes_are_background(rule):
    for boxes in ([[], []], [[[0, 0, 16, 16]], []]):
        matches = assign(boxes, rule)
        assert (matches.status[-1] == BACKGROUND).all()
        assert (matches.gt_id[-1] == -1).all()
        assert (matches.iou[-1] == 0).all()


def test_thresholds_are_inclusive_below_and_exclusive_above():
    anchors = as_boxes([[0, 0, 10, 10]])
    for width, status in ((5, FOREGROUND), (4, IGNORED), (3, BACKGROUND)):
        assert assign([[[0, 0, width, 10]]], "off", anchors, background_iou=0.4).status == status


def test_crowds_turn_background_into_ignored_by_their_share_of_the_anchor():
    """A region much larger than the anchors has a small IoU with each of them, and holds them all the same."""
    anchors = as_boxes([[0, 0, 10, 10], [95, 0, 105, 10], [96, 0, 106, 10], [0, 50, 10, 60]])
    matches = assign([[[0, 0, 10, 10]], []], "argmax", anchors, regions=[[[0, 0, 100, 40]], []])
    assert matches.status.tolist() == [[FOREGROUND, BACKGROUND, BACKGROUND, BACKGROUND], [BACKGROUND] * 4]
    matches = assign([[], [[0, 0, 10, 10]]], "argmax", anchors, regions=[[[0, 0, 101, 40]], []])
    assert matches.status.tolist() == [[IGNORED, IGNORED, BACKGROUND, BACKGROUND], [FOREGROUND] + [BACKGROUND] * 3]


@seeded
@given(images_of_boxes(), images_of_boxes())
def test_crowds_never_change_foreground(boxes, regions):
    regions = (regions + [[] for _ in boxes])[: len(boxes)]
    free, crowded = assign(boxes), assign(boxes, regions=regions)
    assert torch.equal(free.status == FOREGROUND, crowded.status == FOREGROUND)
    assert torch.equal(free.gt_id, crowded.gt_id)
    assert ((crowded.status == free.status) | (crowded.status == IGNORED)).all()


NAN, INF = float("nan"), float("inf")
NON_FINITE = [[NAN] * 4, [8, 8, NAN, 24], [8, 8, INF, 24], [-INF, 8, 24, 24]]
# Corners that have changed places, a width and a height in the place of the far corner.
NEGATIVE_SIZE = [[24, 8, 8, 24], [8, 24, 24, 8], [24, 24, 8, 8], [40, 30, 20, 20]]
REFUSED = r"image 2 of the batch, {} 1: \[.*\], expected finite numbers x1, y1, x2, y2 with x1 <= x2 and y1 <= y2$"


@pytest.mark.parametrize("corners", NON_FINITE + NEGATIVE_SIZE, ids=str)
def test_what_is_no_box_or_region_is_refused_by_image_and_place(corners):
    good = [0, 0, 16, 16]
    lists = [[good], [], [good, corners, good]]
    with pytest.raises(ValueError, match=REFUSED.format("box")):
        truth_of(lists, [[], [], []])
    with pytest.raises(ValueError, match=REFUSED.format("region to ignore")):
        truth_of([[good], [], []], lists)


@pytest.mark.parametrize("rule", RULES)
def test_a_prior_that_is_not_finite_is_never_left_out(rule):
    """As foreground it makes the loss NaN, which a training sees; ignored or as background it would be gone."""
    anchors = torch.cat([grid(), as_boxes([[NAN, 0, 16, 16]])])
    truth = truth_of([[[0, 0, 16, 16]], []], [[], []])
    matches = MaxIoUAssigner(0.5, 0.4, rule)(anchors, truth)
    assert matches.status[0, -1] == FOREGROUND
    assert matches.gt_id[0, -1] == 0
    proposals = MaxIoUAssigner(0.5, 0.4, rule).match_proposals(anchors, torch.zeros(len(anchors)).long(), truth)
    assert proposals.status[0, -1] == FOREGROUND
