"""Pure functions that turn weights of candidates into others; everything here is without gradient."""

import torch
from torch import Tensor

from imbdet.distributed import total


def keep_total(weight: Tensor, loss: Tensor, rows: Tensor) -> Tensor:
    """Weights scaled by one number, so that they shift the losses among rows and leave their sum what it was.

    Args:
        weight: [N], not below 0.
        loss: [N] losses that the weights will multiply, not below 0; a sampler's weights belong into them.
        rows: [N] bool, where the weights apply. What the others hold, NaN included, does not matter.

    Returns:
        [N] ``weight * sum(loss) / sum(weight * loss)``, both sums over ``rows`` of all processes, in the wider dtype;
        the weights themselves where the second sum is 0, and 1 outside ``rows``.
    """
    weight, loss = weight.detach(), loss.detach()  # unlike no_grad, of forward-mode derivatives too
    before = torch.where(rows, loss, 0.0).sum()
    after = torch.where(rows, weight * loss, 0.0).sum()
    before, after = total(torch.stack([before, after]))
    scale = torch.where(after > 0, before / after, 1.0)
    return torch.where(rows, scale * weight, 1.0)
