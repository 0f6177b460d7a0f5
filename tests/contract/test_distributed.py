"""Two processes with half of a batch each have the gradients, and the state, of one process with all of it."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from batches import ROWS, make_samples
from contract_cases import CASES, activation_of, detector_with, make_batch, method_of, stage_of
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from imbdet.methods.pisa import importance, iou_ranks

# Ranks are those of each process, so its gradients depend on which images it has: see the last test.
PER_PROCESS = ("pisa-dense", "pisa-roi")
SELECT = ("ohem-paper", "ohem-code", "pisa-roi")  # each process chooses among its own proposals
CASES_ = [case for case in CASES if case not in PER_PROCESS]

# Labels of the rows of four images: two for each process, with unequal foreground, and with none for the second.
LABELS = {
    "unequal foreground": [0, 3, 1, -1, 3, 0, 0, 3, 1, 3, 3, -1, 3, 2, 3, 3],
    "no foreground on one": [0, 3, 1, -1, 3, 0, 0, 3, 3, 3, 3, -1, 3, 3, 3, 3],
}
# Boxes of two images for each process, likewise, for whole networks.
HALVES = {
    "unequal foreground": ([[[5, 5, 40, 50], [30, 30, 50, 54]], [[0, 0, 60, 60]]], [[[20, 10, 40, 40]], []]),
    "no foreground on one": ([[[5, 5, 40, 50], [30, 30, 50, 54]], []], [[], []]),
}
NETWORKS = ["cross_entropy-dense", "focal-dense-ema", "noisy_anchors-code", "sample_weighting-dense"]


def samples_of(case, name):
    return make_samples(stage_of(case), LABELS[name], images=4, activation=activation_of(case))


def half_of(samples, rank):
    """The rows of the images of one process, as it would have them."""
    inside = samples.image_id // 2 == rank
    rows = {name: getattr(samples, name)[inside] for name in ROWS}
    rows["image_id"] = rows["image_id"] - 2 * rank
    return replace(samples, **rows, num_images=2)


def rows_of(batch, first, last):
    """The images ``first`` to ``last`` - 1 of a batch, with their boxes."""
    inside = (batch.gt_images >= first) & (batch.gt_images < last)
    part = make_batch([[]] * (last - first))
    part.images = batch.images[first:last]
    part.gt_boxes, part.gt_labels = batch.gt_boxes[inside], batch.gt_labels[inside]
    part.gt_images = batch.gt_images[inside] - first
    return part


def of_samples(case, samples):
    """Gradients of the logits and offsets, and of what the method learns; its buffers."""
    method = method_of(case).train()
    inputs = [samples.logits.clone().requires_grad_(), samples.deltas.clone().requires_grad_()]
    losses = method(replace(samples, logits=inputs[0], deltas=inputs[1]))
    sum(losses.values()).backward()
    return [x.grad for x in inputs], [p.grad for p in method.parameters()], dict(method.named_buffers())


def selection(case, samples):
    """Rows that the method's own sampler of proposals keeps, in its order."""
    kept = method_of(case).sampler()(samples, lambda: samples, torch.Generator().manual_seed(1))
    return kept.index[kept.valid]


def of_network(network, batch):
    """Gradients and buffers after one backward pass; batch normalisation is frozen, as it would see other batches."""
    network.train()
    model = getattr(network, "module", network)
    model.backbone.eval()
    sum(network(batch).values()).backward()
    return [p.grad for p in model.parameters()], dict(model.method("dense").named_buffers())


def run_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    samples = {
        (name, case): of_samples(case, half_of(samples_of(case, name), rank)) for name in LABELS for case in CASES
    }
    selected = {
        (name, case): selection(case, half_of(samples_of(case, name), rank)) for name in LABELS for case in SELECT
    }
    networks = {}
    for name, halves in HALVES.items():
        part = rows_of(make_batch([*halves[0], *halves[1]]), 2 * rank, 2 * rank + 2)
        for case in NETWORKS:
            networks[name, case] = of_network(DistributedDataParallel(detector_with(case)), part)
    torch.save((samples, networks, selected), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(run_process, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("case", CASES_)
def test_gradients_of_samples_do_not_depend_on_the_number_of_processes(results, name, case):
    """DistributedDataParallel averages: half of each process's gradient is what it contributes."""
    samples = samples_of(case, name)
    grads, learned, buffers = of_samples(case, samples)
    assert any((grad != 0).any() for grad in grads)
    parts = [results[rank][0][name, case] for rank in range(2)]
    for index, whole in enumerate(grads):
        assert_close(torch.cat([part[0][index] for part in parts]) / 2, whole, rtol=1e-9, atol=1e-12)
    for index, whole in enumerate(learned):
        assert_close((parts[0][1][index] + parts[1][1][index]) / 2, whole, rtol=1e-4, atol=1e-7)
    for part in parts:
        assert_close(part[2], buffers)


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("case", NETWORKS)
def test_gradients_of_networks_do_not_depend_on_the_number_of_processes(results, name, case):
    halves = HALVES[name]
    grads, buffers = of_network(detector_with(case), make_batch([*halves[0], *halves[1]]))
    assert any((grad != 0).any() for grad in grads)
    for rank in range(2):
        split_grads, split_buffers = results[rank][1][name, case]
        for split, whole in zip(split_grads, grads, strict=True):
            assert_close(split, whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item())
        assert_close(split_buffers, buffers)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("case", PER_PROCESS)
def test_pisa_ranks_in_each_process_and_sums_over_all(results, name, case):
    """The classification gradients are those of one process that is given the weights of the halves' own ranks."""
    method, samples = method_of(case), samples_of(case, name)
    halves = [half_of(samples, rank) for rank in range(2)]
    own = torch.cat([importance(*iou_ranks(half), method.positive_bias, method.positive_power) for half in halves])
    logits = samples.logits.clone().requires_grad_()
    rows = method.loss(logits, samples.label)
    foreground = samples.foreground
    before, after = rows[foreground].sum().detach(), (own * rows)[foreground].sum().detach()
    weight = torch.where(foreground, own * before / after, 1.0)
    carl = method.carl_weights(replace(samples, logits=logits)) * method.box_rows(samples)
    ((weight * rows + carl) / method.normalizer(samples)).sum().backward()
    parts = [results[rank][0][name, case][0][0] for rank in range(2)]
    assert_close(torch.cat(parts) / 2, logits.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("case", SELECT)
def test_samplers_choose_in_each_process_as_if_it_were_alone(results, name, case):
    for rank in range(2):
        alone = selection(case, half_of(samples_of(case, name), rank))
        assert len(alone) > 3
        assert torch.equal(results[rank][2][name, case], alone)
