"""The sample weighting network in two processes: the means of s are those of all rows."""

from dataclasses import replace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from batches import LABEL, ROWS
from sample_weighting_cases import STAGES, K, build, samples_for
from torch.testing import assert_close

SPLITS = {"unequal": LABEL, "no foreground for the second": [*LABEL[:12], *[K, -1, K] * 4]}
CASES = [
    (stage, averaging, variant, label)
    for stage in STAGES
    for averaging in ("group", "sample")
    for variant in ("paper", "code")
    for label in SPLITS.values()
]


def gradients(case, rows):
    """Gradients of the network and the detector for some rows of the batch, and the losses."""
    stage, averaging, variant, label = case
    method, samples = build(stage, averaging=averaging, variant=variant), samples_for(stage, label)
    part = replace(samples, **{name: getattr(samples, name)[rows] for name in ROWS})
    logits, deltas = part.logits.clone().requires_grad_(), part.deltas.clone().requires_grad_()
    sum(method(replace(part, logits=logits, deltas=deltas)).values()).backward()
    return [p.grad for p in method.network.parameters()], [logits.grad, deltas.grad]


def run_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([gradients(case, slice(12 * rank, 12 * rank + 12)) for case in CASES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path):
    """The mean of the network's gradients, as DistributedDataParallel takes it; half of the detector's each."""
    mp.spawn(run_process, args=(tmp_path,), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, first, second in zip(CASES, *halves, strict=True):
        network, detector = gradients(case, slice(None))
        for whole, *parts in zip(network, first[0], second[0], strict=True):
            assert_close(sum(parts) / 2, whole)
        for whole, *parts in zip(detector, first[1], second[1], strict=True):
            assert_close(torch.cat(parts) / 2, whole)
