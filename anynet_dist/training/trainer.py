"""The one training loop."""

from __future__ import annotations

import logging
import math
import time
from logging.handlers import MemoryHandler

from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor, nn

from anynet_dist import __version__
from anynet_dist.config import Config, dump_config
from anynet_dist.config.durations import parse_interval
from anynet_dist.data.loaders import Loader
from anynet_dist.data.mixing import Mixing
from anynet_dist.models.anynet import build_anynet
from anynet_dist.system import distributed
from anynet_dist.system.environment import environment_report
from anynet_dist.system.errors import StoppedEarly, UserError
from anynet_dist.system.files import write_json, write_text
from anynet_dist.system.lock import Lock
from anynet_dist.system.logging import held_log, log_to_file
from anynet_dist.training import build, devices
from anynet_dist.training.batch_norm import average_batch_norm, recompute_batch_norm
from anynet_dist.training.batches import plan_batches
from anynet_dist.training.checkpoints import Checkpoints, find_checkpoint
from anynet_dist.training.console import ProgressBar, scores_line, train_line
from anynet_dist.training.ema import WeightAverage
from anynet_dist.training.evaluation import Mirrored, RunningScores, evaluate
from anynet_dist.training.finetune import freeze, load_pretrained
from anynet_dist.training.optimizers import build_optimizer
from anynet_dist.training.preemption import Meetings, StopRequests, reason
from anynet_dist.training.progress import (
    Circumstances,
    Progress,
    data_digest,
    read_circumstances,
    read_progress,
)
from anynet_dist.training.resolution import train_resolution
from anynet_dist.training.run_folder import check_folder, clear_folder, folder_of
from anynet_dist.training.run_state import RunState
from anynet_dist.training.saving import (
    CheckpointError,
    TrainingState,
    load_weights,
    own_model_files,
    restore,
    save,
)
from anynet_dist.training.schedules import build_schedule, set_learning_rate
from anynet_dist.training.throughput import Throughput
from anynet_dist.training.tracking import Record, RunLog, check_trackers, log_graph
from anynet_dist.training.weights import save_network, write_description

logger = logging.getLogger(__name__)


class Trainer:
    """Trains the network that a Config describes, on however many processes the launcher started.

    `Trainer(config).fit()` does a whole run. Raises UserError for whatever the user can put right;
    what can be checked without data or devices is checked before either is touched.
    """

    def __init__(self, config: Config) -> None:
        build.check_network(config)
        check_trackers(config)
        self.folder = folder_of(config)
        check_folder(self.folder, config)
        self.stop_requests = StopRequests(config.run)
        self.loaders: dict[str, Loader] = {}
        self.lock = Lock(self.folder.lock, f"{self.folder.path} is in use") if distributed.is_main() else None
        try:
            with held_log() as early_log:
                self._set_up(config, early_log)
        except BaseException:
            self._release()
            raise

    def _set_up(self, config: Config, early_log: MemoryHandler) -> None:
        self.splits = build.open_splits(config)
        self.config = build.resolve(config, self.splits["train"].info)
        self.description = build.describe_network(self.config, self.splits)
        self.checkpoints = Checkpoints(self.folder.checkpoints, config.checkpoint)
        self.checkpoint = find_checkpoint(config.run.resume, self.checkpoints)
        self._start_accelerator()
        self._build_network()
        self._build_loaders()
        self._prepare_folder(early_log)
        self._resume()

    def _start_accelerator(self) -> None:
        config = self.config
        precision, why = devices.choose_precision(config)
        self.plan = plan_batches(config.train.global_batch, distributed.world_size(), self._device_batch())
        self.accelerator = devices.build_accelerator(config, precision, self.plan.accumulation)
        self.precision = precision
        set_seed(config.run.seed)
        logger.info("anynet %s, %s", __version__, devices.describe_devices(self.accelerator))
        logger.info("precision %s: %s", precision, why)
        logger.info("batch: %s", self.plan)

    def _device_batch(self) -> int | None:
        """The largest batch on one device. A resumed run keeps its own, which batch norm depends on."""
        limit = self.config.train.max_device_batch
        if limit or self.checkpoint is None:
            return limit
        return read_circumstances(self.checkpoint).device_batch

    def _build_network(self) -> None:
        config, accelerator = self.config, self.accelerator
        self.network = build_anynet(**self.description.model)
        if config.model.pretrained:
            load_pretrained(self.network, config.model.pretrained)
        self.frozen = freeze(self.network, config.model.freeze)
        resolution = config.data.train_res or 0
        shape = (self.plan.device_batch, 3, resolution, resolution)
        asked: str = config.train.memory_format
        if asked == "auto" and self.checkpoint:
            asked = read_circumstances(self.checkpoint).memory_format
        self.memory_format, why = devices.choose_memory_format(asked, self.network, accelerator, shape)
        self.network.to(accelerator.device).to(memory_format=self.memory_format)
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        logger.info("network: %s parameters, run folder %s", f"{parameters:,}", self.folder.path)
        logger.info("memory format %s: %s", str(self.memory_format).removeprefix("torch."), why)
        ema = config.ema
        self.average = WeightAverage(self.network, ema.decay, ema.every, ema.warmup) if ema.decay else None
        augment = config.data.augment
        self.mixing = Mixing(config.model.num_classes or 0, augment.mixup, augment.cutmix, config.run.seed)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=config.train.label_smoothing)
        # A scaler cannot see that the fused step was skipped, and the learning rate would run ahead.
        optimizer = build_optimizer(self.network, config.optim, fused=accelerator.scaler is None)
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        own_model_files(accelerator, self.network)

    def _build_loaders(self) -> None:
        config = self.config
        for name, split in self.splits.items():
            if name != "train":
                self.loaders[name] = build.build_eval_loader(
                    config, split, self.accelerator, self.memory_format
                )
        self.loaders["train"] = build.build_train_loader(
            config, self.splits["train"], self.plan, self.accelerator, self.memory_format
        )
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        logger.info("data: %s images in %d classes", sizes, len(self.description.classes))
        self.steps_per_epoch = len(self.loaders["train"]) // self.plan.accumulation
        self.total_steps = config.train.epochs * self.steps_per_epoch
        if config.train.max_steps:
            self.total_steps = min(self.total_steps, config.train.max_steps)
        self.schedule = build_schedule(config.schedule, self.steps_per_epoch, self.total_steps)

    def _prepare_folder(self, early_log: MemoryHandler) -> None:
        """Make the folder ready, on rank 0. An earlier run is removed only now that all else has worked."""
        if self.accelerator.is_main_process:
            if self.checkpoint is None:
                clear_folder(self.folder)
            self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
            log_to_file(self.folder.console, early_log)
            write_text(self.folder.config, dump_config(self.config))
            write_description(self.folder.description, self.description)
            report = environment_report(self.accelerator.num_processes, str(self.accelerator.device))
            write_json(self.folder.environment, {**report, "precision": self.precision})
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        self.progress = Progress()
        self.scores = RunningScores(self.accelerator.device)
        if self.checkpoint:
            self.progress = restore(self.checkpoint, self.accelerator, self.network, self.average)
            self.scores.restore(self.progress.sums, self.accelerator)
            logger.info(
                "resuming from %s: epoch %d, step %d",
                self.checkpoint,
                self.progress.epoch,
                self.progress.step,
            )
        elif self.config.run.resume == "auto":
            logger.info("no checkpoint to resume from in %s: starting afresh", self.checkpoints.folder)
        if self.accelerator.is_main_process:
            self.checkpoints.set_aside_after(self.progress.step)
        self.state = self._run_state()
        self.meetings = Meetings(self.accelerator)
        self.stop = 0
        self.saved_at = time.monotonic()
        self.throughput = Throughput()
        self.log = RunLog(self.folder, self.accelerator, self.config, self.progress.step)
        if self.progress.step == 0:
            log_graph(self.accelerator, self.network, dump_config(self.config), self.description.resolution)

    def _run_state(self) -> RunState | None:
        if not self.accelerator.is_main_process:
            return None
        state = RunState(self.folder, self.config.train.epochs, self.total_steps, bool(self.checkpoint))
        state.set("running", None, self.progress)
        return state

    @property
    def finished(self) -> bool:
        """Whether all optimizer steps are done and the network they led to has been evaluated and saved."""
        return self.progress.step >= self.total_steps and self.progress.ended

    @property
    def _epoch_ends(self) -> bool:
        progress = self.progress
        return progress.step >= self.total_steps or progress.step_in_epoch == self.steps_per_epoch

    def fit(self) -> Record:
        """Train to the end, then test and write model.safetensors. Returns the final record.

        Raises StoppedEarly when the run was asked to stop: its state is saved and waits to be resumed.
        """
        state: str = "failed"
        why: str | None = None
        try:
            with ProgressBar(self.total_steps, self.progress.step) as bar:
                while not self.finished and not self.stop:
                    self._train_epoch(bar)
                    if not self.stop:
                        self._end_epoch()
            if self.stop:
                state, why, result = "stopped", reason(self.stop), None
            else:
                result = self._finish()
                state = "finished"
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
            raise
        finally:
            if self.state:
                self.state.set(state, why, self.progress)
            self.close()
        self.accelerator.end_training()
        if result is None:
            raise StoppedEarly(
                f"stopped at step {self.progress.step} of {self.total_steps} ({why}): the same command"
                f" with --run.resume auto goes on"
            )
        return result

    def close(self) -> None:
        """End the loaders' threads and processes, and the log; free the run folder."""
        self.log.close()
        self._release()

    def _release(self) -> None:
        for loader in self.loaders.values():
            loader.close()
        self.stop_requests.close()
        if self.lock:
            self.lock.release()

    def _train_epoch(self, bar: ProgressBar) -> None:
        """Train to the end of the epoch, from wherever in it the run stands, or until asked to stop."""
        progress, loader = self.progress, self.loaders["train"]
        if self._epoch_ends:  # it was stopped between its last step and its evaluation
            return
        loader.set_resolution(train_resolution(self.config.data, progress.epoch))
        loader.set_epoch(progress.epoch, progress.step_in_epoch * self.plan.accumulation)
        self.model.train()
        for part in self.frozen:
            part.eval()
        self.throughput.resume()
        for images, labels in self.throughput.timed(loader):
            self._train_batch(images, labels)
            if not self.accelerator.sync_gradients:
                continue
            self._count_step()
            bar.advance()
            if progress.step % self.config.train.log_every == 0 or self._epoch_ends:
                self._log_training()
            self._check_in()
            if self.stop or self._epoch_ends:
                break

    def _check_in(self) -> None:
        """After a step: save where it is time to; about once a second agree with the other ranks to stop."""
        progress, every = self.progress, parse_interval(self.config.checkpoint.every)
        save_now = every.unit == "steps" and progress.step % every.amount == 0
        if self.meetings.due() or self._epoch_ends:
            minutes = (time.monotonic() - self.saved_at) / 60
            save_due = every.unit == "minutes" and minutes >= every.amount
            stop, agreed_save = self.meetings.meet(self.stop_requests.pending(), float(save_due))
            self.stop = int(stop)
            save_now = save_now or bool(agreed_save)
            if self.state:
                self.state.update(progress)
        if self.stop:
            logger.info("%s: saving and stopping", reason(self.stop))
        if self.stop or (save_now and not self._epoch_ends):
            self._save()

    def _save(self) -> None:
        progress = self.progress
        progress.sums = self.scores.total(self.accelerator)
        circumstances = Circumstances(
            world_size=self.plan.world_size,
            device_batch=self.plan.device_batch,
            precision=self.precision,
            memory_format=str(self.memory_format).removeprefix("torch.").removesuffix("_format"),
            data={name: data_digest(split.info) for name, split in self.splits.items()},
        )
        state = TrainingState(
            accelerator=self.accelerator,
            network=self.network,
            average=self.average,
            progress=progress,
            circumstances=circumstances,
            config=self.config,
        )
        try:
            save(state, self.checkpoints)
        except CheckpointError as error:
            if self.config.checkpoint.on_error == "stop" or self.stop:
                raise
            logger.warning("%s; the run goes on (checkpoint.on_error)", error)
        self.saved_at = time.monotonic()

    def _train_batch(self, images: Tensor, labels: Tensor) -> None:
        """Forward and backward; with the last micro-batch of a global batch, one optimizer step."""
        accelerator, config = self.accelerator, self.config
        inputs, targets = self.mixing(images, labels, self._batch_number())
        with accelerator.accumulate(self.model):
            logits = self.model(inputs)
            loss = self.criterion(logits, targets)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                if config.train.clip_grad_norm:
                    accelerator.clip_grad_norm_(self.model.parameters(), config.train.clip_grad_norm)
                self.lr = config.optim.lr * self.schedule(self.progress.updates)
                set_learning_rate(self.optimizer, self.lr)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.scores.update(logits, labels, loss * len(labels))

    def _batch_number(self) -> int:
        """The number of the current micro-batch among those of all ranks, from 0."""
        plan = self.plan
        micro_batch = self.progress.step * plan.accumulation + self.accelerator.step % plan.accumulation
        return micro_batch * plan.world_size + self.accelerator.process_index

    def _count_step(self) -> None:
        progress = self.progress
        progress.step += 1
        progress.step_in_epoch += 1
        progress.ended, progress.score = False, None
        self.throughput.steps += 1
        if self.accelerator.optimizer_step_was_skipped:
            progress.skipped += 1
        elif self.average and progress.step % self.average.every == 0:
            self.average.update(self.network)
            progress.average_updates = self.average.updates

    def _log_training(self) -> None:
        """Write what happened since the last training record; only here do host, device and ranks meet."""
        progress = self.progress
        scores = self.scores.reduce(self.accelerator)
        seconds_per_step, data_wait = self.throughput.read()
        if not math.isfinite(scores.loss):
            raise UserError(
                f"the loss is {scores.loss} at step {progress.step} (epoch {progress.epoch + 1}):"
                " lower optim.lr, lengthen schedule.warmup_epochs or set train.clip_grad_norm;"
                " the last checkpoint is good"
            )
        record = {
            "step": progress.step,
            "epoch": progress.epoch + 1,
            "train/loss": scores.loss,
            "train/top1": scores.top1,
            "lr": self.lr,
            "images_per_second": self.plan.global_batch / seconds_per_step,
            "data_wait": data_wait,
            "eta_seconds": (self.total_steps - progress.step) * seconds_per_step,
            "skipped_steps": progress.skipped,
        }
        self.log.write(record)
        logger.info(train_line(record, self.config.train.epochs, self.total_steps))

    def _end_epoch(self) -> None:
        """Evaluate and save, as often as the config says and always at the end."""
        config, progress = self.config, self.progress
        if progress.step_in_epoch == self.steps_per_epoch:
            progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
        self._settle_batch_norm()
        is_best = False
        if "val" in self.splits and (self.finishing or progress.epoch % config.eval.every == 0):
            record = self._evaluate("val", progress.epoch + bool(progress.step_in_epoch))
            progress.score = record["val/ema_top1" if self.average else "val/top1"]
            is_best = progress.best is None or progress.score > progress.best
            if is_best:
                progress.best, progress.best_epoch = progress.score, record["epoch"]
        progress.ended = True
        if self.finishing or is_best or self._save_is_due():
            self._save()

    @property
    def finishing(self) -> bool:
        """Whether all optimizer steps are done."""
        return self.progress.step >= self.total_steps

    def _save_is_due(self) -> bool:
        """Whether the end of this epoch is a time to save, by the number of epochs or of steps."""
        every = parse_interval(self.config.checkpoint.every)
        counted = {"epochs": self.progress.epoch, "steps": self.progress.step}
        return every.unit in counted and counted[every.unit] % every.amount == 0

    def _evaluate(self, split: str, epoch: int) -> Record:
        """Scores of the network, and of its moving average, as of `epoch` on a split; written to the log."""
        record: Record = {"step": self.progress.step, "epoch": epoch}
        networks: dict[str, nn.Module] = self._networks
        if self.config.eval.flip:
            networks = networks | {
                f"{prefix}flip_": Mirrored(network) for prefix, network in networks.items()
            }
        for prefix, network in networks.items():
            scores = evaluate(network, self.loaders[split], self.accelerator)
            record |= scores.record(f"{split}/{prefix}")
        self.log.write(record)
        logger.info(scores_line(record, split))
        return record

    @property
    def _networks(self) -> dict[str, nn.Module]:
        """The network and its moving average, by the prefix of their scores' names."""
        return {"": self.network} | ({"ema_": self.average.module} if self.average else {})

    def _settle_batch_norm(self) -> None:
        """Give all ranks the same batch-norm statistics before they evaluate and save."""
        samples, loader = self.config.eval.precise_bn, self.loaders["train"]
        for network in self._networks.values():
            if samples:
                loader.set_epoch(0)
                with self.accelerator.autocast():
                    recompute_batch_norm(network, loader, samples)
            else:
                average_batch_norm(network)

    def _finish(self) -> Record:
        """Take the best network where validation chose one, test it, and write it to the run folder."""
        progress = self.progress
        (best,) = broadcast_object_list([self.checkpoints.best() if "val" in self.splits else None])
        if best:
            load_weights(best, self.network, self.average)
            progress = read_progress(best)
        epoch = progress.epoch + bool(progress.step_in_epoch)
        if best and progress.score is not None:
            logger.info("best validation top-1 %.2f%%, after epoch %d", 100 * progress.score, epoch)
        result = self._evaluate("test", epoch) if "test" in self.splits else {}
        self._write_weights(epoch, result)
        return {"run": str(self.folder.path), **result, "epoch": epoch}

    def _write_weights(self, epoch: int, result: Record) -> None:
        network = self.average.module if self.average else self.network
        facts = {"epoch": epoch, "weights": "ema" if self.average else "raw"}
        if self.accelerator.is_main_process:
            save_network(self.folder.weights, network, self.description, **{**result, **facts})
            logger.info("trained network (%s weights): %s", facts["weights"], self.folder.weights)
        self.accelerator.wait_for_everyone()
