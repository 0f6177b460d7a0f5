"""The curves of the focal-loss paper's figures 1, 4, 5 and 6 equal the reference files."""

import json

import numpy as np
import pandas as pd
from numpy.testing import assert_allclose

from imbdet.figures import analytic, cumulative_loss


def test_losses_and_derivatives_equal_the_reference(vectors):
    cases = json.loads((vectors / "focal_curves.json").read_text())["cases"]
    assert {case["kind"] for case in cases} == {"FL", "FL*"}
    for case in cases:
        x_t = np.array(case["x_t"])
        if case["kind"] == "FL":
            loss, slope = analytic.focal_loss(x_t, case["gamma"]), analytic.focal_loss_slope(x_t, case["gamma"])
            by_probability = analytic.focal_loss_of_probability(np.array(case["p_t"]), case["gamma"])
            assert_allclose(analytic.sigmoid(x_t), case["p_t"], rtol=1e-9)
            assert_allclose(by_probability, case["loss"], rtol=1e-9)
        else:
            loss = analytic.focal_star(x_t, case["gamma"], case["beta"])
            slope = analytic.focal_star_slope(x_t, case["gamma"], case["beta"])
        # The reference takes -log(p) and p - 1: where p is close to 1, both are off by the rounding of p.
        assert_allclose(loss, case["loss"], rtol=1e-9, atol=2e-16)
        assert_allclose(slope, case["dldx"], rtol=1e-9, atol=2e-16)


def test_share_of_the_hardest_is_read_off_the_curve(vectors):
    cases = json.loads((vectors / "fig4_cdf.json").read_text())["cases"]
    assert cases
    for case in cases:
        curve = pd.DataFrame({"fraction": case["fraction"], "cumulative": case["cumulative"]})
        assert_allclose(cumulative_loss.share_of_hardest(curve, 0.2), case["share_of_hardest_20pct"], rtol=1e-9)
