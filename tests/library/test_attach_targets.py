"""Targets that are wrong: attached models refuse them, and name the image and the box."""

import re

import pytest
import torch
from host_syncs import Watch
from stock_models import CLASSES, batch, copy_of, faster_rcnn, method_of, retinanet

import imbdet
from imbdet.detectors.targets import join_targets

TWO, OTHER = [[10, 10, 60, 90], [50, 40, 120, 110]], [[20, 5, 150, 100], [3, 3, 40, 40]]
MODELS = {
    "dense": (retinanet, {"method": "focal-dense-batch"}),
    "dense, softmax": (retinanet, {"method": "ssd_hard_negatives"}),
    "roi": (faster_rcnn, {"roi": "cross_entropy-roi"}),
    "rpn": (faster_rcnn, {"rpn": "focal-rpn"}),
    "both": (faster_rcnn, {"rpn": "focal-rpn", "roi": "focal-roi"}),
}
READS_LABELS = pytest.mark.parametrize("name", [name for name in MODELS if name != "rpn"])


def attached(name):
    build, cases = MODELS[name]
    model = copy_of(build)
    torch.manual_seed(1)
    imbdet.attach(model, **{stage: method_of(case) for stage, case in cases.items()})
    return model


def two_images():
    images, targets = batch(TWO, OTHER)
    for target, image_id in zip(targets, (17, 23), strict=True):
        target["image_id"] = torch.tensor(image_id)
    return images, targets


def labelled(*labels):
    return [torch.tensor(of_image, dtype=torch.int64) for of_image in labels]


WRONG_LABELS = {
    "one more": (labelled([1, 2, 2], [1, 2]), r"image 0 .*image_id 17.*: 2 boxes and 3 labels"),
    "one more in the last image": (labelled([1, 2], [1, 2, 1]), r"image 1 .*image_id 23.*: 2 boxes and 3 labels"),
    "one more and one fewer": (labelled([1, 2, 2], [1]), r"image 0 .*: 2 boxes and 3 labels"),
    "one fewer and one more": (labelled([1], [1, 2, 2]), r"image 0 .*: 2 boxes and 1 labels"),
    "none": (labelled([1, 2], []), r"image 1 .*: 2 boxes and 0 labels"),
    "a column": (labelled([[1], [2]], [[1], [2]]), r"image 0 .*: 2 boxes and 2 labels of shape \[2, 1\]; .* \[2\]"),
    "a number": ([torch.tensor([1, 2]), torch.tensor(1)], r"image 1 .*: 2 boxes and 1 labels of shape \[\]"),
    "fp32": ([torch.tensor([1, 2]), torch.tensor([1.0, 1.7])], r"image 1 .*: labels of torch\.float32, .*int64"),
    "masks": ([torch.tensor([True, False])] * 2, r"image 0 .*: labels of torch\.bool, expected integers"),
    "a list": ([torch.tensor([1, 2]), [1, 2]], "image 1 .*: 'labels' is a list, expected a tensor"),
}


@READS_LABELS
@pytest.mark.parametrize(("labels", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_each_image_needs_a_label_for_each_of_its_boxes(name, labels, message):
    images, targets = two_images()
    for target, own in zip(targets, labels, strict=True):
        target["labels"] = own
    with pytest.raises(ValueError, match=message):
        attached(name)(images, targets)


@READS_LABELS
def test_labels_of_an_image_without_boxes_are_refused(name):
    images, targets = batch([], TWO)
    targets[0]["labels"] = torch.tensor([1])
    with pytest.raises(ValueError, match="image 0 of the batch: 0 boxes and 1 labels"):
        attached(name)(images, targets)


@READS_LABELS
def test_a_target_without_labels_is_refused(name):
    images, targets = two_images()
    del targets[1]["labels"]
    with pytest.raises(ValueError, match=r"image 1 .*: 'labels' is missing, expected a tensor"):
        attached(name)(images, targets)


@pytest.mark.parametrize("name", MODELS)
def test_more_targets_than_images_are_refused(name):
    images, targets = two_images()
    with pytest.raises(ValueError, match="3 targets for 2 images, expected one for each image"):
        attached(name)(images, [*targets, targets[0]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_of_any_integers_are_joined_alike(dtype):
    _, targets = batch([], TWO)
    targets[0]["labels"] = torch.tensor([])  # fp32, as nobody said otherwise
    targets[1]["labels"] = targets[1]["labels"].to(dtype)
    truth = join_targets(targets, 2, CLASSES, first=1)
    assert truth.labels.dtype == torch.int64
    assert truth.labels.tolist() == [0, 1]
    assert truth.images.tolist() == [1, 1]


NAN, INF = float("nan"), float("inf")
NON_FINITE = {
    "all corners NaN": [NAN] * 4,
    "one corner NaN": [50, 40, NAN, 110],
    "infinite": [50, 40, INF, 110],
    "minus infinite": [50, -INF, 120, 110],
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("corners", NON_FINITE.values(), ids=NON_FINITE)
@pytest.mark.parametrize("image", [0, 1])
def test_boxes_that_are_not_finite_are_refused(name, corners, image):
    images, targets = two_images()
    targets[image]["boxes"][1] = torch.tensor(corners)
    message = rf"image {image} of the batch \(image_id {(17, 23)[image]}\), box 1: \[.*(nan|inf).*expected finite"
    with pytest.raises(ValueError, match=message):
        attached(name)(images, targets)


# Positive in the precision they come in; torchvision looks there, or not at all.
NO_AREA = {
    "no width in fp32": [50, 10, 50 + 1e-9, 90],
    "no height in fp32": [50, 60, 120, 60 + 1e-7],
    "an infinite width": [-3e38, -3e38, 3e38, 3e38],
    "an infinite area": [0, 0, 1e25, 1e25],
    "an area of 0": [0, 0, 1e-24, 1e-24],
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("corners", NO_AREA.values(), ids=NO_AREA)
def test_boxes_without_an_area_in_fp32_are_refused(name, corners):
    images, targets = two_images()
    targets[1]["boxes"] = torch.tensor([TWO[0], corners], dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"image 1 .*image_id 23\), box 1: .* wide and .* high in fp32, expected an area"
    ):
        attached(name)(images, targets)


@pytest.mark.parametrize("corners", [[9, 9, 9, 20], [9, 20, 30, 9], [30, 20, 9, 9]])
def test_flat_and_inverted_boxes_are_refused_where_torchvision_did_not_look(corners):
    """Two negative sides have a positive area."""
    target = {"boxes": torch.tensor([TWO[0], corners]).float(), "labels": torch.tensor([0, 0])}
    with pytest.raises(ValueError, match=r"image 0 of the batch, box 1: .* expected an area above 0"):
        join_targets([target], 1, 1, first=0)


def test_a_box_as_small_as_fp32_tells_apart_is_trained():
    target = {"boxes": torch.tensor([[50, 10, 50.000004, 10.000001]]), "labels": torch.tensor([0])}
    assert torch.equal(join_targets([target], 1, 1, first=0).boxes, target["boxes"])


def without_boxes(target):
    return {key: value for key, value in target.items() if key != "boxes"}


TARGETS = {
    "fewer than images": (lambda one, two: [one], "1 targets for 2 images, expected one for each image"),
    "none": (lambda one, two: [], "0 targets for 2 images"),
    "one dictionary": (lambda one, two: one, "targets are a dict, expected a list with a dictionary for each image"),
    "not given": (lambda one, two: None, "targets are a NoneType, expected a list"),
    "a tensor": (lambda one, two: one["boxes"], "targets are a Tensor, expected a list"),
    "None for an image": (lambda one, two: [one, None], "image 1 of the batch: its target is a NoneType"),
    "boxes alone": (lambda one, two: [one["boxes"], two], "image 0 of the batch: its target is a Tensor"),
    "without boxes": (lambda one, two: [one, without_boxes(two)], r"image 1 .*image_id 23.*: 'boxes' is missing"),
    "a list of boxes": (lambda one, two: [one | {"boxes": TWO}, two], r"image 0 .*image_id 17.*: 'boxes' is a list"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("change", "message"), TARGETS.values(), ids=TARGETS)
def test_targets_of_another_form_are_refused(name, change, message):
    images, targets = two_images()
    model, given = attached(name), change(*targets)
    for call in (lambda: model(images, given), lambda: model(images=images, targets=given)):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", MODELS)
def test_inference_reads_no_targets(name):
    images, _ = two_images()
    assert len(attached(name).eval()(images)) == 2


def test_a_label_without_a_column_is_found_behind_images_without_boxes():
    images, targets = batch([], TWO)
    targets[1]["labels"][1] = CLASSES
    with pytest.raises(ValueError, match=f"image 1 of the batch, box 1: label {CLASSES} of a box"):
        attached("dense")(images, targets)


FORMS = {
    "missing": (None, "'boxes' is missing"),
    "a list": ([[1.0, 2.0, 3.0, 4.0]], "'boxes' is a list"),
    "one box": (torch.ones(4), re.escape("boxes of shape [4], expected [n, 4]")),
    "scores too": (torch.ones(2, 5), re.escape("boxes of shape [2, 5], expected [n, 4]")),
    "nothing": (torch.zeros(0), re.escape("boxes of shape [0], expected [n, 4]; without boxes [0, 4]")),
}


@pytest.mark.parametrize(("boxes", "message"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("first", [None, 0])
def test_boxes_of_another_form_are_refused_where_torchvision_did_not_look(boxes, message, first):
    """Its models look themselves; a loop that calls ``model.rpn`` and ``model.roi_heads`` has no one else."""
    good = {"boxes": torch.ones(1, 4), "labels": torch.tensor([0])}
    bad = {"labels": torch.tensor([0])} | ({} if boxes is None else {"boxes": boxes})
    with pytest.raises(ValueError, match=f"image 1 of the batch: {message}"):
        join_targets([good, bad], 2, 1, first)


@pytest.mark.parametrize("first", [None, 0])
def test_the_host_waits_once_whatever_the_number_of_images(first):
    """repeat_interleave is told the size of its result, so that it does not wait."""
    for images in (1, 2, 5):
        _, targets = batch(*[TWO] * images)
        with Watch() as watch:
            join_targets(targets, images, CLASSES, first)
        assert [op for op in watch.waiting if "repeat_interleave" not in op] == ["aten._local_scalar_dense.default"]
