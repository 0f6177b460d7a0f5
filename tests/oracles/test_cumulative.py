"""Figure 4 of the focal-loss paper: the cumulative normalised losses of the reference file."""

import json

import numpy as np

from imbdet.evaluation.cumulative import cumulative_share


def test_cumulative_shares_equal_the_reference(vectors):
    cases = json.loads((vectors / "fig4_cdf.json").read_text())["cases"]
    assert cases
    for case in cases:
        p_t = np.array(case["p_t"])
        share = cumulative_share(np.log(p_t) - np.log1p(-p_t), case["gamma"], np.array(case["fraction"]))
        np.testing.assert_allclose(
            share, case["cumulative"], rtol=1e-9, atol=0, err_msg=f"{case['set']}, {case['gamma']}"
        )
        hardest = 1 - cumulative_share(np.log(p_t) - np.log1p(-p_t), case["gamma"], np.array([0.8]))[0]
        np.testing.assert_allclose(hardest, case["share_of_hardest_20pct"], rtol=1e-9)
