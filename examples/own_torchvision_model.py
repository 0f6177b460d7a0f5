"""FL* in torchvision's own RetinaNet, in ten lines. Any RetinaNet and any method of this library go together so."""

import torch
from torchvision.models.detection import retinanet_resnet50_fpn

import imbdet

model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21, min_size=128)
parameters = {"alpha": 0.25, "gamma": 2.0, "beta": 1.0, "prior_prob": 0.01, "normalizer": "batch", "box_beta": 0.0}
imbdet.attach(model, imbdet.build_method({"name": "focal_star"} | parameters))

optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
images = [torch.rand(3, 128, 128)]
targets = [{"boxes": torch.tensor([[16.0, 16.0, 80.0, 96.0]]), "labels": torch.tensor([3])}]
losses = model.train()(images, targets)
sum(losses.values()).backward()
optimizer.step()
print({name: round(loss.item(), 3) for name, loss in losses.items()})
