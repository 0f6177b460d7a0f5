"""Equalization Loss: weights, losses and gradients of both forms equal the reference files."""

import json
from dataclasses import replace

import torch
from batches import make_samples
from torch.testing import assert_close

from imbdet.methods._tail import left_out
from imbdet.methods.equalization import Equalization
from imbdet.methods.equalization_softmax import EqualizationSoftmax

EXACT = {"rtol": 1e-9, "atol": 1e-12}
# The references know no background logit in the softmax form: exp of this one is 0.
NO_BACKGROUND = -1e4


def read(folder, name):
    cases = json.loads((folder / f"{name}.json").read_text())["cases"]
    assert cases
    return cases


def samples_of(case, no_background=False):
    """RoIs of one image with the logits and labels of a case; logits want a gradient."""
    logits = torch.tensor(case["logits"], dtype=torch.float64)
    samples = make_samples("roi", case["labels"], num_classes=logits.shape[1], images=1)
    if no_background:
        logits = torch.nn.functional.pad(logits, (0, 1), value=NO_BACKGROUND)
    return replace(samples, logits=logits.requires_grad_())


def wanted(case, name):
    return torch.tensor(case[name], dtype=torch.float64)


def test_sigmoid_form(vectors):
    for case in read(vectors, "eql"):
        samples = samples_of(case)
        method = Equalization(case["freq"], case["lambda_"], None, 0.001, 0.0, "sampled", 0.0)
        weights = wanted(case, "weights")
        assert_close(1 - left_out(method.tail, samples).double(), weights)
        assert_close(method.inspect(samples)["suppressed"].double(), (1 - weights).sum(1))
        loss = method(samples)["classification"]
        assert_close(loss, wanted(case, "loss"), **EXACT)
        (gradient,) = torch.autograd.grad(loss, samples.logits)
        assert_close(gradient, wanted(case, "grad"), **EXACT)


def softmax_method(case):
    """The tail and the draw of beta as the file has them."""
    method = EqualizationSoftmax([1 - tail for tail in case["tail"]], 0.5, None, 0.95, "sampled", 0.0)
    beta = wanted(case, "beta_mask").bool()
    method.draw_beta = lambda _: beta
    return method


def test_softmax_form(vectors):
    for case in read(vectors, "seql_softmax"):
        samples, method = samples_of(case, no_background=True), softmax_method(case)
        rows = len(samples.label)
        kept = ~(left_out(method.tail, samples) & method.draw_beta(samples))
        assert_close(kept.double(), wanted(case, "w"))
        losses = [method(replace(samples, weight=row))["classification"] * rows for row in torch.eye(rows).double()]
        assert_close(torch.stack(losses), wanted(case, "elementwise"), **EXACT)
        (gradient,) = torch.autograd.grad(sum(losses), samples.logits)
        assert_close(gradient[:, :-1], wanted(case, "grad_of_sum"), **EXACT)
        assert (gradient[:, -1] == 0).all()
