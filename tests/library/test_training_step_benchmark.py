"""The benchmark of the training step compares two networks that do the same, on the same images."""

import pytest
import torch
from scripts import load
from torch.testing import assert_close

CPU = torch.device("cpu")
EVEN, UNEVEN = [(128, 128), (100, 120)], [(128, 160), (96, 130)]  # padded to 128 x 128, which all strides divide


@pytest.fixture(scope="module")
def benchmark():
    torch.set_num_threads(1)
    return load("training_step")


@pytest.fixture(scope="module")
def networks(benchmark):
    return benchmark.our_network().train(), benchmark.torchvision_network().train()


def losses(benchmark, networks, sizes):
    samples = benchmark.make_samples(sizes)
    with torch.no_grad():
        ours, theirs = (
            make(network, samples, CPU)()
            for make, network in zip((benchmark.our_losses, benchmark.their_losses), networks, strict=True)
        )
    return torch.stack(list(ours.values())), torch.stack(list(theirs.values()))


def test_both_have_the_same_losses_where_their_anchors_agree(benchmark, networks):
    """And so the same weights, images, boxes and classes."""
    assert_close(*losses(benchmark, networks, EVEN), rtol=1e-4, atol=0)


def test_both_compute_as_much_where_the_coarse_levels_round_up(benchmark, networks):
    """There torchvision's coarse anchors lie elsewhere; every level has as many."""
    samples = benchmark.make_samples(UNEVEN)
    ours, theirs = networks
    shapes = []
    hooks = [
        network.head.register_forward_hook(lambda module, inputs, output: shapes.append(output)) for network in networks
    ]
    with torch.no_grad():
        benchmark.our_losses(ours, samples, CPU)(), benchmark.their_losses(theirs, samples, CPU)()
    for hook in hooks:
        hook.remove()
    assert shapes[0]["cls_logits"].shape == shapes[1]["cls_logits"].shape
    assert shapes[0]["cls_logits"].shape[1] == 9 * sum(h * w for h, w in [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)])


def test_a_step_moves_no_weight_and_leaves_gradients_in_all(benchmark, networks):
    ours, _ = networks
    subject = benchmark.step(ours, benchmark.our_losses(ours, benchmark.make_samples(EVEN), CPU))
    before = [parameter.detach().clone() for parameter in subject.inputs]
    subject.prepare()
    subject.run()
    assert all(torch.equal(a, b) for a, b in zip(before, subject.inputs, strict=True))
    assert all(parameter.grad is not None for parameter in subject.inputs)


def test_a_step_in_bf16_is_one(benchmark, networks):
    """Its losses are those of fp32 within rounding, and not they themselves."""
    ours, _ = networks
    seen = []
    call = benchmark.our_losses(ours, benchmark.make_samples(EVEN), CPU)

    def losses():
        terms = call()
        seen.append(torch.stack(list(terms.values())).detach())
        return terms

    for precision in ("fp32", "bf16"):
        benchmark.step(ours, losses, precision).run()
    exact, rounded = seen
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert_close(rounded, exact, rtol=0.05, atol=0)


def test_the_page_says_what_the_record_says(page, committed):
    record = committed[4]
    text = page.page(*committed).partition("## A training step")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(record["results"])
    for row, result in zip(rows, record["results"], strict=True):
        assert row.startswith(f"| {result['scene']} | ")
        for of_pair in result["ratios"].values():
            assert f"| {of_pair['median']:.2f} ({of_pair['least']:.2f} to {of_pair['most']:.2f}) |" in row


def test_the_record_is_of_sizes_with_and_without_levels_that_round_up(benchmark, committed):
    sides = {side for result in committed[4]["results"] for side in result["padded"]}
    assert {side % 128 == 0 for side in sides} == {True, False}
    assert [result["scene"] for result in committed[4]["results"]] == list(benchmark.SCENES)


def test_a_record_has_the_ratios_of_its_times(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "SCENES", {"small": EVEN})
    monkeypatch.setattr(benchmark, "places", lambda threads: [(CPU, 1)])
    (result,) = benchmark.make_record(["small"], repetitions=2)["results"]
    assert result["padded"] == [128, 128]
    times, ratios = result["times_s"], result["ratios"]
    assert {name: len(of_one) for name, of_one in times.items()} == dict.fromkeys(times, 2)
    own = [a / b for a, b in zip(times["imbdet"], times["torchvision, channels last"], strict=True)]
    assert ratios["fp32"] == pytest.approx({"median": sum(own) / 2, "least": min(own), "most": max(own)})
