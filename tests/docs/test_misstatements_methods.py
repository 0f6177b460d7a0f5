"""Misstatements E20 to E26, shown on the equations of the papers alone."""

import numpy as np
import pytest

RNG = np.random.default_rng(0)


def noisy_anchor_terms(iou, probability, share=0.75):
    """Soft labels and weights of one image's positives (Li et al., Learning from Noisy Anchors, CVPR 2020).

    iou: [P] of the predicted box and its ground truth. probability: [P] of the true class. Both without gradient.
    """

    def mix(a, b):
        return share * a / a.mean() + (1 - share) * b / b.mean()

    cleanliness = mix(iou, probability)
    spread = (cleanliness - cleanliness.min()) / (cleanliness.max() - cleanliness.min())
    return iou.mean() + (1 - iou.mean()) * spread, mix(1 / (1 - iou), 1 / (1 - probability))


def test_e20_cleanliness_is_a_label_and_the_weight_is_another_function():
    positive = np.arange(8) < 3
    label, weight = np.zeros(8), np.ones(8)
    iou = np.array([0.2, 0.6, 0.9])
    label[positive], weight[positive] = noisy_anchor_terms(iou, np.array([0.4, 0.3, 0.8]))
    assert ((label[positive] >= iou.mean()) & (label[positive] <= 1)).all(), "a label is a probability"
    assert label[2] == 1, "the cleanest anchor keeps its whole label"
    assert weight.max() > 1, "a weight need not be one"
    assert np.ptp(label[positive] / weight[positive]) > 0.1, "the two are not proportional"
    assert (label[~positive] == 0).all()
    assert (weight[~positive] == 1).all()


def test_e21_gaussian_for_boxes_and_tempered_softmax_for_classes():
    """With s = log sigma^2, a loss L becomes L exp(-s) + s / 2: exact for boxes; for classes only at sigma 1."""
    d, z = 1.3, np.array([2.0, 0.5, -1.0])
    errors = {}
    for sigma in (0.7, 1.0, 1.2):
        s = np.log(sigma**2)
        gaussian = -np.log(np.exp(-(d**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi)))
        assert np.exp(-s) * d**2 / 2 + s / 2 == pytest.approx(gaussian - np.log(2 * np.pi) / 2)
        tempered = np.log(np.exp(z / sigma**2).sum()) - z[0] / sigma**2
        cross_entropy = np.log(np.exp(z).sum()) - z[0]
        errors[sigma] = abs(np.exp(-s) * cross_entropy + s / 2 - tempered)
    assert errors[1.0] == pytest.approx(0, abs=1e-15)
    assert min(errors[0.7], errors[1.2]) > 0.01


def pisa_weights(rank, loss, beta, gamma):
    """Weights of one kind of sample (Cao et al., PISA, CVPR 2020), scaled so that the total loss stays.

    rank: [n] hierarchical local rank, 0 is the most important. loss: [n] cross entropy, without gradient.
    """
    importance = (len(rank) - rank) / len(rank)
    weight = ((1 - beta) * importance + beta) ** gamma
    return weight * loss.sum() / (weight * loss).sum()


def test_e22_pisa_keeps_the_total_and_moves_the_gradients():
    x_t = RNG.normal(1, 2, 12)
    loss, size_of_gradient = np.logaddexp(0, -x_t), 1 / (1 + np.exp(x_t))
    positive = np.arange(12) < 4
    weight = np.empty(12)
    for kind, gamma in ((positive, 2.0), (~positive, 0.5)):
        weight[kind] = pisa_weights(RNG.permutation(kind.sum()), loss[kind], 0.0, gamma)
        assert (weight * loss)[kind].sum() == pytest.approx(loss[kind].sum()), "kept for each kind separately"
    assert np.abs(weight * size_of_gradient - size_of_gradient).max() > 0.1
    whole = pisa_weights(RNG.permutation(12), loss, 0.0, 2.0)
    assert (whole * loss)[positive].sum() != pytest.approx(loss[positive].sum()), "not so if normalised together"


def carl(p, box_loss, bias=0.2, exponent=1.0):
    """Classification-aware regression loss: box losses weighted by the predicted probability p of the true class."""
    v = (bias + (1 - bias) * p) ** exponent
    return (v * len(p) / v.sum() * box_loss).sum()


def test_e22_carl_reaches_the_classifier():
    """The score of the sample with the smaller box loss is pushed up, the other's down: a gradient that ISR lacks."""
    p, box_loss, step = np.array([0.5, 0.5]), np.array([0.1, 0.9]), 1e-6
    gradient = [(carl(p + step * e, box_loss) - carl(p - step * e, box_loss)) / (2 * step) for e in np.eye(2)]
    assert gradient[0] < -0.1
    assert gradient[1] > 0.1


def eql_weights(label, frequency, threshold):
    """w_j = 1 - E(r) T(f_j) (1 - y_j) for proposals r and classes j, [N, K] (Tan et al., Equalization Loss, CVPR 2020).

    label: [N], 0..K-1, or K for background. frequency: [K] share of the images that hold the class.
    """
    foreground = (label < len(frequency))[:, None]
    tail = (frequency < threshold)[None]
    one_hot = label[:, None] == np.arange(len(frequency))[None]
    return 1.0 - foreground * tail * ~one_hot


FREQUENCY = np.array([0.3, 0.0005, 0.0002])  # one frequent class, two of the tail
THRESHOLD = 0.00176
BACKGROUND = 3


def test_e23_frequent_classes_push_tail_classes_down():
    """With 1000 proposals of the frequent class and 2 of a tail class, all at p = 0.5; no background at all."""
    label = np.repeat([0, 1], [1000, 2])
    pull = (label[:, None] == np.arange(3)) - 0.5
    up, down = np.clip(pull, 0, None).sum(axis=0), -np.clip(pull, None, 0).sum(axis=0)
    assert up[0] / down[0] > 100
    assert down[1] / up[1] == 500
    equalized = pull * eql_weights(label, FREQUENCY, THRESHOLD)
    assert -np.clip(equalized[:, 1], None, 0).sum() == 0, "only its own positives act on the tail class"


def test_e24_proposal_class_and_tail():
    weights = eql_weights(np.array([0, 1, BACKGROUND]), FREQUENCY, THRESHOLD)
    assert weights[0].tolist() == [1, 0, 0], "foreground proposal: T = 1 drops both tail classes, not the frequent one"
    assert weights[1].tolist() == [1, 1, 0], "y_j = 1 keeps the proposal's own class, tail or not"
    assert weights[2].tolist() == [1, 1, 1], "E(r) = 0 for a background proposal"
    at_threshold = eql_weights(np.array([0]), np.array([0.3, THRESHOLD, 0.0002]), THRESHOLD)
    assert at_threshold[0].tolist() == [1, 1, 0], "T = 1 strictly below the threshold"


def test_e25_any_foreground_of_another_class_but_no_background():
    weights = eql_weights(np.array([0, 2, BACKGROUND]), FREQUENCY, THRESHOLD)[:, 1]
    assert weights.tolist() == [0, 0, 1], "proposals of a frequent class, of another tail class, of background"


def test_e26_the_weight_does_not_depend_on_p():
    label = np.tile([0, 1, 2, BACKGROUND], 25)
    p = RNG.uniform(0, 1, (100, 3))
    p_t = np.where(label[:, None] == np.arange(3), p, 1 - p)
    weights = eql_weights(label, FREQUENCY, THRESHOLD)
    assert set(weights.ravel()) == {0.0, 1.0}
    for kind in range(4):
        rows = label == kind
        assert (np.ptp(weights[rows], axis=0) == 0).all(), "equal for all proposals of a class, whatever p is"
        assert (np.ptp((1 - p_t[rows]) ** 2, axis=0) > 0.5).all(), "the focal factor is not"
