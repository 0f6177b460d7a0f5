"""torchvision's anchors with the pyramid's own strides, for which it takes image size // cells."""

import torch


def nominal_grid(generator, strides):
    """Stands in for ``grid_anchors`` of torchvision's generator: its cells, as far apart as the levels' strides say.

    Both networks then see the same anchors also where a stride does not divide the padded image, so that all else can
    be compared there. The other way round, torchvision's distances in ours, would give ours the anchors that lie beside
    their features.
    """

    def grid_anchors(grid_sizes, found):
        return type(generator).grid_anchors(generator, grid_sizes, [[torch.tensor(stride)] * 2 for stride in strides])

    return grid_anchors
