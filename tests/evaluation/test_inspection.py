"""What the inspection says of a method: laws of effective weight, loss and gradient, for every kind of method."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from batches import make_samples
from small_study import CATEGORIES, EXPERIMENT, place, small_study, with_random_weights
from studies import ADDED
from torch.testing import assert_close

from imbdet.data.facts import read_facts
from imbdet.data.loader import EvaluationBatches
from imbdet.detectors import build_detector
from imbdet.evaluation import inspection
from imbdet.evaluation.cumulative import cumulative
from imbdet.figures import analytic
from imbdet.files import write_bytes
from imbdet.methods import build_method
from imbdet.training.checkpoint import serialise

__all__ = ["place"]
SAMPLED = {"normalizer": "sampled", "box_beta": 0.3}
BATCH = SAMPLED | {"normalizer": "batch"}
SIGMOID = {"activation": "sigmoid", "alpha": None, "prior_prob": None}
SOFTMAX = {"activation": "softmax", "alpha": None, "prior_prob": None}
PLAIN = {"name": "cross_entropy", **SIGMOID, **SAMPLED}
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": None, **BATCH}
OHEM = {"name": "ohem", "variant": "paper", "per_image": 4, "nms_iou": 0.7, "activation": "softmax", "prior_prob": None}
OHEM_DENSE = {"name": "ohem_dense", "per_image": 4, "nms_iou": 0.5, "one_to_three": True, "prior_prob": None}
SSD = {"name": "ssd_hard_negatives", "negatives_per_positive": 0.5, **BATCH}
EQUALIZATION = {"frequency": (0.5, 0.4, 0.1), "threshold": 0.2, "tail_ratio": None}
EQL = {"name": "equalization", **EQUALIZATION, "prior_prob": None, "score_threshold": None, **SAMPLED}
RANKS = {"positive_power": 2.0, "positive_bias": 0.0, "carl_power": 1.0, "carl_bias": 0.2}
SCORE_HLR = {"sampled": 8, "foreground_share": 0.25, "negative_power": 0.5, "negative_bias": 0.0}
SCORE_HLR |= {"score_floor": 0.05, "cluster_iou": 0.5}
PISA = {"name": "pisa", **RANKS}
NETWORK = {"name": "sample_weighting", "variant": "paper", "averaging": "sample", "gamma": 2.0, "clamp": 2.0}
NETWORK |= {"class_regularizer": 0.5, "background_regularizer": None, "box_regularizer": 0.5}
NETWORK |= {"learning_rate": 0.001, "weight_decay": 0.0}
NOISY = {"name": "noisy_anchors", "variant": "code", "top_n": 4, "localization_share": 0.75}
METHODS = {  # stage and method
    "cross entropy": ("dense", PLAIN),
    "softmax": ("roi", PLAIN | SOFTMAX),
    "objects": ("rpn", PLAIN),
    "focal": ("dense", FOCAL),
    "focal by image": ("dense", FOCAL | {"normalizer": "per_image"}),
    "focal, running mean": ("dense", FOCAL | {"normalizer": "ema"}),
    "FL*": ("dense", FOCAL | {"name": "focal_star", "beta": 1.0}),
    "OHEM of anchors": ("dense", OHEM_DENSE | SAMPLED),
    "OHEM of anchors, by foreground": ("dense", OHEM_DENSE | BATCH),
    "SSD": ("dense", SSD),
    "noisy anchors": ("dense", FOCAL | NOISY),
    "learned weights": ("dense", FOCAL | SIGMOID | NETWORK),
    "PISA": ("dense", FOCAL | PISA | dict.fromkeys(SCORE_HLR) | {"activation": "sigmoid"}),
    "EQL": ("roi", EQL),
    "softmax EQL": ("roi", {"name": "equalization_softmax", **EQUALIZATION, "gamma": 1.0, **SAMPLED}),
}
SAMPLING = {
    "OHEM": OHEM | SAMPLED,
    "OHEM of the code": OHEM | SAMPLED | {"variant": "code"},
    "PISA": PISA | SOFTMAX | SAMPLED | {"gamma": 0.0} | SCORE_HLR,
}
PLAIN_CASES = [
    ("dense", PLAIN),
    ("rpn", PLAIN),
    ("roi", PLAIN),
    ("roi", PLAIN | SOFTMAX),
    ("dense", FOCAL | {"alpha": None, "gamma": 0.0}),
]
FOREGROUND, BACKGROUND, OTHERS = range(3)


def build(spec):
    torch.manual_seed(2)  # of the weights that a method learns
    method = build_method(spec).double().eval()
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return method


def samples_for(stage, method, **options):
    """Samples with weights, and rubbish in what is ignored."""
    samples = make_samples(stage, activation=method.head.activation, **options)
    weight = torch.rand(len(samples.label), generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    logits = torch.where((samples.label < 0)[:, None], torch.nan, samples.logits)
    return replace(samples, weight=weight, logits=logits)


def kept(samples):
    return samples.label >= 0


@pytest.mark.parametrize(("stage", "spec"), PLAIN_CASES)
def test_plain_cross_entropy_has_weight_1_everywhere(stage, spec):
    method = build(spec)
    samples = samples_for(stage, method)
    seen = inspection.observe(method, replace(samples, weight=torch.ones_like(samples.weight)))
    assert_close(seen.rows["effective_weight"][kept(samples)], torch.ones(int(kept(samples).sum())).double())
    weighted = inspection.observe(method, samples)  # a sampler's weights are part of the gradient
    assert_close(weighted.rows["effective_weight"][kept(samples)], samples.weight[kept(samples)])


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_has_the_ratio_of_the_slopes_times_alpha(gamma):
    """Of RPN, whose one logit makes the norm its absolute value; against the equations in NumPy."""
    method = build(FOCAL | {"gamma": gamma})
    samples = replace(samples_for("rpn", method), weight=torch.ones(24, dtype=torch.float64))
    rows = kept(samples)
    x_t = torch.where(samples.foreground[:, None], samples.logits, -samples.logits)[rows, 0].numpy()
    alpha = np.where(samples.foreground[rows], 0.25, 0.75)
    expected = alpha * analytic.focal_loss_slope(x_t, gamma) / analytic.cross_entropy_slope(x_t)
    seen = inspection.observe(method, samples).rows
    np.testing.assert_allclose(seen["effective_weight"][rows], expected, rtol=1e-6)
    np.testing.assert_allclose(seen["p_t"][rows], analytic.sigmoid(x_t), rtol=1e-6)


@pytest.mark.parametrize("case", METHODS)
def test_losses_of_the_candidates_sum_to_the_undivided_loss(case):
    """The divisor is that of the method: a count of what it selects, where it does."""
    stage, spec = METHODS[case]
    method = build(spec)
    samples = samples_for(stage, method)
    divisors = []
    method.normalizer.register_forward_hook(lambda module, inputs, output: divisors.append(output.double()))
    total = method(samples)["classification"]
    rows = inspection.observe(method, samples).rows
    loss = torch.where(kept(samples), rows["loss"] / divisors[0], 0.0)
    assert_close(loss.sum(), total, rtol=1e-6, atol=0)
    assert (rows["loss"][kept(samples)] >= 0).all()
    assert (loss[kept(samples)] > 0).sum() >= 4


@pytest.mark.parametrize("case", METHODS)
def test_what_is_ignored_changes_nothing(case):
    stage, spec = METHODS[case]
    method = build(spec)
    samples = samples_for(stage, method)
    other = replace(samples, logits=torch.where(kept(samples)[:, None], samples.logits, 7.0))
    for a, b in zip(
        inspection.observe(method, samples).rows.values(), inspection.observe(method, other).rows.values(), strict=True
    ):
        assert_close(a[kept(samples)], b[kept(samples)])
    assert torch.isfinite(torch.stack([x.double() for x in inspection.observe(method, other).rows.values()])).all()


@pytest.mark.parametrize("case", ["OHEM of anchors", "OHEM of anchors, by foreground", "SSD"])
def test_the_selected_have_their_whole_weight_and_the_others_none(case):
    stage, spec = METHODS[case]
    method = build(spec)
    samples = samples_for(stage, method)
    rows = inspection.observe(method, samples).rows
    selected = rows["selected"] > 0
    assert 4 <= selected.sum() < kept(samples).sum()
    assert_close(rows["effective_weight"][selected], samples.weight[selected])
    assert (rows["effective_weight"][kept(samples) & ~selected] == 0).all()
    assert (rows["loss"][kept(samples) & ~selected] == 0).all()


@pytest.mark.parametrize("case", SAMPLING)
def test_a_method_that_samples_proposals_is_shown_all_of_them(case):
    """The selected have the gradient that they have where the sampler's choice alone is given; the others have none."""
    method = build(SAMPLING[case])
    samples = samples_for("roi", method, boxes_of_gt=1)
    samples = replace(samples, weight=torch.ones_like(samples.weight))
    again = replace(samples, generator=torch.Generator().manual_seed(7))
    choice = method.sampler()(samples, lambda: samples, samples.generator)
    index = choice.index[choice.valid]
    rows = inspection.observe(method, again).rows
    assert sorted(index.tolist()) == (rows["selected"] > 0).nonzero()[:, 0].tolist()
    assert 4 <= len(index) < kept(samples).sum()
    own = samples.select(choice).predicted(samples.logits[choice.index], samples.deltas[choice.index])
    sampler, method.sampler = method.sampler, lambda: None
    alone = inspection.observe(method, own).rows
    method.sampler = sampler
    for name in ("effective_weight", "loss", "p_t", "class"):
        assert_close(rows[name][index], alone[name][choice.valid], check_dtype=False)
    rest = kept(samples) & (rows["selected"] == 0)
    assert (rows["effective_weight"][rest] == 0).all()
    assert (rows["loss"][rest] == 0).all()


def test_equalization_takes_weight_from_foreground_alone():
    method = build(EQL)
    samples = replace(samples_for("roi", method), weight=torch.ones(24, dtype=torch.float64))
    weight = inspection.observe(method, samples).rows["effective_weight"]
    background, tail = samples.label == samples.num_classes, samples.label == 2  # the others have nothing to spare
    assert_close(weight[background | tail], torch.ones_like(weight[background | tail]))
    assert (weight[samples.foreground & ~tail] < 1).all()


@pytest.mark.parametrize("case", METHODS)
def test_shares_sum_to_1_and_are_a_count_by_hand(case):
    stage, spec = METHODS[case]
    method = build(spec)
    samples = samples_for(stage, method)
    gradient = inspection.observe(method, samples).gradient
    sums = inspection.gradient_sums(method, samples, gradient)
    slow = slow_sums(method, samples, gradient)
    for by, values in sums.items():
        for place_, expected in slow[by].items():
            assert values[place_] == pytest.approx(expected, rel=1e-9)
        assert values.sum() == pytest.approx(sum(sum(x) for x in slow[by].values()), rel=1e-9)
    table = inspection.share_table(sums)
    for _, shares in table.groupby("by"):
        assert shares["logits"].sum() == pytest.approx(1)
        assert shares["gradient"].sum() == pytest.approx(1)
    assert Counter(table["by"]) == {"difficulty": 9, "class": 3 * samples.logits.shape[1]}


def slow_sums(method, samples, gradient):
    """The sums of each set by difficulty and by column, one logit at a time."""
    found = {"difficulty": {}, "class": {}}
    softmax = method.head.activation == "softmax"
    for n, label in enumerate(samples.label.tolist()):
        if label < 0:
            continue
        probability = samples.logits[n].softmax(0) if softmax else samples.logits[n].sigmoid()
        worst = probability[label] if label < len(probability) else 1 - probability.max()
        for c, p in enumerate(probability.tolist()):
            p_t = worst.item() if softmax else p if c == label else 1 - p
            difficulty = 0 if p_t <= 0.5 else 1 if p_t <= 0.9 else 2
            kind = BACKGROUND if label == samples.num_classes else FOREGROUND if c == label else OTHERS
            three = np.array([1, abs(gradient[n, c].item()), abs(p - (c == label))])
            for by, place_ in (("difficulty", (kind, difficulty)), ("class", (kind, c))):
                found[by][place_] = found[by].get(place_, 0) + three
    return found


def test_gradient_of_cross_entropy_is_all_of_cross_entropy_s():
    method = build(PLAIN)
    samples = replace(samples_for("dense", method), weight=torch.ones(24, dtype=torch.float64))
    gradient = inspection.observe(method, samples).gradient
    table = inspection.share_table(inspection.gradient_sums(method, samples, gradient))
    np.testing.assert_allclose(table["gradient"], table["cross_entropy"], rtol=1e-6)


def test_equalization_spares_the_tail_all_that_other_classes_objects_would_do_to_it():
    method = build(EQL)
    samples = replace(samples_for("roi", method), weight=torch.ones(24, dtype=torch.float64))
    gradient = inspection.observe(method, samples).gradient
    table = inspection.share_table(inspection.gradient_sums(method, samples, gradient)).query("by == 'class'")
    spared = (table["set"] == "other classes") & (table["value"] == 2)
    assert table.loc[spared, "gradient"].tolist() == [0]
    assert (table.loc[spared, "cross_entropy"] > 0).all()
    np.testing.assert_allclose(table.loc[~spared, "gradient"], table.loc[~spared, "cross_entropy"], rtol=1e-6)


def all_rows(study, layout, model):
    """Every candidate of the val split that is not ignored, with what is observed of it."""
    method, parts = model.method("dense"), []
    for batch in EvaluationBatches(study, layout, EXPERIMENT, "val"):
        with torch.no_grad():
            samples = model.samples(batch)["dense"]
        rows = inspection.observe(method, samples).rows
        table = pd.DataFrame({name: values.numpy().astype(np.float32) for name, values in rows.items()})
        table["set"] = np.where(samples.foreground, "foreground", "background")
        parts.append(table[samples.label.numpy() >= 0])
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("spec", [FOCAL, OHEM_DENSE | SAMPLED], ids=["focal", "OHEM"])
def test_candidates_are_a_sample_without_replacement_of_all(place, monkeypatch, spec):
    monkeypatch.setattr(inspection, "CANDIDATES", 40)
    monkeypatch.setattr(inspection, "LOSSES", 10**6)
    study, layout = small_study(place, experiments={EXPERIMENT: {"methods": {"dense": spec}}})
    model = with_random_weights(study, layout)
    inspection.run(study, layout, EXPERIMENT)
    every, table = all_rows(study, layout, model), pd.read_csv(layout.candidates(EXPERIMENT))
    strata = ["set", "selected"] if "selected" in every else ["set"]
    counts = every.groupby(strata).size()
    assert len(counts) == 2 ** len(strata)
    most = 40 // len(strata)
    for stratum, rows in table.groupby(strata):
        number = counts[stratum[0] if len(strata) == 1 else stratum]
        assert len(rows) == min(number, most)
        np.testing.assert_allclose(rows["represents"], number / len(rows), rtol=1e-4)
    assert table["represents"].sum() == pytest.approx(len(every), rel=1e-4)
    written = every.to_csv(index=False, float_format="%.5g").splitlines()
    lines = table[list(every)].to_csv(index=False, float_format="%.5g").splitlines()
    assert lines[0] == written[0]
    assert not Counter(lines) - Counter(written)
    assert set(table.loc[table["set"] == "background", "class"]) == {-1}
    assert set(table.loc[table["set"] == "foreground", "class"]) <= set(range(len(CATEGORIES)))
    curves = pd.read_csv(layout.method_loss(EXPERIMENT))
    for kind, curve in curves.groupby("set"):
        expected = cumulative(every.loc[every["set"] == kind, "loss"].to_numpy())
        np.testing.assert_allclose(curve["cumulative"], expected["cumulative"], rtol=1e-4, atol=1e-6)
        assert set(curve["samples"]) == {int((every["set"] == kind).sum())}


@pytest.mark.parametrize("spec", [PLAIN | SOFTMAX, OHEM | SAMPLED], ids=["random", "OHEM"])
def test_proposals_are_those_of_training_or_all_where_the_method_samples(place, spec):
    second = ADDED["detectors"]["faster_rcnn"] | {"short_side": 60, "long_side": 110}
    changes = {"detectors": {"faster_rcnn": second}, "experiments": deepcopy(ADDED["experiments"])}
    changes["experiments"]["two-stage"]["methods"]["roi"] = spec
    study, layout = small_study(place, **changes)
    torch.manual_seed(0)
    model = build_detector(study, "two-stage", read_facts(layout)).eval()
    write_bytes(layout.weights("two-stage"), serialise(model.state_dict()))
    inspection.run(study, layout, "two-stage")
    table = pd.read_csv(layout.candidates("two-stage"))
    batches = list(EvaluationBatches(study, layout, "two-stage", "val"))
    found = sum(table["represents"])
    assert ("selected" in table) == (spec["name"] == "ohem")
    if spec["name"] == "ohem":
        limits = model.rpn_settings.training
        proposals = [model.propose(batch, *model.predict_objects(model.features(batch)), limits) for batch in batches]
        matched = [model.match_proposals(*pair).label for pair in zip(batches, proposals, strict=True)]
        assert found == pytest.approx((torch.cat(matched) >= 0).sum().item(), rel=1e-4)
        selected = table[table["selected"] == 1]["represents"].sum()
        assert selected <= sum(len(batch) for batch in batches) * spec["per_image"]
    else:
        labels = torch.cat([model.samples(batch)["roi"].label for batch in batches])
        assert found == pytest.approx((labels >= 0).sum().item(), rel=1e-4)


def test_run_twice_gives_the_same_bytes(place):
    study, layout = small_study(place)
    with_random_weights(study, layout)
    paths = [layout.candidates(EXPERIMENT), layout.method_loss(EXPERIMENT), layout.gradient_shares(EXPERIMENT)]
    written = []
    for _ in range(2):
        inspection.run(study, layout, EXPERIMENT)
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
