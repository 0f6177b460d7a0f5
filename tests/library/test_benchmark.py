"""The benchmark of the focal loss measures what it says, and the memory that it promises holds."""

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "focal_loss.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("focal_loss_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    return module


@pytest.fixture(scope="module")
def batch(benchmark):
    return benchmark.make_batch(60_000, 80, 100, torch.device("cpu"))


@pytest.mark.parametrize("exponentials", [0, 1, 2])
def test_memory_of_known_operations(benchmark, batch, exponentials):
    """Each exp keeps its result for backward; the last of them is there together with two gradients."""
    logits = batch[0]

    def path():
        x = logits
        for _ in range(exponentials):
            x = x.exp()
        return x.sum()

    assert benchmark.extra_memory(path, logits) == pytest.approx(exponentials + 1, abs=0.01)


@pytest.mark.parametrize("name", ["eager", "compiled"])
def test_our_paths_hold_a_gradient_and_little_more(benchmark, batch, name):
    path = benchmark.make_paths(*batch)[name]
    path().backward()  # compiles
    assert 1 <= benchmark.extra_memory(path, batch[0]) <= 1.2


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


def test_table_shows_the_ratios_of_the_medians(benchmark):
    result = benchmark.measure(2000, 8, 10, 3, torch.device("cpu"), threads=1)
    assert result["speed_up"]["torchvision"] == 1
    assert all(len(times) == 3 for times in result["times_ms"].values())
    rows = benchmark.table(result).splitlines()[4:]
    assert [row.split(" | ")[0] for row in rows] == ["| torchvision", "| eager", "| compiled"]
