"""Training by a Lightning Trainer, with a module like that of the design document."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from torch import Tensor, nn

from anynet_dist.bench.paced import Pace
from anynet_dist.bench.peers.setting import PeerSetting, pil_loader, same_network


class ListingModule(pl.LightningModule):
    """Cross-entropy, SGD with steps in the learning rate, the accuracy of each batch logged."""

    def __init__(self, setting: PeerSetting) -> None:
        super().__init__()
        self.setting = setting
        self.network = same_network(setting)
        self.loss_function = nn.CrossEntropyLoss()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, R, R) to logits (B, classes)."""
        outputs: Tensor = self.network(images)
        return outputs

    def training_step(self, batch: Any, number: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        outputs = self.network(images)
        loss: Tensor = self.loss_function(outputs, labels)
        hits = (outputs.argmax(dim=-1) == labels).float().mean()
        self.log("train_acc", hits, on_step=False, on_epoch=True)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """SGD over all parameters alike, and its schedule."""
        optim = self.setting.optim
        optimizer = torch.optim.SGD(
            self.parameters(), lr=self.setting.rate, momentum=optim.momentum, weight_decay=optim.weight_decay
        )
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [100, 150], 0.1)]


class _Paced(Callback):
    """Tells the pace after each step."""

    def __init__(self, pace: Pace, images: int) -> None:
        self.pace, self.images = pace, images

    def on_train_batch_end(self, *unused: Any) -> None:
        """A step is done."""
        self.pace.after_step(self.images)


def train(setting: PeerSetting, pace: Pace) -> None:
    """Let a Trainer with its default logger and progress bar fit."""
    trainer = pl.Trainer(
        default_root_dir=setting.folder,
        accelerator=setting.device.type if setting.device.type == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if setting.precision == "bf16" else "32-true",
        max_epochs=1_000_000,
        callbacks=[LearningRateMonitor("epoch"), _Paced(pace, setting.batch)],
    )
    trainer.fit(ListingModule(setting), pil_loader(setting))
