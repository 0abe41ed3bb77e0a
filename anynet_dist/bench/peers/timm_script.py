"""Training with timm's parts, put together as its train script does."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from anynet_dist.bench.paced import Pace
from anynet_dist.bench.peers.setting import PeerSetting, PILImages, autocast, same_network

LOG_EVERY = 50
SCRIPT_COLOUR_JITTER = 0.4


def train(setting: PeerSetting, pace: Pace) -> None:
    """Forward, backward, update; its prefetching loader, its optimizer; the loss is read every 50 steps."""
    optim, utils = import_module("timm.optim"), import_module("timm.utils")

    network = same_network(setting, "timm").train()
    optimizer = optim.create_optimizer_v2(
        network,
        opt="sgd",
        lr=setting.rate,
        momentum=setting.optim.momentum,
        weight_decay=setting.optim.weight_decay,
    )
    loss_function, losses = nn.CrossEntropyLoss().to(setting.device), utils.AverageMeter()
    loader = _loader(setting)
    while True:
        for number, (images, labels) in enumerate(loader):
            if setting.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with autocast(setting):
                loss = loss_function(network(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if number % LOG_EVERY == 0:
                losses.update(loss.item(), len(images))
            pace.after_step(len(images))


def _loader(setting: PeerSetting) -> Any:
    style = setting.augment
    if setting.library_defaults:
        images: dict[str, Any] = {"color_jitter": SCRIPT_COLOUR_JITTER, "interpolation": "random"}
    else:
        images = {"hflip": 0.5 * style.flip, "color_jitter": None}
        crop = {"scale": style.crop_scale, "ratio": style.crop_aspect}
        images |= crop if style.random_resized_crop else {"no_aug": True}
    return import_module("timm.data").create_loader(
        PILImages(setting.data),
        input_size=(3, setting.resolution, setting.resolution),
        batch_size=setting.batch,
        is_training=True,
        mean=setting.normalisation.mean,
        std=setting.normalisation.std,
        num_workers=setting.workers,
        pin_memory=setting.device.type == "cuda",
        device=setting.device,
        **images,
    )
