"""Choosing the candidates that a loss is computed on, for all images at once and without waiting for the device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from imbdet.domains import COUNT, SHARE
from imbdet.samples import Candidates, Kept, Samples


class Sampler(Protocol):
    """Chooses rows of the candidates of a whole batch."""

    def __call__(self, candidates: Candidates, score: Callable[[], Samples], generator: torch.Generator | None) -> Kept:
        """Return what is kept; ``score()`` runs the head on every candidate without gradient, for those who need it."""
        ...


@dataclass(frozen=True)
class RandomSampler:
    """At random ``number`` candidates of each image, of which at most ``foreground_share`` are foreground.

    The sampling of RPN (256 at 1:1) and of Fast R-CNN's head (512 at 1:3); what is missing in foreground is made up
    with background, never the other way round. Ren et al., Faster R-CNN, NIPS 2015, section 3.1.3.

    Raises ValueError for a number below 1 and a share outside 0..1.
    """

    number: int
    foreground_share: float

    def __post_init__(self) -> None:
        COUNT.check("number", self.number)
        SHARE.check("foreground_share", self.foreground_share)

    def __call__(self, candidates: Candidates, score: Callable[[], Samples], generator: torch.Generator | None) -> Kept:
        foreground, background = candidates.foreground, candidates.label == candidates.num_classes
        images = candidates.num_images
        keys = torch.rand(len(foreground), generator=generator, device=foreground.device, dtype=torch.float64)
        fg_rank, fg_count = ranks_in_groups(keys, candidates.image_id, foreground, images)
        bg_rank, bg_count = ranks_in_groups(keys, candidates.image_id, background, images)
        ranks = torch.where(foreground, fg_rank, bg_rank)
        keep, slot = within_quotas(candidates, ranks, fg_count, bg_count, self.number, self.foreground_share)
        return fill_slots(keep, slot, images * self.number)


def ranks_in_groups(keys: Tensor, group: Tensor, member: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Position of each member in its group by ascending key, and the groups' sizes.

    Args:
        keys: [N] fp64 in [0, 1).
        group: [N] int64, 0..num_groups-1.
        member: [N] bool, rows that count.

    Returns:
        [N] int64 ranks from 0, meaningless where not a member, and [num_groups] int64 counts.
    """
    group = torch.where(member, group, num_groups)
    order = (group + keys).argsort()
    counts = torch.zeros(num_groups + 1, dtype=torch.int64, device=keys.device)
    counts = counts.index_add(0, group, torch.ones_like(group))
    starts = counts.cumsum(0) - counts
    positions = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=keys.device))
    return positions - starts[group], counts[:-1]


def within_quotas(
    candidates: Candidates, rank: Tensor, fg_count: Tensor, bg_count: Tensor, number: int, foreground_share: float
) -> tuple[Tensor, Tensor]:
    """Of each image the first ``number`` candidates, at most ``foreground_share`` of them foreground.

    Args:
        candidates: N of B images.
        rank: [N] int64, of foreground and of background each from 0 in its image.
        fg_count, bg_count: [B] int64, how many of either an image has.

    Returns:
        [N] bool, rows to keep, and [N] int64, the slot of each: ``number`` an image, foreground first.
    """
    image, foreground = candidates.image_id, candidates.foreground
    fg_kept = fg_count.clamp(max=int(number * foreground_share))
    bg_kept = torch.minimum(bg_count, number - fg_kept)
    keep = (candidates.label >= 0) & (rank < torch.where(foreground, fg_kept[image], bg_kept[image]))
    slot = torch.where(foreground, rank, fg_kept[image] + rank)
    return keep, image * number + slot


def fill_slots(keep: Tensor, slot: Tensor, number: int) -> Kept:
    """[N] rows to keep and the slot 0..number-1 of each, to ``number`` slots, of which some may stay empty."""
    slot = torch.where(keep, slot, number)  # one slot more, for the rest
    index = torch.zeros(number + 1, dtype=torch.int64, device=keep.device)
    index = index.scatter(0, slot, torch.arange(len(slot), device=keep.device))[:-1]
    valid = torch.zeros(number + 1, dtype=torch.bool, device=keep.device).scatter(0, slot, keep)[:-1]
    return Kept(index, valid, torch.ones(number, device=keep.device))
