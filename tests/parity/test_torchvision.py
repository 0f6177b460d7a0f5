"""Our RetinaNet is torchvision's where torchvision is right: weights, anchors, detections and losses."""

import math

import pytest
import torch
from nominal_anchors import nominal_grid
from torch.testing import assert_close
from torchvision.models import resnet50
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision_pair import (
    HEIGHT,
    SETTINGS,
    STRIDES,
    UNEVEN,
    WIDTH,
    images_and_targets,
    make_batch,
    our_retinanet,
    scaled_pair,
    torchvision_retinanet,
)

from imbdet.data.loader import Sample, collate
from imbdet.geometry import BoxCoder
from imbdet.settings import PADDING

NONE = torch.zeros(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def pair():
    return scaled_pair()


@pytest.fixture(params=[WIDTH, UNEVEN], ids="{} wide".format)
def width(request, pair, monkeypatch):
    """Of the images. torchvision's anchors are as they come, but where a stride does not divide it."""
    if request.param == UNEVEN:
        generator = pair[0].anchor_generator
        monkeypatch.setattr(generator, "grid_anchors", nominal_grid(generator, STRIDES))
    return request.param


def test_the_state_dict_has_the_same_names_and_shapes(pair):
    theirs, ours = (model.state_dict() for model in pair)
    assert list(theirs) == list(ours)
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def test_published_weights_with_frozen_normalisation_load_too():
    """torchvision's trained weights come from frozen batch normalisation, which counts no batches."""
    frozen = resnet50(weights=None, norm_layer=FrozenBatchNorm2d).state_dict()
    whole = torchvision_retinanet().state_dict()
    published = {k: v for k, v in whole.items() if k.removeprefix("backbone.body.") in frozen or ".body." not in k}
    assert len(published) < len(whole)
    our_retinanet().load_state_dict(published)


def test_detections_are_the_same(pair, width):
    theirs, ours = pair
    batch = make_batch(width=width)
    with torch.no_grad():
        expected = theirs(images_and_targets(batch)[0])
    for image, other in zip(ours.detect(batch, SETTINGS), expected, strict=True):
        assert len(other["scores"]) >= 100
        assert len(other["labels"].unique()) > 10
        assert len(image.scores) == len(other["scores"])
        assert_close(image.scores, other["scores"], rtol=0, atol=1e-4)
        # Neighbours whose scores rounding makes equal may change places, so that each is looked for among all.
        same = (image.labels[:, None] == other["labels"]) & ((image.scores[:, None] - other["scores"]).abs() <= 1e-4)
        same &= (image.boxes[:, None] - other["boxes"]).abs().amax(2) <= 1e-4 * max(HEIGHT, WIDTH)
        assert same.any(0).all()
        assert same.any(1).all()


BOXES = {
    "both images": [[[20, 30, 120, 200], [200, 40, 330, 110], [100, 100, 140, 140]], [[5, 5, 300, 240]]],
    "one image without boxes": [[[20, 30, 120, 200], [60, 60, 90, 100]], []],
    "no boxes": [[], []],
}


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_losses_and_their_gradients_are_the_same(pair, boxes, width):
    theirs, ours = pair
    batch = make_batch(boxes, labels=[(7 * i) % 91 for i in range(sum(map(len, boxes)))], width=width)
    logits, deltas = outputs = random_outputs(ours, width)
    losses = ours.method("dense")(ours.match(batch, logits, deltas))
    gradients = torch.autograd.grad(sum(losses.values()), outputs)
    _, targets = images_and_targets(batch)
    anchors = [ours.anchors(HEIGHT, width)[0]] * 2
    expected = theirs.compute_loss(targets, {"cls_logits": logits, "bbox_regression": deltas}, anchors)
    expected_gradients = torch.autograd.grad(sum(expected.values()), outputs)
    assert_close(losses["classification"], expected["classification"], rtol=1e-5, atol=0)
    assert_close(losses["box_regression"], expected["bbox_regression"], rtol=1e-5, atol=0)
    assert (losses["box_regression"] > 0) == any(boxes)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, other, rtol=1e-4, atol=1e-9)


def random_outputs(model, width):
    """Logits within the range where torchvision's focal loss is exact, and offsets; both want gradients."""
    random = torch.Generator().manual_seed(4)
    count = sum(model.anchors.counts(HEIGHT, width))
    logits = torch.randn(2, count, model.num_classes, generator=random) - 4
    return logits.requires_grad_(), torch.randn(2, count, 4, generator=random).requires_grad_()


def test_training_losses_of_whole_networks_are_the_same(pair, width):
    """Images in, losses out: preprocessing, network, matching, loss."""
    theirs, ours = pair
    batch = make_batch(BOXES["both images"], labels=[3, 90, 0, 17], width=width)
    theirs.train(), ours.train()
    for model in pair:
        model.backbone.eval()
    with torch.no_grad():
        expected, losses = theirs(*images_and_targets(batch)), ours(batch)
    theirs.eval(), ours.eval()
    assert_close(losses["classification"], expected["classification"], rtol=1e-5, atol=0)
    assert_close(losses["box_regression"], expected["bbox_regression"], rtol=1e-5, atol=0)


def test_anchors_are_the_same(pair, width):
    theirs, ours = pair
    images = ImageList(torch.zeros(1, 3, HEIGHT, width), [(HEIGHT, width)])
    features = [torch.zeros(1, 1, HEIGHT // s, math.ceil(width / s)) for s in ours.anchors.strides]
    anchors, levels = ours.anchors(HEIGHT, width)
    assert torch.equal(anchors, theirs.anchor_generator(images, features)[0])
    assert levels.bincount().tolist() == ours.anchors.counts(HEIGHT, width)


def test_images_are_padded_as_in_torchvision(pair):
    theirs, _ = pair
    sizes = [(256, 300), (190, 330)]
    outlines = [
        Sample(torch.zeros(3, *size, dtype=torch.uint8), torch.ones(2), 1, torch.zeros(0, 4), NONE, torch.zeros(0, 4))
        for size in sizes
    ]
    batched = theirs.transform.batch_images([torch.zeros(3, *size) for size in sizes], theirs.transform.size_divisible)
    assert collate(outlines, PADDING).images.shape == batched.shape == (2, 3, 256, 352)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_offsets_are_the_same(weights):
    random = torch.Generator().manual_seed(6)
    corners = 300 * torch.rand(2, 50, 2, generator=random)
    boxes, priors = torch.cat([corners, corners + 1 + 200 * torch.rand(2, 50, 2, generator=random)], -1)
    deltas = 3 * torch.randn(50, 4, generator=random)
    ours, theirs = BoxCoder(weights), TorchvisionBoxCoder(weights)
    assert_close(ours.encode(boxes, priors), theirs.encode_single(boxes, priors), rtol=1e-5, atol=1e-5)
    assert_close(ours.decode(deltas, priors), theirs.decode_single(deltas, priors), rtol=1e-5, atol=1e-2)
    huge = torch.full((50, 4), 100.0)
    assert_close(ours.decode(huge, priors), theirs.decode_single(huge, priors), rtol=1e-5, atol=1e-2)
