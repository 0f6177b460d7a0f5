"""The benchmark of the focal loss measures what it says, and the memory that it promises holds."""

import time

import pytest
import torch
from scripts import load


@pytest.fixture(scope="module")
def benchmark():
    torch.set_num_threads(1)
    return load("focal_loss")


@pytest.fixture(scope="module")
def batch(benchmark):
    return benchmark.make_batch(60_000, 80, 100, torch.device("cpu"))


def extra_memory(benchmark, subject):
    """In multiples of the logits, the subject's first input."""
    return benchmark.extra_bytes(subject) / benchmark.size(subject.inputs[0])


@pytest.mark.parametrize("exponentials", [0, 1, 2])
def test_memory_of_known_operations(benchmark, batch, exponentials):
    """Each exp keeps its result for backward; the last of them is there together with two gradients."""
    logits = batch[0]

    def path():
        x = logits
        for _ in range(exponentials):
            x = x.exp()
        return x.sum()

    subject = benchmark.Subject(lambda: path().backward(), (logits,))
    assert extra_memory(benchmark, subject) == pytest.approx(exponentials + 1, abs=0.01)


@pytest.mark.parametrize("name", ["eager", "compiled"])
def test_our_paths_hold_a_gradient_and_little_more(benchmark, batch, name):
    subject = benchmark.make_subjects(*batch)[name]
    subject.run()  # compiles
    assert 1 <= extra_memory(benchmark, subject) <= 1.2


def test_all_paths_compute_the_same_loss_and_gradient(benchmark, batch):
    results = {}
    for name, path in benchmark.make_paths(*batch).items():
        batch[0].grad = None
        loss = path()
        loss.backward()
        results[name] = loss.detach(), batch[0].grad
    loss, gradient = results.pop("torchvision")
    for ours, ours_gradient in results.values():
        torch.testing.assert_close(ours, loss, rtol=1e-4, atol=0)
        torch.testing.assert_close(ours_gradient, gradient, rtol=1e-4, atol=1e-9)


def test_a_run_starts_without_gradients_and_its_time_is_taken(benchmark):
    leaf = torch.ones(3, requires_grad=True)

    def run():
        assert leaf.grad is None
        leaf.sum().backward()
        time.sleep(0.02)

    subject = benchmark.Subject(run, (leaf,))
    assert all(0.02 <= benchmark.seconds(subject) < 0.5 for _ in range(2))


def test_subjects_take_turns(benchmark):
    calls = []
    subjects = {name: benchmark.Subject(lambda name=name: calls.append(name), (torch.ones(1),)) for name in "abc"}
    times = benchmark.take_turns(subjects, 3)
    assert "".join(calls) == "abcabcabc"
    assert {name: len(own) for name, own in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_that_of_a_turn(benchmark):
    """A machine that slows down for one turn slows both alike; medians taken first would give 2 / 1.5."""
    assert benchmark.ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.5]) == 2


def test_table_shows_the_ratios_of_the_medians(benchmark):
    result = benchmark.measure(2000, 8, 10, 3, torch.device("cpu"), threads=1)
    assert result["speed_up"]["torchvision"] == 1
    assert all(len(times) == 3 for times in result["times_ms"].values())
    rows = benchmark.table(result).splitlines()[4:]
    assert [row.split(" | ")[0] for row in rows] == ["| torchvision", "| eager", "| compiled"]
