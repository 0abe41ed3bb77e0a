"""Training as torchvision's reference script for classification does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anynet_dist.bench.paced import Pace
from anynet_dist.bench.peers.setting import PeerSetting, autocast, pil_loader, same_network


def train(setting: PeerSetting, pace: Pace) -> None:
    """Forward, backward and update; loss, top-1 and top-5 are read after each step."""
    network = same_network(setting, "torchvision").train()
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=setting.rate,
        momentum=setting.optim.momentum,
        weight_decay=setting.optim.weight_decay,
    )
    sums = {"loss": 0.0, "top1": 0.0, "top5": 0.0}
    loader, device = pil_loader(setting), setting.device
    while True:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with autocast(setting):
                outputs = network(images)
                loss = loss_function(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            top1, top5 = _hits(outputs, labels)
            sums["loss"] += loss.item() * len(images)
            sums["top1"] += top1.item()
            sums["top5"] += top5.item()
            pace.after_step(len(images))


@torch.no_grad()
def _hits(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices == labels[:, None]
    return best[:, 0].sum(), best.any(dim=1).sum()
