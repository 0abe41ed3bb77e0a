"""The one training loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from anynet_dist.runs.metrics_log import Record
from anynet_dist.training.console import RunLines, training_bar
from anynet_dist.training.evaluation import Batch
from anynet_dist.training.finish import Stopped, load_best, write_network
from anynet_dist.training.hooks import call_evaluation_hooks, call_hooks, has_evaluation_hooks
from anynet_dist.training.optim.resolution import train_resolution
from anynet_dist.training.optim.schedules import set_learning_rate
from anynet_dist.training.pictures import leave_report
from anynet_dist.training.resilience.stop_requests import reason
from anynet_dist.training.run import Run
from anynet_dist.training.step_record import warn_of_high_loss

logger = logging.getLogger(__name__)


class Trainer(Run):
    """Trains the network that a Config describes, on however many processes the launcher started.

    `Trainer(config).fit()` does a whole run; see Run for its parts and what is raised.
    """

    def fit(self) -> Record:
        """Train to the end, then test and write model.safetensors. Returns the final record.

        Raises StoppedEarly when the run was asked to stop: its state is saved and can be resumed. Raises
        RunError when it could not continue: numbers that are not finite, memory or disk that ran out, another
        rank that is gone.
        """
        self.lines = RunLines(self.task, self.config.train.epochs, self.plan.total_steps)
        with self.recording_the_end(), training_bar(self.plan.total_steps, self.progress.step) as self.bar:
            while not (self.all_steps_done and self.progress.evaluated):
                self.train_epoch()
                self.end_epoch()
            return self.finish()

    def train_epoch(self) -> None:
        """Train to the end of the epoch, from wherever in it the run stands."""
        if self.at_epoch_end:  # the run was stopped between its last step and its evaluation
            return
        progress, loader = self.progress, self.loaders["train"]
        loader.set_resolution(train_resolution(self.config.data, progress.epoch))
        loader.set_epoch(progress.epoch, progress.step_in_epoch * self.plan.batches.accumulation)
        self.model.train()
        for part in self.frozen:
            part.eval()
        self.meter.throughput.resume()
        batches = self.meter.throughput.timed(loader)
        while not self.at_epoch_end:
            self.step(batches)
            self.after_step()

    def step(self, batches: Iterator[Batch]) -> None:
        """One optimizer step: the micro-batches of a global batch forward and backward, then the update."""
        accelerator, progress, plan, task = self.accelerator, self.progress, self.plan, self.task
        for number in range(plan.batches.accumulation):
            images, labels = next(batches)
            inputs, targets = task.batch(images, labels)
            place = plan.micro_batch_number(progress.step, number, accelerator.process_index)
            mixed, mixed_targets = task.mix(inputs, targets, place)
            self.batch_picture.see(mixed, mixed_targets, task)
            with accelerator.accumulate(self.model):
                outputs = self.model(mixed).float()
                loss = task.loss(outputs, mixed_targets)
                if accelerator.sync_gradients:
                    self.lr = plan.learning_rate(progress.updates)
                    set_learning_rate(self.optimizer, self.lr)
                # With DeepSpeed this is the optimizer's step too.
                accelerator.backward(loss * plan.loss_weight(len(labels), progress.step_in_epoch))
                self.bad_steps.watch_loss(loss)
                if accelerator.sync_gradients:
                    self._clip_gradients()
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.scores.update_if_finite(outputs, targets, loss * len(labels))
            self.stop_requests.beat()
        self._count_step()

    def after_step(self) -> None:
        """Call hooks, log, save and stop, where it is time to."""
        call_hooks(self.hooks, self, self.progress.step)
        log_now = self.progress.step % self.config.train.log_every == 0 or self.at_epoch_end
        agreed = self.agreement.after_step(self.progress, log_now, self.saver.stage())
        if agreed.stop:
            logger.info("%s: saving and stopping", reason(agreed.stop))
        if agreed.synchronised and self.status:
            self.status.update(self.progress)
        if log_now:
            self._log_step()
        if agreed.synchronised and not agreed.stop:
            self.saver.settle(agreed.saving)
        if agreed.stop or (agreed.save and not self.at_epoch_end):
            self.save(required=bool(agreed.stop))
        if agreed.stop:
            raise Stopped(reason(agreed.stop), self.progress.step, self.plan.total_steps)

    def end_epoch(self) -> None:
        """Evaluate and save, as often as the config says and always at the end."""
        progress = self.progress
        if progress.step_in_epoch == self.plan.steps_per_epoch:
            progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
        self.saver.finish()  # a kill during a long evaluation shall find it
        self.engine.collect()
        self.evaluator.settle_batch_norm()
        due = self.all_steps_done or progress.epoch % self.config.eval.every == 0
        validation = self._validate() if due and self.evaluator.has("val") else None
        is_best = validation is not None and self._is_best(validation)
        self.lines.epoch_ended(progress.current_epoch, validation)
        progress.evaluated = True
        if self.all_steps_done or is_best or self.save_rule.at_epoch_end(progress):
            self.save()
        if due and self.evaluator.has("val"):
            if has_evaluation_hooks(self.hooks):  # they may look at what was saved
                self.saver.finish()
            call_evaluation_hooks(self.hooks, self)

    def finish(self) -> Record:
        """Take the best network where validation chose one, test it, and write it to the run folder."""
        self.saver.finish()
        validated = self.evaluator.has("val")
        label = self.task.metric_label
        progress = load_best(self.checkpoints, self.state, label) if validated else self.progress
        epoch, result = progress.current_epoch, {}
        if self.evaluator.has("test"):
            result = self.evaluator.evaluate("test", self.progress.step, epoch, final=True)
            logger.info("epoch %d  %s", epoch, self.task.summary(result, "test"))
        write_network(self.folder, self.state, self.description, epoch, result)
        if self.config.tracking.report:
            step, classes = self.progress.step, self.description.classes
            leave_report(self.folder, self.evaluator, step, epoch, classes)
        return {"run": str(self.folder.path), **result, "epoch": epoch}

    @property
    def all_steps_done(self) -> bool:
        """Whether no more optimizer steps are to be taken."""
        return self.progress.step >= self.plan.total_steps or self._stops_early

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step of the epoch is done."""
        return self.all_steps_done or self.progress.step_in_epoch == self.plan.steps_per_epoch

    @property
    def _stops_early(self) -> bool:
        patience = self.config.train.early_stopping
        return patience is not None and self.progress.evaluations_since_best >= patience

    def _clip_gradients(self) -> None:
        limit = self.config.train.clip_grad_norm
        if limit or self.bad_steps.skips:
            self.meter.gradient_norm = self.engine.clip_gradients(limit)
            if self.bad_steps.skips:
                self.bad_steps.watch_gradients(self.meter.gradient_norm)

    def _count_step(self) -> None:
        progress, average = self.progress, self.state.average
        progress.step += 1
        progress.step_in_epoch += 1
        progress.evaluated, progress.score = False, None
        self.bad_steps.count_step()
        if self.accelerator.optimizer_step_was_skipped:
            progress.skipped += 1
        elif average and progress.step % average.every == 0:
            self.engine.collect()
            average.update(self.network)
        self.meter.throughput.steps += 1
        self.profiler.after_step(progress.step)
        self.bar.advance()

    def _log_step(self) -> None:
        """Write what happened since the last training record; only here does the host wait for the device."""
        progress, config = self.progress, self.config
        scores = self.scores.reduce(self.accelerator)
        steps_left = self.plan.total_steps - progress.step
        side = train_resolution(config.data, progress.epoch)
        record = self.meter.record(progress, scores, self.task.metric, steps_left, side) | {"lr": self.lr}
        self.log.write(record)
        self.lines.trained(record, scores, self.at_epoch_end)
        if self.log.records == 1 and config.train.loss == "cross_entropy":
            warmup = config.schedule.warmup_epochs or 0.0
            warn_of_high_loss(scores, config.model.num_classes or 0, self.plan.peak_lr, warmup)

    def _validate(self) -> Record:
        """Evaluate on the validation images."""
        progress = self.progress
        return self.evaluator.evaluate("val", progress.step, progress.current_epoch, self.all_steps_done)

    def _is_best(self, record: Record) -> bool:
        """Whether the network is the best so far by this validation, which the progress takes note of."""
        progress = self.progress
        prefix = "val/ema_" if self.state.average else "val/"
        progress.score = record[prefix + self.task.metric]
        is_best = progress.best is None or progress.score > progress.best
        progress.evaluations_since_best = 0 if is_best else progress.evaluations_since_best + 1
        if is_best:
            progress.best, progress.best_epoch = progress.score, record["epoch"]
        if self._stops_early:
            logger.info(
                "stopping early: %d evaluations without a better validation %s (train.early_stopping)",
                *(progress.evaluations_since_best, self.task.metric_label),
            )
        return is_best

    def save(self, required: bool = False) -> None:
        """Save a checkpoint, complete on return where it is `required`; called on every rank. Raises
        CheckpointError as Saver.save does."""
        self.engine.collect()
        self.saver.save(required)
        self.save_rule.saved()
