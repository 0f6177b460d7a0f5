"""Hard examples in torchvision's own Faster R-CNN: focal loss for RPN, OHEM chooses the proposals of the RoI heads."""

import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import imbdet

model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21, min_size=128)
focal = {"alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "batch", "box_beta": 0.11}
ohem = {"variant": "paper", "per_image": 64, "nms_iou": 0.7, "activation": "softmax", "prior_prob": None}
rpn = imbdet.build_method({"name": "focal"} | focal)
roi = imbdet.build_method({"name": "ohem", "normalizer": "sampled", "box_beta": 1.0} | ohem)
imbdet.attach(model, rpn=rpn, roi=roi)

optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
images = [torch.rand(3, 128, 128)]
targets = [{"boxes": torch.tensor([[16.0, 16.0, 80.0, 96.0]]), "labels": torch.tensor([3])}]
losses = model.train()(images, targets)
sum(losses.values()).backward()
optimizer.step()
print({name: round(loss.item(), 3) for name, loss in losses.items()})
