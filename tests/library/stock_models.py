"""torchvision's own small models, and batches in the form that they read."""

import copy
import functools
import runpy
from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

TESTS = Path(__file__).resolve().parents[1]
CONTRACT = runpy.run_path(str(TESTS / "contract" / "contract_cases.py"))
CASES, method_of, CLASSES = CONTRACT["CASES"], CONTRACT["method_of"], CONTRACT["NUM_CLASSES"]
SIDES = {"min_size": 128, "max_size": 192}


def cases(*stages):
    return [case for case, (stage, _) in CASES.items() if stage in stages]


def copy_of(build):
    """Of a model that is built once, in training mode."""
    torch.set_num_threads(1)
    return copy.deepcopy(build()).train()


@functools.cache
def retinanet():
    """On ResNet-18, logits scaled so that scores and gradients vary."""
    torch.manual_seed(0)
    extra = LastLevelP6P7(256, 256)
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": extra, "trainable_layers": 5}
    model = RetinaNet(resnet_fpn_backbone(backbone_name="resnet18", weights=None, **levels), CLASSES, **SIDES)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.3)
    return model


@functools.cache
def faster_rcnn():
    """On ResNet-18, with the background first of its columns; the last layers scaled."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    numbers = {"rpn_batch_size_per_image": 64, "box_batch_size_per_image": 32}
    proposals = {f"rpn_{which}_nms_top_n_{mode}": 200 for which in ("pre", "post") for mode in ("train", "test")}
    model = FasterRCNN(backbone, CLASSES + 1, **numbers, **proposals, **SIDES)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.3)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    return model


BATCHES = {
    "two images": ([[10, 10, 60, 90], [50, 40, 120, 110]], [[20, 5, 150, 100]]),
    "one image without boxes": ([], [[20, 5, 150, 100], [3, 3, 40, 40]]),
    "no boxes at all": ([], []),
}


def batch(*boxes_of_images):
    """Noise images of different sizes, each with boxes of labels 1, 2, ..."""
    random = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 128, 128 + 64 * i, generator=random) for i in range(len(boxes_of_images))]
    targets = [
        {"boxes": torch.tensor(boxes).reshape(-1, 4).float(), "labels": torch.arange(len(boxes)) + 1}
        for boxes in boxes_of_images
    ]
    return images, targets


def caught_samples(part):
    """A list that gets what the method of a part is called with."""
    seen = []
    part.method.register_forward_pre_hook(lambda method, inputs: seen.extend(inputs))
    return seen


def train_one_step(model, method, name):
    """Losses on a batch, and the names of the parameters that a step has changed; each must have a gradient."""
    learned = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    before = {key: parameter.detach().clone() for key, parameter in learned.items()}
    own = {id(parameter) for group in method.param_groups() for parameter in group["params"]}
    optimizers = [torch.optim.SGD([parameter for parameter in learned.values() if id(parameter) not in own], lr=1e-3)]
    if own:
        optimizers.append(torch.optim.Adam(method.param_groups()))
    losses = model(*batch(*BATCHES[name]))
    sum(losses.values()).backward()
    for key, parameter in learned.items():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    for optimizer in optimizers:
        optimizer.step()
    return losses, {key for key, parameter in learned.items() if not torch.equal(parameter, before[key])}


@torch.no_grad()
def detect(model):
    """Detections in two noise images."""
    return model.eval()(batch([], [])[0])
