"""The one training loop."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from logging.handlers import MemoryHandler

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from anynet_dist.config import Config, dump_config
from anynet_dist.config.durations import parse_interval
from anynet_dist.runs.folder import check_folder, clear_folder, folder_of
from anynet_dist.runs.metrics_log import Record, RunLog
from anynet_dist.runs.network_file import save_network, write_description
from anynet_dist.runs.plugin_files import choose_plugins, keep_plugins, read_plugins
from anynet_dist.runs.progress import Progress, read_progress
from anynet_dist.runs.status import RunState, ask_for_resume
from anynet_dist.runs.trackers import Outcome, check_trackers
from anynet_dist.system import distributed
from anynet_dist.system.environment import environment_report
from anynet_dist.system.errors import RunError, StoppedEarly
from anynet_dist.system.files import write_json, write_text
from anynet_dist.system.lock import Lock
from anynet_dist.system.logging import held_log, log_to_file
from anynet_dist.training import build
from anynet_dist.training.checkpointing import CheckpointError, TrainingState, load_weights, restore, save
from anynet_dist.training.console import ProgressBar, scores_line, train_line
from anynet_dist.training.evaluation import Mirrored, RunningScores, Scores, evaluate, one_class_warning
from anynet_dist.training.optim.batch_norm import average_batch_norm, recompute_batch_norm
from anynet_dist.training.optim.resolution import train_resolution
from anynet_dist.training.optim.schedules import set_learning_rate
from anynet_dist.training.resilience import faults
from anynet_dist.training.resilience.nonfinite import BadSteps, NotFiniteError, dump_batches, is_finite
from anynet_dist.training.resilience.stop_requests import Meetings, StopRequests, reason
from anynet_dist.training.setup import RunSetup
from anynet_dist.training.throughput import Throughput

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]


class Trainer:
    """Trains the network that a Config describes, on however many processes the launcher started.

    `Trainer(config).fit()` does a whole run. Raises UserError for whatever the user can put right;
    what can be checked without data or devices is checked before either is touched.
    """

    def __init__(self, config: Config) -> None:
        self.folder = folder_of(config)
        config = choose_plugins(config, self.folder)
        build.check_network(config)
        check_trackers(config)
        check_folder(self.folder, config)
        self.state: RunState | None = None
        self.resources = ExitStack()
        try:
            self._set_up(config)
        except StoppedEarly as stopped:  # while it waited for another rank
            if distributed.is_main():
                ask_for_resume(self.folder, {"reason": str(stopped)})
            self.resources.close()
            raise
        except BaseException:
            self.resources.close()
            raise

    def _set_up(self, config: Config) -> None:
        if distributed.is_main():
            lock = Lock(self.folder.lock, f"{self.folder.path} is in use")
            self.resources.callback(lock.release)
        self.stop_requests = StopRequests(config.run)
        self.resources.callback(self.stop_requests.close)
        self.stop_requests.call_before_end(self._note_forced_end)
        self.log_file = self.resources.enter_context(ExitStack())
        with held_log() as early_log:
            self.setup = setup = RunSetup(config, self.folder)
            self.resources.callback(setup.close)
            self.config, self.plan, self.accelerator = setup.config, setup.plan, setup.accelerator
            self.network, self.model, self.average = setup.network, setup.model, setup.average
            self.engine, self.optimizer, self.loaders = setup.engine, setup.optimizer, setup.loaders
            self._prepare_folder(early_log)
        self.peers = faults.meet_peers(self.accelerator.process_index)
        self.stop_requests.watch_peers(self.peers)
        self.bad_steps = BadSteps(self.accelerator.device, self.optimizer.optimizer)
        self._resume()

    def _prepare_folder(self, early_log: MemoryHandler) -> None:
        """Make the folder ready, on rank 0. An earlier run is removed only now that all else has worked."""
        setup = self.setup
        if self.accelerator.is_main_process:
            plugins = read_plugins(self.config)
            if setup.checkpoint is None:
                clear_folder(self.folder)
                setup.checkpoints.clear()
            self.folder.mark(saved=setup.checkpoint is not None)
            self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
            self.log_file.callback(log_to_file(self.folder.console, early_log))
            write_text(self.folder.config, dump_config(self.config))
            keep_plugins(plugins, self.folder)
            write_description(self.folder.description, setup.description)
            report = environment_report(self.accelerator.num_processes, str(self.accelerator.device))
            write_json(self.folder.environment, {**report, **setup.choices})
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        setup, on_main = self.setup, self.accelerator.is_main_process
        self.progress = Progress()
        self.scores = RunningScores(self.accelerator.device)
        if setup.checkpoint:
            self.progress = restore(setup.checkpoint, self.accelerator, self.network, self.average)
            self.scores.restore(self.progress.sums, self.accelerator)
            at = f"epoch {self.progress.epoch}, step {self.progress.step}"
            logger.info("resuming from %s: %s", setup.checkpoint, at)
            setup.tell_new_length(self.progress)
        elif self.config.run.resume == "auto":
            logger.info("no checkpoint to resume from in %s: starting afresh", self.folder.checkpoints)
        if on_main:
            setup.checkpoints.set_aside_after(self.progress.step)
            setup.checkpoints.refresh_links()
        self.state = RunState(self.folder, self.config, setup.total_steps, bool(setup.checkpoint), on_main)
        self.state.set("running", None, self.progress)
        self.meetings = Meetings(self.accelerator)
        self.stop = 0
        self.saved_at = time.monotonic()
        self.throughput = Throughput()
        self.log = RunLog(self.folder, self.config, self.progress, on_main)
        if self.progress.step == 0 and self.log.trackers:
            self.log.trackers.show_graph(self.network, dump_config(self.config), setup.description.resolution)

    @property
    def finished(self) -> bool:
        """Whether all optimizer steps are done and the network they led to has been evaluated and saved."""
        return self.finishing and self.progress.ended

    @property
    def finishing(self) -> bool:
        """Whether all optimizer steps are done, or no more are wanted."""
        return self.progress.step >= self.setup.total_steps or self._stops_early

    @property
    def _stops_early(self) -> bool:
        patience = self.config.train.early_stopping
        return bool(patience) and self.progress.evaluations_since_best >= (patience or 0)

    @property
    def _epoch_ends(self) -> bool:
        return self.finishing or self.progress.step_in_epoch == self.setup.steps_per_epoch

    def fit(self) -> Record:
        """Train to the end, then test and write model.safetensors. Returns the final record.

        Raises StoppedEarly when the run was asked to stop: its state is saved and waits to be resumed.
        Raises RunError when it could not go on: numbers that are not finite, memory or disk that ran out,
        another rank that is gone.
        """
        result: Record | None = None
        outcome: Outcome = "failed"
        why: str | None = None
        self.stop_requests.training_starts()
        try:
            result = self._train()
            outcome, why = ("finished", None) if result is not None else ("stopped", reason(self.stop))
        except BaseException as error:
            explained = self._explain(error)
            why = str(explained or error) or type(error).__name__
            if explained:
                raise explained from error
            raise
        finally:
            self.close(outcome, why)
        self.accelerator.end_training()
        if result is None:
            raise StoppedEarly(
                f"stopped at step {self.progress.step} of {self.setup.total_steps} ({why}): the same command"
                f" with --run.resume auto goes on"
            )
        return result

    def _train(self) -> Record | None:
        """Train and finish, or return None when the run was asked to stop."""
        with ProgressBar(self.setup.total_steps, self.progress.step) as bar:
            while not self.finished and not self.stop:
                self._train_epoch(bar)
                if not self.stop:
                    self._end_epoch()
        return None if self.stop else self._finish()

    def _explain(self, error: BaseException) -> RunError | None:
        resolution = train_resolution(self.config.data, self.progress.epoch)
        device = self.accelerator.device
        return faults.lost_rank(error, self.peers) or faults.out_of_memory(
            error, self.plan, resolution, self.setup.precision, device
        )

    def _note_forced_end(self, number: int, why: str) -> None:
        """Before the process is ended because it cannot stop in order: a scheduler may start it again."""
        if distributed.is_main():
            if self.state:
                self.state.set("failed", why, self.progress)
            if number != signal.SIGINT:
                ask_for_resume(self.folder, {"reason": why})

    def close(self, outcome: Outcome = "failed", why: str | None = None) -> None:
        """Say how the run ended; end the loaders' threads and processes, and the log; free the run folder."""
        if self.state:
            self.state.set(outcome, why, self.progress)
        self.log.close(outcome)
        self.resources.close()

    def _train_epoch(self, bar: ProgressBar) -> None:
        """Train to the end of the epoch, from wherever in it the run stands, or until asked to stop."""
        progress, loader = self.progress, self.loaders["train"]
        if self._epoch_ends:  # it was stopped between its last step and its evaluation
            return
        loader.set_resolution(train_resolution(self.config.data, progress.epoch))
        loader.set_epoch(progress.epoch, progress.step_in_epoch * self.plan.accumulation)
        self.model.train()
        for part in self.setup.frozen:
            part.eval()
        self.throughput.resume()
        for images, labels in self.throughput.timed(loader):
            self._train_batch(images, labels)
            if not self.accelerator.sync_gradients:
                continue
            self._count_step()
            bar.advance()
            log_now = progress.step % self.config.train.log_every == 0 or self._epoch_ends
            save_now = self._agree(log_now)
            if log_now:
                self._log_training()
            if save_now:
                self._save()
            if self.stop or self._epoch_ends:
                break

    def _agree(self, log_now: bool) -> bool:
        """After a step, and about once a second: agree with the other ranks whether to stop, and whether all
        is well. Returns whether to save now."""
        progress, every = self.progress, parse_interval(self.config.checkpoint.every)
        save_now = every.unit == "steps" and progress.step % every.amount == 0
        if self.meetings.due() or log_now or save_now:
            minutes = (time.monotonic() - self.saved_at) / 60
            save_due = every.unit == "minutes" and minutes >= every.amount
            counts = self.bad_steps.read()
            stop, agreed_save, *bad = self.meetings.meet(self.stop_requests.pending(), save_due, *counts)
            self._check_numbers(*map(int, bad))
            self.stop = int(stop)
            save_now = save_now or bool(agreed_save)
            if self.state:
                self.state.update(progress)
        if self.stop:
            logger.info("%s: saving and stopping", reason(self.stop))
        return bool(self.stop) or (save_now and not self._epoch_ends)

    def _check_numbers(self, longest: int, new: int, age: int) -> None:
        """Raise NotFiniteError, on all ranks, after too many bad steps or one that damaged the network."""
        progress, allowed = self.progress, self.config.train.max_bad_steps
        if not new:
            return
        progress.bad_steps += new
        back = min(max(longest, age), progress.step_in_epoch)
        first = progress.step - back + 1
        self.engine.collect()
        damaged = self.meetings.meet(not all(is_finite(network) for network in self._networks.values()))[0]
        if longest <= allowed and not damaged:
            logger.warning("%d steps from step %d on were not finite and are left out", new, first)
            return
        self._dump_bad_batch(back)
        rows = "a step was" if longest == 1 else f"{longest} steps in a row were"
        what = rows if longest > allowed else "weights or batch-norm statistics were"
        raise NotFiniteError(
            f"{what} not finite, from step {first} (epoch {progress.epoch + 1}) on: lower optim.lr,"
            " lengthen schedule.warmup_epochs or set train.clip_grad_norm. The images of that step are in"
            f" {self.folder.bad_batch}; the checkpoints are from before it"
        )

    def _dump_bad_batch(self, back: int) -> None:
        """Write this rank's part of the first bad step, `back` - 1 steps before this one, for looking at."""
        accumulation, loader = self.plan.accumulation, self.loaders["train"]
        loader.set_epoch(self.progress.epoch, (self.progress.step_in_epoch - back) * accumulation)
        file = self.folder.bad_batch / f"rank_{self.accelerator.process_index}.safetensors"
        file.parent.mkdir(exist_ok=True)
        dump_batches(file, self.network, islice(loader, accumulation))

    def _save(self) -> None:
        progress = self.progress
        progress.sums = self.scores.total(self.accelerator)
        self.log.note(progress)
        self.engine.collect()
        state = TrainingState(
            accelerator=self.accelerator,
            network=self.network,
            average=self.average,
            progress=progress,
            circumstances=self.setup.circumstances,
            config=self.config,
        )
        try:
            save(state, self.setup.checkpoints, self.log)
        except CheckpointError as error:
            if self.config.checkpoint.on_error == "stop" or self.stop:
                raise
            logger.warning("%s; the run goes on (checkpoint.on_error)", error)
        else:
            if self.accelerator.is_main_process and not self.folder.saved_before():
                self.folder.mark(saved=True)
        self.saved_at = time.monotonic()

    def _train_batch(self, images: Tensor, labels: Tensor) -> None:
        """Forward and backward; with the last micro-batch of a global batch, one optimizer step."""
        accelerator = self.accelerator
        inputs, targets = self.setup.mixing(images, labels, self._batch_number())
        with accelerator.accumulate(self.model):
            logits = self.model(inputs).float()
            loss = self.setup.criterion(logits, targets)
            if accelerator.sync_gradients:
                self.lr = self.setup.peak_lr * self.setup.schedule(self.progress.updates)
                set_learning_rate(self.optimizer, self.lr)
            # With DeepSpeed this is the optimizer's step too.
            accelerator.backward(loss * self._loss_weight(len(labels)))
            self.bad_steps.watch_loss(loss)
            if accelerator.sync_gradients:
                self._clip_gradients()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.scores.update_if_finite(logits, labels, loss * len(labels))
        self.stop_requests.beat()

    def _clip_gradients(self) -> None:
        limit = self.config.train.clip_grad_norm
        if limit or self.bad_steps.skips:
            norm = self.engine.clip_gradients(limit)
        if self.bad_steps.skips:
            self.bad_steps.watch_gradients(norm)

    def _loss_weight(self, count: int) -> float:
        """The weight of a micro-batch of `count` images: 1 but for the last, smaller step of an epoch."""
        done = self.progress.step_in_epoch * self.plan.global_batch
        return self.plan.loss_weight(count, len(self.setup.splits["train"]) - done)

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
        self.bad_steps.count_step()
        if self.accelerator.optimizer_step_was_skipped:
            progress.skipped += 1
        elif self.average and progress.step % self.average.every == 0:
            self.engine.collect()
            self.average.update(self.network)
            progress.average_updates = self.average.updates

    def _log_training(self) -> None:
        """Write what happened since the last training record; only here do host, device and ranks meet."""
        progress = self.progress
        scores = self.scores.reduce(self.accelerator)
        seconds_per_step, data_wait = self.throughput.read()
        record = {
            "step": progress.step,
            "epoch": progress.epoch + 1,
            "train/loss": scores.loss if scores.count else None,
            "train/top1": scores.top1 if scores.count else None,
            "lr": self.lr,
            "images_per_second": self.plan.global_batch / seconds_per_step,
            "data_wait": data_wait,
            "eta_seconds": (self.setup.total_steps - progress.step) * seconds_per_step,
            "skipped_steps": progress.skipped,
            "bad_steps": progress.bad_steps,
        }
        self.log.write(record)
        logger.info(train_line(record, self.config.train.epochs, self.setup.total_steps))
        self._warn_of_a_high_loss(scores)

    def _warn_of_a_high_loss(self, scores: Scores) -> None:
        """Once, with the first record: a loss far above that of guessing shows that steps are too large."""
        guessing = math.log(max(2, self.config.model.num_classes or 0))
        if self.log.records == 1 and scores.count and scores.loss > 2 * guessing + 1:
            logger.warning(
                "the training loss is %.3g, far above the %.3g of guessing: lower optim.lr (%.3g) or lengthen"
                " schedule.warmup_epochs (%.3g)",
                scores.loss,
                guessing,
                self.setup.peak_lr,
                self.config.schedule.warmup_epochs or 0.0,
            )

    def _end_epoch(self) -> None:
        """Evaluate and save, as often as the config says and always at the end."""
        config, progress = self.config, self.progress
        if progress.step_in_epoch == self.setup.steps_per_epoch:
            progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
        self.engine.collect()
        self._settle_batch_norm()
        is_best = False
        if "val" in self.setup.splits and (self.finishing or progress.epoch % config.eval.every == 0):
            record = self._evaluate("val", progress.epoch + bool(progress.step_in_epoch))
            progress.score = record["val/ema_top1" if self.average else "val/top1"]
            is_best = progress.best is None or progress.score > progress.best
            progress.evaluations_since_best = 0 if is_best else progress.evaluations_since_best + 1
            if is_best:
                progress.best, progress.best_epoch = progress.score, record["epoch"]
            if self._stops_early:
                logger.info(
                    "stopping early: %d evaluations without a better validation top-1 (train.early_stopping)",
                    progress.evaluations_since_best,
                )
        progress.ended = True
        if self.finishing or is_best or self._save_is_due():
            self._save()

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
            batches = self._watched(self.loaders[split])
            scores = evaluate(network, batches, self.accelerator, self.config.model.num_classes or 0)
            record |= scores.record(f"{split}/{prefix}")
            warning = one_class_warning(scores, self.setup.description.classes)
            if warning and self.finishing:
                logger.warning("%s: %s", split, warning)
        self.log.write(record)
        logger.info(scores_line(record, split))
        return record

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches outside of the training loop, which show that the run moves."""
        for batch in batches:
            yield batch
            self.stop_requests.beat()

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
                    recompute_batch_norm(network, self._watched(loader), samples)
            else:
                average_batch_norm(network)

    def _finish(self) -> Record:
        """Take the best network where validation chose one, test it, and write it to the run folder."""
        progress = self.progress
        (best,) = broadcast_object_list(
            [self.setup.checkpoints.best() if "val" in self.setup.splits else None]
        )
        if best:
            load_weights(best, self.network, self.average)
            progress = read_progress(best)
        epoch = progress.epoch + bool(progress.step_in_epoch)
        if best and progress.score is not None:
            logger.info("best validation top-1 %.2f%%, after epoch %d", 100 * progress.score, epoch)
        result = self._evaluate("test", epoch) if "test" in self.setup.splits else {}
        self._write_weights(epoch, result)
        return {"run": str(self.folder.path), **result, "epoch": epoch}

    def _write_weights(self, epoch: int, result: Record) -> None:
        network = self.average.module if self.average else self.network
        facts = {"epoch": epoch, "weights": "ema" if self.average else "raw"}
        if self.accelerator.is_main_process:
            save_network(self.folder.weights, network, self.setup.description, **{**result, **facts})
            logger.info("trained network (%s weights): %s", facts["weights"], self.folder.weights)
        self.accelerator.wait_for_everyone()
