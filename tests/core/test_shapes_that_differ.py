"""Tensors of shapes that do not fit are refused with their shapes; PyTorch would broadcast them without a word."""

import re
from dataclasses import replace

import pytest
import torch
from batches import make_samples

import imbdet
from imbdet.assigners import Matches, MaxIoUAssigner, Truth
from imbdet.losses import Focal, smooth_l1, softmax_cross_entropy, sum_over_classes
from imbdet.methods import build_method
from imbdet.samples import ROW_FIELDS, Kept

LOSSES = {
    "cross entropy": imbdet.sigmoid_cross_entropy,
    "focal": lambda x, t: imbdet.sigmoid_focal_loss(x, t, 0.25, 2.0),
    "FL*": lambda x, t: imbdet.sigmoid_focal_star_loss(x, t, 0.25, 2.0, 1.0),
}
SUMS = {
    "sum over classes": lambda x, label: sum_over_classes(Focal(2.0), x, label, 0.25),
    "softmax": softmax_cross_entropy,
}
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
EVERY_SUM = pytest.mark.parametrize("loss", SUMS.values(), ids=SUMS)


def shapes(one, other):
    return re.escape(f"{list(one)}") + ".*" + re.escape(f"{list(other)}")


@EVERY_LOSS
@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        ((8, 1), (8,)),
        ((8,), (8, 1)),
        ((4, 4), (4,)),
        ((8, 3), (8, 1)),
        ((8, 3), (1, 3)),
        ((8, 3), ()),
        ((2, 8, 3), (8, 3)),
    ],
)
def test_targets_have_the_shape_of_the_logits(loss, logits, targets):
    """Class indices of as many candidates as classes are the worst: their loss is negative."""
    for dtype in (torch.float32, torch.int64):
        with pytest.raises(ValueError, match=shapes(logits, targets) + ".*one_hot"):
            loss(torch.zeros(logits), torch.ones(targets, dtype=dtype))


@EVERY_LOSS
@pytest.mark.parametrize("shape", [(), (8,), (8, 3), (2, 8, 3), (0, 3)])
def test_any_shape_will_do_that_both_have(loss, shape):
    assert loss(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)).shape == shape


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_logits_are_floats(loss, dtype):
    """As where logits and targets have changed places."""
    with pytest.raises(ValueError, match=rf"^logits are of {dtype}; expected a float dtype$"):
        loss(torch.zeros(2, 3, dtype=dtype), torch.zeros(2, 3))


@EVERY_SUM
@pytest.mark.parametrize(
    ("logits", "label"),
    [((8, 3), (8, 1)), ((8, 3), (1,)), ((8, 3), (7,)), ((8, 3), (8, 3)), ((8,), (8,)), ((3, 3), ())],
)
def test_each_candidate_has_one_label(loss, logits, label):
    with pytest.raises(ValueError, match=shapes(logits, label)):
        loss(torch.zeros(logits), torch.zeros(label, dtype=torch.int64))


@EVERY_SUM
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool])
def test_labels_are_int64_and_logits_floats(loss, dtype):
    with pytest.raises(ValueError, match=rf"^label is of {dtype}; expected torch.int64$"):
        loss(torch.zeros(2, 3), torch.zeros(2, dtype=dtype))
    with pytest.raises(ValueError, match=r"^logits are of torch.int64; expected a float dtype$"):
        loss(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))


@EVERY_SUM
def test_there_is_at_least_one_class(loss):
    with pytest.raises(ValueError, match=r"^logits of shape \[2, 0\] have no column"):
        loss(torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [-100, -2, 4, 1000])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_label_without_a_class_is_refused(wrong, requires_grad):
    """It would count as background, or as ignored."""
    label = torch.tensor([0, 3, -1, wrong])
    for loss, columns in zip(SUMS.values(), (3, 4), strict=True):
        x = torch.zeros(4, columns, requires_grad=requires_grad)
        with pytest.raises(
            ValueError, match=rf"^label {wrong} does not exist; expected 0 to 2 .* 3 for background, -1 "
        ):
            loss(x, label)
        assert loss(x[:3], label[:3])[2] == 0


@pytest.mark.parametrize("targets", [(8, 1, 4), (4,), (8,), (1, 4)])
def test_offsets_have_the_shape_of_their_targets(targets):
    with pytest.raises(ValueError, match=shapes((8, 4), targets)):
        smooth_l1(torch.zeros(8, 4), torch.zeros(targets), 1.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_offsets_are_floats(dtype):
    with pytest.raises(ValueError, match=rf"^deltas are of {dtype}; expected a float dtype$"):
        smooth_l1(torch.zeros(2, 4, dtype=dtype), torch.zeros(2, 4), 1.0)


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist, lambda _: 0.5, lambda _: None])
def test_what_is_no_tensor_is_refused_by_name(convert):
    """An array has a shape, so that it would go as far as its first method."""
    floats, label = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    calls = [(loss, ("logits", "targets"), (floats, floats)) for loss in LOSSES.values()]
    calls += [(loss, ("logits", "label"), (floats, label)) for loss in SUMS.values()]
    calls += [(lambda *pair: smooth_l1(*pair, 1.0), ("deltas", "targets"), (floats, floats))]
    calls += [(lambda x: truth(boxes=x), ("boxes",), (floats,))]
    calls += [(lambda x: MaxIoUAssigner(0.5, 0.4, "argmax")(x, truth()), ("anchors",), (floats,))]
    for function, names, arguments in calls:
        for i, name in enumerate(names):
            wrong = [convert(x) if i == place else x for place, x in enumerate(arguments)]
            got = type(wrong[i]).__name__
            with pytest.raises(ValueError, match=rf"^{name}: got {got}, expected a torch.Tensor$"):
                function(*wrong)


@pytest.mark.parametrize("name", [*ROW_FIELDS, "logits", "deltas", "gt_boxes"])
def test_fields_of_samples_fit_one_another(name):
    samples = make_samples("dense")
    value = getattr(samples, name)
    for other in (value[..., None], value[:, None], value.flatten()[0], *([] if name == "gt_boxes" else [value[:1]])):
        with pytest.raises(ValueError, match=f"{name} " + re.escape(str(list(other.shape)))):
            replace(samples, **{name: other})


@pytest.mark.parametrize("rows", [2, 4])
def test_offsets_are_one_row_or_one_for_each_class(rows):
    """Torchvision's box head has one more, of the background, before the others."""
    samples = make_samples("roi")
    with pytest.raises(ValueError, match=rf"^deltas of shape \[24, {rows}, 4\] have {rows} rows .* of the 3 classes$"):
        replace(samples, deltas=samples.deltas[:, :1].expand(-1, rows, -1))


FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "batch", "box_beta": 0.11}
SSD = {"name": "ssd_hard_negatives", "negatives_per_positive": 3.0, "normalizer": "batch", "box_beta": 0.11}


@pytest.mark.parametrize(("spec", "activation", "wanted"), [(FOCAL, "softmax", 3), (SSD, "sigmoid", 4)])
def test_a_method_has_the_columns_that_it_asked_for(spec, activation, wanted):
    """Sigmoid columns and one more would make the background a class that is learned."""
    method, samples = build_method(spec), make_samples("dense", activation=activation)
    with pytest.raises(ValueError, match=rf"^logits of shape \[24, \d\] have \d columns; .* expected {wanted}$"):
        method(samples)
    right = make_samples("dense", activation="sigmoid" if activation == "softmax" else "softmax")
    assert method(samples=right).keys() == {"classification", "box_regression"}


def truth(**changes):
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    both = torch.tensor([0, 0])
    fields = {"boxes": torch.tensor([[0.0, 0, 9, 9], [5, 5, 20, 20]]), "labels": both, "images": both}
    return Truth(**fields | {"ignore_boxes": none[0], "ignore_images": none[1]} | changes, num_images=1)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("labels", 3), ("labels", 1), ("images", 1), ("boxes", (2, 5)), ("boxes", (1, 4)), ("ignore_images", 1)],
)
def test_fields_of_the_ground_truth_fit_one_another(name, shape):
    with pytest.raises(ValueError, match=f"{name} " + re.escape(str(list(torch.zeros(shape).shape)))):
        truth(**{name: torch.zeros(shape, dtype=torch.int64)})


def test_priors_are_boxes_and_proposals_have_an_image_each():
    assigner = MaxIoUAssigner(0.5, 0.4, "argmax")
    for shape in ((4,), (1, 3, 4), (3, 5)):
        with pytest.raises(ValueError, match=re.escape(f"anchors {list(shape)}; expected anchors [A, 4]")):
            assigner(torch.zeros(shape), truth())
    with pytest.raises(ValueError, match=shapes((3, 4), (1,))):
        assigner.match_proposals(torch.zeros(3, 4), torch.zeros(1, dtype=torch.int64), truth())


def test_what_an_assigner_and_a_sampler_return_fits():
    matches = assigned = MaxIoUAssigner(0.5, 0.4, "argmax")(torch.zeros(3, 4), truth())
    assert isinstance(assigned, Matches)
    with pytest.raises(ValueError, match=r"iou \[3\]"):
        replace(matches, iou=matches.iou[0])
    index, valid = torch.tensor([0, 1]), torch.tensor([True, True])
    with pytest.raises(ValueError, match=r"weight \[1\]; expected"):
        Kept(index, valid, torch.ones(1))
