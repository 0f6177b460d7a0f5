"""The sample weighting network with weights of some size, its samples, and what the reference says of them."""

import pytest
import sample_weighting_reference as reference
import torch
from batches import LABEL, NUM_CLASSES, make_samples

from imbdet.methods import build_method

DENSE = {"activation": "sigmoid", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "batch"}
ROI = {"activation": "softmax", "alpha": None, "gamma": 0.0, "prior_prob": None, "normalizer": "sampled"}
STAGES = {
    "dense": {**DENSE, "box_beta": 0.11, "background_regularizer": None},
    "roi": {**ROI, "box_beta": 1.0, "background_regularizer": 0.4},
}
SPEC = {"name": "sample_weighting", "variant": "paper", "averaging": "group", "clamp": 1.7}
SPEC |= {"class_regularizer": 0.5, "box_regularizer": 0.3, "learning_rate": 1e-3, "weight_decay": 1e-4}
K = NUM_CLASSES
LABELS = {
    "every kind": LABEL,
    "an image without foreground": [0, K, 2, -1, K, -1, K, K],
    "one foreground row": [K, K, 1, K, K, -1, K, K],
    "no foreground": [K, K, -1, K, K, K, -1, K],
    "no background": [0, 1, 2, 0, -1, 2, 1, 0],
    "nothing": [-1] * 8,
}
ALL = pytest.mark.parametrize("stage", STAGES)
AVERAGING = pytest.mark.parametrize("averaging", ["group", "sample"])
VARIANTS = pytest.mark.parametrize("variant", ["paper", "code"])


def build(stage, seed=0, std=0.2, **changes):
    """The method with a network whose weights are of some size: s lies within the clamp for some rows only."""
    method = build_method({**SPEC, **STAGES[stage], **changes}).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.normal_(0, std, generator=random)
    return method


def samples_for(stage, label=LABEL, **changes):
    return make_samples(stage, label, activation=STAGES[stage]["activation"], **changes)


def plain(samples):
    """The samples as the reference takes them."""
    rows = []
    for i, label in enumerate(samples.label.tolist()):
        foreground = 0 <= label < samples.num_classes
        column = label if foreground and samples.deltas.shape[1] > 1 else 0
        rows.append(
            {
                "logits": samples.logits[i].tolist(),
                "deltas": samples.deltas[i, column].tolist(),
                "prior": samples.priors[i].tolist(),
                "label": label,
                "gt": samples.gt_boxes[samples.gt_id[i]].tolist() if foreground else None,
            }
        )
    return rows


def layers_of(network):
    """The network's layers as the reference takes them."""

    def layer(linear):
        return linear.weight.detach().numpy(), linear.bias.detach().numpy()

    embeddings = {name: [layer(getattr(network, name)[i]) for i in (0, 2)] for name in reference.EMBEDDINGS}
    return {**embeddings, "predictor": [layer(network.joined), layer(network.last)]}


def settings_of(method, samples, spec):
    divisor = samples.foreground.sum() if samples.stage == "dense" else (samples.label >= 0).sum()
    base = {name: spec[name] for name in ("activation", "alpha", "gamma", "box_beta")}
    base |= {"coder_weights": samples.box_coder.weights, "num_classes": samples.num_classes}
    options = {"clamp": spec["clamp"], "averaging": spec["averaging"], "strengths": method.strengths}
    ignored_too = spec["variant"] == "code" and samples.stage == "dense"
    return base | {"divisor": max(int(divisor), 1)}, options | {"ignored_too": ignored_too}


def expected_losses(method, samples, spec, frozen=None):
    """The reference's terms; with ``frozen`` inputs, None or those of the IoU and score that are not."""
    base, options = settings_of(method, samples, spec)
    rows = plain(samples)
    known = reference.inputs(rows, base) if frozen is None else frozen(reference.inputs(rows, base))
    return reference.losses(rows, layers_of(method.network), known, base, options), known
