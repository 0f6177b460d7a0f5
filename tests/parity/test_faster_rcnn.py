"""Our Faster R-CNN is torchvision's where torchvision is right: weights, proposals, detections, losses, gradients."""

import math
import re
from contextlib import contextmanager

import pytest
import torch
from faster_rcnn_pair import (
    HEIGHT,
    SETTINGS,
    SIZES,
    STRIDES,
    UNEVEN,
    WIDTH,
    image_list_and_features,
    images_and_targets,
    make_batch,
    nearest,
    our_faster_rcnn,
    scaled_pair,
    share_pixels,
    share_samples,
    torchvision_faster_rcnn,
)
from nominal_anchors import nominal_grid
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves
from torchvision.models import resnet50
from torchvision.ops.misc import FrozenBatchNorm2d


@pytest.fixture(scope="module")
def shared_pair():
    return scaled_pair()


@pytest.fixture(params=[False], ids=["inference"])
def pair(shared_pair, request):
    """Both networks, in training mode where a test says so; the backbone never, as its statistics would change."""
    for model in shared_pair:
        model.train(request.param).backbone.eval()
    return shared_pair


@pytest.fixture(params=[SIZES, UNEVEN], ids=["even", "uneven"])
def sizes(request, pair, monkeypatch):
    """Of the images. torchvision's anchors are as they come, but where a stride does not divide the padded size."""
    generator = pair[0].rpn.anchor_generator
    if request.param == UNEVEN:
        monkeypatch.setattr(generator, "grid_anchors", nominal_grid(generator, STRIDES))
    return request.param


training = pytest.mark.parametrize("pair", [True], indirect=True, ids=["training"])


def test_the_state_dict_has_the_same_names_and_shapes(pair):
    theirs, ours = (model.state_dict() for model in pair)
    assert list(theirs) == list(ours)
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def test_published_weights_with_frozen_normalisation_load_too():
    """torchvision's trained weights come from frozen batch normalisation, which counts no batches."""
    frozen = resnet50(weights=None, norm_layer=FrozenBatchNorm2d).state_dict()
    whole = torchvision_faster_rcnn().state_dict()
    published = {k: v for k, v in whole.items() if k.removeprefix("backbone.body.") in frozen or ".body." not in k}
    assert len(published) < len(whole)
    ours = our_faster_rcnn()
    ours.load_state_dict(published)
    # The file on the web still has the names of older versions.
    older = {re.sub(r"(fpn.*blocks\.\d)\.0|(rpn\.head\.conv)\.0\.0", r"\1\2", k): v for k, v in published.items()}
    assert "rpn.head.conv.weight" in older
    assert "backbone.fpn.inner_blocks.0.weight" in older
    ours.load_state_dict(older)


def test_detections_are_the_same(pair, sizes, monkeypatch):
    theirs, ours = pair
    batch = make_batch(sizes=sizes)
    share_pixels(pair, batch, monkeypatch)
    with torch.no_grad():
        expected = theirs(images_and_targets(batch)[0])
    for image, other in zip(ours.detect(batch, SETTINGS), expected, strict=True):
        assert len(other["scores"]) >= 100
        assert len(other["labels"].unique()) > 10
        for scores in (image.scores, other["scores"]):
            assert (scores.diff() <= 0).all()
        # Scores that nearly agree may come in either order; classes lie far apart here.
        ours_by_class = torch.cat([image.boxes, 1e4 * (image.labels[:, None] + 1)], dim=1)
        index = nearest(ours_by_class, torch.cat([other["boxes"], 1e4 * other["labels"][:, None]], dim=1))
        assert torch.equal(image.labels + 1, other["labels"][index])
        assert_close(image.scores, other["scores"][index], rtol=0, atol=1e-4)
        assert_close(image.boxes, other["boxes"][index], rtol=0, atol=1e-4 * max(HEIGHT, WIDTH))


@pytest.mark.parametrize("pair", [False, True], indirect=True, ids=["inference", "training"])
def test_proposals_are_the_same(pair, sizes):
    theirs, ours = pair
    batch = make_batch(BOXES["both images"], LABELS, sizes=sizes)
    with torch.no_grad():
        features = ours.features(batch)
        limits = ours.rpn_settings.training if ours.training else ours.rpn_settings.inference
        proposals = ours.propose(batch, *ours.predict_objects(features), limits)
        expected, _ = theirs.rpn(*image_list_and_features(batch, features), images_and_targets(batch)[1])
    limit = 2000 if ours.training else 1000
    for boxes, others in zip(proposals, expected, strict=True):
        assert limit / 2 < len(boxes) <= limit
        assert_close(boxes, others[nearest(boxes, others)], rtol=0, atol=1e-3)


BOXES = {
    "both images": [[[20, 30, 120, 200], [200, 40, 330, 110], [100, 100, 140, 140]], [[5, 5, 300, 240]]],
    "one image without boxes": [[[20, 30, 120, 200], [60, 60, 90, 100], [5, 5, 370, 240], [300, 200, 316, 216]], []],
    "no boxes": [[], []],
}
LABELS = [3, 89, 0, 17]
NAMES = {
    "rpn_classification": "loss_objectness",
    "rpn_box_regression": "loss_rpn_box_reg",
    "roi_classification": "loss_classifier",
    "roi_box_regression": "loss_box_reg",
}


@training
@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_losses_and_their_gradients_are_the_same(pair, boxes, sizes, monkeypatch):
    """From the same features, so that rounding in the backbone does not count."""
    theirs, ours = pair
    batch = make_batch(boxes, LABELS[: sum(map(len, boxes))], seed=11, sizes=sizes)
    recorders = share_samples(pair, monkeypatch)
    with torch.no_grad():
        features = ours.features(batch)
    monkeypatch.setattr(ours, "features", lambda batch: features)
    with caught_outputs(ours) as outputs:
        losses = ours(batch)
    with caught_outputs(theirs) as other_outputs:
        expected = torchvision_losses(theirs, batch, features)
    for name, other_name in NAMES.items():
        assert_close(losses[name], expected[other_name], rtol=1e-5, atol=0)
    assert (losses["rpn_box_regression"] > 0) == (losses["roi_box_regression"] > 0) == any(boxes)
    gradients = torch.autograd.grad(sum(losses.values()), outputs)
    others = list(torch.autograd.grad(sum(expected.values()), other_outputs))
    others[-2:] = [rows[recorders["roi"].rows_in_torchvision()] for rows in others[-2:]]
    for gradient, other in zip(gradients, others, strict=True):
        assert_close(gradient, other, rtol=1e-4, atol=1e-9)


@contextmanager
def caught_outputs(model):
    """The logits and offsets that a network's heads say meanwhile: of RPN those of each level, of the RoI head last."""
    outputs = []
    heads = model.rpn.head, model.roi_heads.box_predictor
    hooks = [head.register_forward_hook(lambda head, inputs, out: outputs.extend(tree_leaves(out))) for head in heads]
    yield outputs
    for hook in hooks:
        hook.remove()


def torchvision_losses(model, batch, features):
    inputs, (_, targets) = image_list_and_features(batch, features), images_and_targets(batch)
    proposals, losses = model.rpn(*inputs, targets)
    images, levels = inputs
    return losses | model.roi_heads(levels, proposals, images.image_sizes, targets)[1]


@training
def test_training_losses_of_whole_networks_are_the_same(pair, sizes, monkeypatch):
    """Images in, losses out: preprocessing, network, proposals, matching, losses."""
    theirs, ours = pair
    batch = make_batch(BOXES["both images"], LABELS, seed=12, sizes=sizes)
    share_pixels(pair, batch, monkeypatch)
    share_samples(pair, monkeypatch)
    with torch.no_grad():
        losses, expected = ours(batch), theirs(*images_and_targets(batch))
    for name, other_name in NAMES.items():
        assert_close(losses[name], expected[other_name], rtol=1e-5, atol=0)


def test_anchors_are_the_same(pair, sizes):
    theirs, ours = pair
    width = sizes[0][1]
    images, features = image_list_and_features(
        make_batch(sizes=sizes), [torch.zeros(2, 1, HEIGHT // s, math.ceil(width / s)) for s in ours.anchors.strides]
    )
    anchors, levels = ours.anchors(HEIGHT, width)
    assert torch.equal(anchors, theirs.rpn.anchor_generator(images, list(features.values()))[0])
    assert levels.bincount().tolist() == ours.anchors.counts(HEIGHT, width)
