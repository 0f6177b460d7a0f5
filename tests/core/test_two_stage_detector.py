"""The two-stage detector: what is sampled, training on odd batches, precision, detections."""

from dataclasses import replace

import pytest
import torch
from studies import DETECTOR, ROI, RPN

from imbdet.assigners import covered
from imbdet.data.batch import Batch
from imbdet.detectors.faster_rcnn import build_faster_rcnn
from imbdet.methods import build_method
from imbdet.settings import Evaluate, FasterRCNN

NUM_CLASSES = 3
SETTINGS = Evaluate(
    batch_size=2,
    score_threshold=0.0,
    nms_iou=0.5,
    candidates_per_level=1000,
    detections_per_image=50,
    operating_score=0.3,
)


def tiny(activation="softmax", p6_source="pool"):
    """The same small network at every call."""
    settings = {**DETECTOR, "p6_source": p6_source, "levels": [2, 5 if p6_source == "none" else 6]}
    if p6_source == "none":
        settings["anchors"] = {"sizes": [[8], [16], [32], [64]], "ratios": [0.5, 1.0, 2.0]}
    methods = {"rpn": build_method(RPN), "roi": build_method({**ROI, "activation": activation})}
    torch.manual_seed(7)
    return build_faster_rcnn(FasterRCNN.model_validate(settings), NUM_CLASSES, methods)


def make_batch(boxes, ignore=((), ()), seed=8):
    """Two noise images, one of them padded; ``boxes`` and ``ignore`` list each one's xyxy boxes."""
    random = torch.Generator().manual_seed(9)
    images = torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8, generator=random)
    images[1, :, :, 100:] = 0
    flat, images_of = flatten(boxes)
    return Batch(
        images=images,
        sizes=torch.tensor([[64, 128], [64, 100]]),
        scales=torch.ones(2, 2),
        image_ids=torch.arange(2),
        gt_boxes=flat,
        gt_labels=torch.arange(len(flat)) % NUM_CLASSES,
        gt_images=images_of,
        ignore_boxes=flatten(ignore)[0],
        ignore_images=flatten(ignore)[1],
        seed=seed,
    )


def flatten(boxes):
    flat = [box for of_image in boxes for box in of_image]
    images = [i for i, of_image in enumerate(boxes) for _ in of_image]
    return torch.tensor(flat, dtype=torch.float32).reshape(-1, 4), torch.tensor(images, dtype=torch.int64)


BOXES = {
    "both images": [[[5, 5, 40, 50], [60, 20, 120, 54]], [[10, 0, 60, 60]]],
    "an image without": [[[5, 5, 40, 50]], []],
    "none": [[], []],
}


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("p6_source", ["pool", "none"])
def test_every_parameter_learns_from_every_batch(boxes, activation, p6_source):
    model = tiny(activation, p6_source).train()
    losses = model(make_batch(boxes))
    assert list(losses) == [
        f"{stage}_{name}" for stage in ("rpn", "roi") for name in ("classification", "box_regression")
    ]
    assert (losses["roi_box_regression"] > 0) == (losses["rpn_box_regression"] > 0) == any(boxes)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for name in ("rpn.head.cls_logits", "roi_heads.box_predictor.cls_score", "backbone.body.stem.0"):
        assert model.get_submodule(name).weight.grad.any(), name


def test_the_rois_loss_teaches_rpn_nothing():
    model = tiny().train()
    losses = model(make_batch(BOXES["both images"]))
    (losses["roi_classification"] + losses["roi_box_regression"]).backward()
    assert all(parameter.grad is None for parameter in model.rpn.parameters())
    assert model.backbone.body.stem[0].weight.grad.any()


def rows_of(samples):
    return {stage: torch.cat([of.priors, of.image_id[:, None], of.label[:, None]], 1) for stage, of in samples.items()}


def test_the_sample_is_a_function_of_the_batchs_seed():
    model, batch = tiny().eval(), make_batch(BOXES["both images"])
    torch.manual_seed(1)
    first = rows_of(model.samples(batch))
    torch.manual_seed(2)
    again, other = rows_of(model.samples(batch)), rows_of(model.samples(replace(batch, seed=9)))
    for stage in ("rpn", "roi"):
        assert torch.equal(first[stage], again[stage])
        assert not torch.equal(first[stage], other[stage])


def test_the_sample_has_the_numbers_that_the_settings_ask_for():
    model, batch = tiny().eval(), make_batch(BOXES["both images"])
    samples = model.samples(batch)
    for stage, settings in {"rpn": model.rpn_settings, "roi": model.roi_settings}.items():
        of = samples[stage]
        for image in range(2):
            own = of.image_id == image
            assert (own & (of.label >= 0)).sum() == settings.sampled
            assert 0 < (own & of.foreground).sum() <= settings.sampled * settings.foreground_share
        assert (of.weight == 1).all()
        assert (of.multiplicity == 1).all()
        assert of.level.any() == (stage == "rpn")
    # The ground truth is among the proposals, so that a network that finds nothing learns all the same.
    assert (samples["roi"].prior_iou == 1).any()


def test_no_background_is_sampled_in_regions_to_ignore():
    model, boxes = tiny().eval(), BOXES["both images"]
    with_regions, without = make_batch(boxes, [[[40, 0, 128, 64]], [[0, 0, 50, 64]]]), make_batch(boxes)
    for stage in ("rpn", "roi"):
        assert background_in_regions(model.samples(without)[stage], with_regions.truth) > 5
        assert background_in_regions(model.samples(with_regions)[stage], with_regions.truth) == 0


def background_in_regions(samples, truth):
    inside = covered(samples.priors, truth).gather(0, samples.image_id[None])[0]
    return int((inside & (samples.label == samples.num_classes)).sum())


def test_p6_is_for_rpn_alone():
    model, batch = tiny().eval(), make_batch([[], []])
    model.roi_settings = model.roi_settings.model_copy(update={"canonical_size": 1.0})
    features = model.features(batch)
    features[-1] = torch.full_like(features[-1], torch.nan)
    whole = torch.tensor([[0.0, 0.0, 128.0, 64.0]])
    assert model.predict_classes(features, whole, torch.tensor([0]))[0].isfinite().all()
    assert model.predict_objects(features)[0].isnan().any()


def push_boxes_out(model):
    """Make RPN send every box out of its image."""
    torch.nn.init.constant_(model.rpn.head.bbox_pred.bias, 1e4)


@pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES)
def test_without_any_proposal_training_and_inference_go_on(boxes):
    model, batch = tiny(), make_batch(boxes)
    push_boxes_out(model)
    assert [len(image.boxes) for image in model.eval().detect(batch, SETTINGS)] == [0, 0]
    losses = model.train()(batch)
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["roi_classification"] > 0


def test_detections_are_in_their_image_the_best_first_and_no_more_than_asked_for():
    batch = make_batch([[], []])
    for image, (height, width) in zip(tiny().eval().detect(batch, SETTINGS), batch.sizes.tolist(), strict=True):
        assert len(image.boxes) == SETTINGS.detections_per_image
        assert image.boxes.min() >= 0
        assert (image.boxes <= torch.tensor([width, height, width, height])).all()
        assert (image.scores.diff() <= 0).all()
        assert set(image.labels.tolist()) <= set(range(NUM_CLASSES))


def test_no_detection_is_without_area():
    model = tiny().eval()
    model.roi_heads.box_predictor.bbox_pred.bias.data[2::4] = -1e3  # logarithms of widths
    assert [len(image.boxes) for image in model.detect(make_batch([[], []]), SETTINGS)] == [0, 0]


def test_initial_weights_are_the_same_for_every_method_but_in_the_layer_that_it_asks_for():
    softmax, sigmoid = tiny("softmax").state_dict(), tiny("sigmoid").state_dict()
    differing = [name for name in softmax if not torch.equal(softmax[name], sigmoid[name])]
    assert differing == [f"roi_heads.box_predictor.cls_score.{kind}" for kind in ("weight", "bias")]


def test_under_bf16_boxes_stay_in_single_precision():
    model, batch = tiny().train(), make_batch(BOXES["both images"])
    limits = model.rpn_settings.training
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas = model.predict_objects(model.features(batch))
        proposals, samples = model.propose(batch, logits, deltas, limits), model.samples(batch)
        targets = {stage: of.delta_targets for stage, of in samples.items()}
        predicted = {stage: of.predicted_boxes for stage, of in samples.items()}
        sum(model(batch).values()).backward()
        detections = model.eval().detect(batch, SETTINGS)
    assert logits.dtype == deltas.dtype == samples["roi"].deltas.dtype == torch.bfloat16
    in_full = model.propose(batch, logits.float(), deltas.float(), limits)
    for boxes, exact in zip(proposals, in_full, strict=True):
        assert boxes.dtype == torch.float32
        assert torch.equal(boxes, exact)
    for stage, of in samples.items():
        assert {of.priors.dtype, targets[stage].dtype, predicted[stage].dtype} == {torch.float32}
        assert torch.equal(targets[stage], of.box_coder.encode(of.own_gt_boxes, of.priors))
        assert torch.equal(predicted[stage], of.box_coder.decode(of.foreground_deltas.float(), of.priors))
    ours = (samples["rpn"].priors[:, None] == model.anchors(64, 128)[0]).all(-1)
    assert ours.any(1).all()
    assert {image.boxes.dtype for image in detections} == {torch.float32}
