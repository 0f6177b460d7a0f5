"""Two processes with half of a batch each have the gradients, and the state, of one process with all of it."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from contract_cases import SPECS, make_batch, tiny_detector
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from imbdet.methods import build_method

# Two images for each process: with unequal foreground, and with none for the second process.
HALVES = {
    "unequal foreground": ([[[5, 5, 40, 50], [30, 30, 50, 54]], [[0, 0, 60, 60]]], [[[20, 10, 40, 40]], []]),
    "no foreground on one": ([[[5, 5, 40, 50], [30, 30, 50, 54]], []], [[], []]),
}


def rows_of(batch, first, last):
    """The images ``first`` to ``last`` - 1 of a batch, with their boxes."""
    inside = (batch.gt_images >= first) & (batch.gt_images < last)
    part = make_batch([[]] * (last - first))
    part.images = batch.images[first:last]
    part.gt_boxes, part.gt_labels = batch.gt_boxes[inside], batch.gt_labels[inside]
    part.gt_images = batch.gt_images[inside] - first
    return part


def gradients(network, batch):
    """Gradients and buffers after one backward pass; batch normalisation is frozen, as it would see other batches."""
    network.train()
    model = getattr(network, "module", network)
    model.backbone.eval()
    sum(network(batch).values()).backward()
    return [p.grad for p in model.parameters()], dict(model.method.named_buffers())


def run_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for name, halves in HALVES.items():
        whole = make_batch([*halves[0], *halves[1]])
        part = rows_of(whole, 2 * rank, 2 * rank + 2)
        for index, spec in enumerate(SPECS):
            network = DistributedDataParallel(tiny_detector(build_method(spec)))
            results[name, index] = gradients(network, part)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(run_process, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("index", range(len(SPECS)), ids=[f"{spec['name']}-{spec['normalizer']}" for spec in SPECS])
def test_gradients_do_not_depend_on_the_number_of_processes(results, name, index):
    halves = HALVES[name]
    grads, buffers = gradients(tiny_detector(build_method(SPECS[index])), make_batch([*halves[0], *halves[1]]))
    assert any((grad != 0).any() for grad in grads)
    for rank in range(2):
        split_grads, split_buffers = results[rank][name, index]
        for split, whole in zip(split_grads, grads, strict=True):
            assert_close(split, whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item())
        assert_close(split_buffers, buffers)
