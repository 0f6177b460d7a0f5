"""Random samples of either kind of head, for the tests of methods: consistent, seeded, in double precision."""

from dataclasses import replace

import torch

from imbdet.geometry import BoxCoder, paired_iou
from imbdet.samples import Samples

NUM_CLASSES = 3
ROWS = ("logits", "deltas", "priors", "label", "gt_id", "image_id", "level", "prior_iou", "weight", "multiplicity")
CODERS = {"dense": BoxCoder(), "rpn": BoxCoder(), "roi": BoxCoder((10.0, 10.0, 5.0, 5.0))}
# Every kind of row, in both images of a batch of two.
LABEL = [-1, 0, NUM_CLASSES, NUM_CLASSES - 1, NUM_CLASSES, -1, 0, NUM_CLASSES] * 3


def make_samples(
    stage,
    label=None,
    num_classes=NUM_CLASSES,
    dtype=torch.float64,
    images=2,
    activation="sigmoid",
    boxes_of_gt=2,
    seed=7,
):
    """Samples with ``label`` (K background, -1 ignored), cut evenly into ``images``.

    Up to ``boxes_of_gt`` foreground rows in a row share a box, where image and class agree. Priors lie near their box,
    and so do predictions. RoI samples have offsets by class, the others one set.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=random)

    label = torch.tensor(LABEL if label is None else label)
    n = len(label)
    if stage == "rpn":
        label, num_classes = torch.where(label < 0, -1, (label >= num_classes).long()), 1
    foreground = (label >= 0) & (label < num_classes)
    image_id = torch.arange(n) * images // max(n, 1)
    gt_id = _boxes_in_turn(label, image_id, foreground, boxes_of_gt)
    gts = int(gt_id.max()) + 1 if n else 0
    corner = 40 * draw(gts, 2)
    gt_boxes = torch.cat([corner, corner + 12 + 20 * draw(gts, 2)], 1)
    corner = 40 * draw(n, 2)
    anywhere = torch.cat([corner, corner + 8 + 20 * draw(n, 2)], 1)
    own = gt_boxes[gt_id.clamp(min=0)] if gts else anywhere
    priors = torch.where(foreground[:, None], own + 8 * draw(n, 4) - 4, anywhere)
    coder = CODERS[stage]
    columns = num_classes if stage == "roi" else 1
    noise = 0.3 * (2 * draw(n, columns, 4) - 1) * torch.tensor(coder.weights, dtype=torch.float64)
    deltas = torch.where(foreground[:, None], coder.encode(own, priors), 0.0)[:, None] + noise
    logits = 6 * draw(n, num_classes + (activation == "softmax")) - 3
    return Samples(
        logits=logits.to(dtype),
        deltas=deltas.to(dtype),
        priors=priors.to(_box_dtype(dtype)),
        label=label,
        gt_id=gt_id,
        image_id=image_id,
        level=torch.zeros(n, dtype=torch.int64),
        prior_iou=torch.where(foreground, paired_iou(priors, own), 0.1).to(_box_dtype(dtype)),
        weight=torch.ones(n, dtype=_box_dtype(dtype)),
        multiplicity=torch.ones(n, dtype=_box_dtype(dtype)),
        gt_boxes=gt_boxes.to(_box_dtype(dtype)),
        box_coder=coder,
        num_classes=num_classes,
        num_images=images,
        stage=stage,
        generator=torch.Generator().manual_seed(seed),
    )


def _box_dtype(dtype):
    """Boxes are never in half precision."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _boxes_in_turn(label, image_id, foreground, boxes_of_gt):
    gt_id, following = torch.full_like(label, -1), 0
    open_boxes = {}  # (image, class): id of the box and the rows that it still takes
    for row in foreground.nonzero()[:, 0].tolist():
        key = int(image_id[row]), int(label[row])
        box, left = open_boxes.get(key, (None, 0))
        if not left:
            box, left, following = following, boxes_of_gt, following + 1
        gt_id[row] = box
        open_boxes[key] = box, left - 1
    return gt_id


def losses_and_gradients(method, samples):
    """Losses by name, and the gradients of their sum with respect to logits and deltas."""
    inputs = [samples.logits.detach().clone().requires_grad_(), samples.deltas.detach().clone().requires_grad_()]
    losses = method(replace(samples, logits=inputs[0], deltas=inputs[1]))
    return losses, torch.autograd.grad(sum(losses.values()), inputs)


def arrays(samples):
    """Samples as slow references in plain NumPy read them."""
    names = ("logits", "deltas", "priors", "label", "gt_id", "image_id", "weight", "gt_boxes")
    rest = {"num_classes": samples.num_classes, "num_images": samples.num_images}
    return {n: getattr(samples, n).numpy() for n in names} | rest | {"coder_weights": samples.box_coder.weights}
