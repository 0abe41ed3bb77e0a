"""A run that is ready to train: all its parts, made in order, and owned until it ends."""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Self

from accelerate.utils import set_seed

from anynet_dist.config import Config
from anynet_dist.runs.checkpoints import Checkpoints
from anynet_dist.runs.config_diff import check_changes
from anynet_dist.runs.folder import folder_of
from anynet_dist.runs.metrics_log import RunLog
from anynet_dist.runs.progress import Progress, RunContext
from anynet_dist.runs.status import RunStatus, ask_for_resume
from anynet_dist.runs.trackers import Outcome
from anynet_dist.system import distributed
from anynet_dist.system.choices import collected_choices
from anynet_dist.system.errors import StoppedEarly
from anynet_dist.system.files import remove_partials
from anynet_dist.system.lock import Lock, LostLockError
from anynet_dist.system.logging import held_log
from anynet_dist.system.startup_clock import clock
from anynet_dist.training import build, setup
from anynet_dist.training.banner import banner_rows, data_row, network_row, show_banner
from anynet_dist.training.checkpointing import RunState, own_model_files, restore
from anynet_dist.training.compilation import compile_network
from anynet_dist.training.distributed.engine import choose_engine
from anynet_dist.training.distributed.rank_sync import RankSync, StepAgreement
from anynet_dist.training.distributed.rank_zero import rank_zero_decides
from anynet_dist.training.evaluation import Batch, Evaluator
from anynet_dist.training.finish import Pruned, Stopped, explain
from anynet_dist.training.garbage import collected_between_steps
from anynet_dist.training.hooks import Hook, hooks_of
from anynet_dist.training.optim.ema import WeightAverage
from anynet_dist.training.optim.optimizers import build_optimizer
from anynet_dist.training.pictures import BatchPicture
from anynet_dist.training.profile import StepProfiler
from anynet_dist.training.resilience import faults
from anynet_dist.training.resilience.flight_recorder import FlightRecorder
from anynet_dist.training.resilience.nonfinite import BadSteps, NonFiniteGuard, NotFiniteError
from anynet_dist.training.resilience.stop_requests import StopRequests
from anynet_dist.training.run_facts import run_facts
from anynet_dist.training.save_rule import SaveRule
from anynet_dist.training.saver import Saver, note_saving
from anynet_dist.training.startup_report import StartupReport
from anynet_dist.training.step_record import StepMeter

logger = logging.getLogger(__name__)


class Run:
    """Everything that the training loop works with, from a Config; a context manager.

    It owns the run folder's lock, the signals and the loaders until `close`. Raises UserError for whatever
    the user can put right; what can be checked without data or devices is checked before either is touched.
    """

    def __init__(self, config: Config, hooks: Iterable[Hook] = ()) -> None:
        """`hooks` are called beside those of the config's plug-ins (see hooks.py)."""
        self.folder = folder_of(config)
        self.config = setup.check_config(config, self.folder)
        self.hooks = [*hooks_of(self.config.plugins), *hooks]
        if self.config.train.profile_startup:
            self.hooks.append(StartupReport())
        self.status: RunStatus | None = None
        self._owned = ExitStack()
        try:
            self._set_up()
            self._watch()
            self._resume()
        except BaseException as error:
            if (
                isinstance(error, StoppedEarly) and distributed.is_main() and self._is_owner()
            ):  # while it waited for another rank
                ask_for_resume(self.folder, {"reason": str(error)})
            self._owned.close()
            raise

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        return self.state.progress

    def _set_up(self) -> None:
        """All parts of the run, in order. The run folder is touched last, when everything else has worked."""
        folder, owned = self.folder, self._owned
        if distributed.is_main():
            lock = owned.enter_context(Lock(folder.lock, f"{folder.path} is in use"))
            folder = self.folder = replace(folder, check_owner=lock.check)
            remove_partials(folder.path)
        self.stop_requests = owned.enter_context(StopRequests(self.config.run))
        self.stop_requests.call_before_end(self._note_forced_end)
        log_file = owned.enter_context(ExitStack())
        with held_log() as early_log, collected_choices(logger) as choices:
            splits = self._plan()
            clock.done("data, processes and plan")
            context = self._build(splits)
            if self.checkpoint:
                check_changes(self.checkpoint, self.config, context)
            if distributed.is_main():
                old = None if self.checkpoint else self.checkpoints
                device = self.accelerator.device
                log_file.callback(
                    setup.prepare_folder(
                        folder, self.config, self.description, context, device, old, early_log
                    )
                )
            self.accelerator.wait_for_everyone()
        resolution = self.config.data.train_res or 0
        choices += [data_row(splits, resolution), network_row(self.network.spec, resolution)]
        show_banner(f"run folder {folder.path}", banner_rows(self.config, self.plan, choices))
        clock.done("run folder")

    def _plan(self) -> build.Splits:
        """Data, engine, checkpoint, batches, steps; the impossible is refused before anything takes time."""
        splits = self.open_splits()
        config = build.resolve(self.config, splits["train"])
        self.description = build.describe_network(config, splits)
        self.engine = choose_engine(config)
        self.engine.connect()
        owner = rank_zero_decides(lambda: uuid.uuid4().hex[:8])
        self.checkpoints = Checkpoints(
            self.folder.checkpoints, config.checkpoint, owner, self.folder.check_owner
        )
        self.checkpoint = setup.choose_checkpoint(config, self.checkpoints, self.folder)
        self.config, self.plan = setup.plan_run(config, splits["train"], self.checkpoint)
        return splits

    def open_splits(self) -> build.Splits:
        """The images of the run, by split."""
        return build.open_splits(self.config)

    def _build(self, splits: build.Splits) -> RunContext:
        """Accelerator, network, task, optimizer and loaders. The order is that of the random numbers."""
        config, plan, checkpoint = self.config, self.plan, self.checkpoint
        precision, self.accelerator = setup.start_accelerator(config, self.engine, plan, checkpoint)
        clock.done("accelerator")
        set_seed(config.run.seed)
        self.network = setup.build_network(config, self.description)
        clock.done("network")
        memory_format = setup.place_network(self.network, config, self.accelerator, plan, checkpoint)
        ema = config.ema
        clock.done("memory format")
        average = WeightAverage(self.network, ema.decay, ema.every, ema.warmup) if ema.decay else None
        compiled = setup.compile_for_training(
            self.network, config, self.accelerator, plan, checkpoint, self.engine
        )
        if average and config.eval.compile:
            compile_network(average.module, compiled)
        clock.done("compilation")
        self.task = setup.build_task(config, splits["train"], self.accelerator.device)
        fused = self.engine.can_fuse(config.speed)
        self.model, self.optimizer = self.engine.prepare(
            self.network, lambda trained: build_optimizer(trained, config.optim, fused)
        )
        self.frozen = [self.engine.trained.get_submodule(part) for part in config.model.freeze]
        own_model_files(self.accelerator, self.network)
        clock.done("optimizer")
        self.loaders = setup.build_loaders(config, splits, plan, self.accelerator, memory_format, self._owned)
        clock.done("loaders")
        context = setup.describe_run(splits, plan, self.engine, precision, memory_format, compiled)
        note_saving(config, self.engine.name)
        self.scores = self.task.running_scores(self.accelerator.device)
        self.state = RunState(
            accelerator=self.accelerator,
            network=self.network,
            average=average,
            scores=self.scores,
            progress=Progress(),
            context=context,
            config=config,
        )
        return context

    def _watch(self) -> None:
        """What watches over steps: other ranks, numbers that are not finite, time to save, speed."""
        config, device = self.config, self.accelerator.device
        self.peers = faults.exchange_peers(self.accelerator.process_index)
        rank = self.accelerator.process_index
        recorder = FlightRecorder(self.folder.stacks, self.peers, rank, self._position)
        self.stop_requests.watch_peers(self.peers, recorder)
        self.bad_steps = BadSteps(device, self.optimizer.optimizer)
        guard = NonFiniteGuard(
            self.state.networks,
            self.engine.collect,
            config.train.max_bad_steps,
            self.folder.bad_batch,
            self._replay,
        )
        if every := config.speed.collect_garbage_every:
            self.hooks.append(self._owned.enter_context(collected_between_steps(every)))
        self.save_rule = SaveRule(config.checkpoint.every)
        self.agreement = StepAgreement(
            RankSync(self.accelerator), self.stop_requests, self.save_rule, self.bad_steps, guard
        )
        batches = self.plan.batches
        self.meter = StepMeter(
            self.network.spec, device, self.state.context.precision, batches.global_batch, batches.world_size
        )

    def _resume(self) -> None:
        """Continue from the checkpoint where there is one, and open the log."""
        config, on_main = self.config, self.accelerator.is_main_process
        if self.checkpoint:
            restore(self.checkpoint, self.state)
            at = f"epoch {self.progress.epoch}, step {self.progress.step}"
            logger.info("resuming from %s: %s", self.checkpoint.path, at)
            setup.log_schedule_change(config, self.plan, self.checkpoint.context, self.progress)
        elif config.run.resume == "auto":
            logger.info("no checkpoint to resume from in %s: starting from scratch", self.folder.checkpoints)
        if on_main:
            self.checkpoints.set_aside_after(self.progress.step)
            self.checkpoints.refresh_links()
        resumed_at = self.progress.step if self.checkpoint else None
        self.status = RunStatus(self.folder, config, self.plan.total_steps, resumed_at, on_main)
        self.status.set("running", None, self.progress)
        shown = (self.network.spec, self.state, self.loaders, self.folder, self.description, self.task)
        facts = run_facts(*shown) if on_main and config.tracking.has_trackers else None
        self.log = RunLog(self.folder, config, self.progress, on_main, facts)
        self.saver = Saver(self.state, self.folder, self.checkpoints, self.log)
        self.log.show_network(self.network, self.description.resolution)
        self.batch_picture = BatchPicture(
            self.folder.path / "train_batch.jpg",
            self.description.mean,
            self.description.std,
            trackers=self.log.trackers,
            active=on_main and config.tracking.report and self.progress.step == 0,
        )
        self.profiler = StepProfiler(config.train.profile, self.folder.profile, self.progress.step, on_main)
        self._owned.callback(self.profiler.close)
        self.evaluator = Evaluator(
            config,
            self.accelerator,
            self.state.networks,
            self.loaders,
            self.task,
            self.log,
            self.stop_requests.beat,
        )
        clock.done("trackers and checkpoint")

    def _position(self) -> dict[str, int]:
        return {"step": self.progress.step, "epoch": self.progress.epoch}

    def _replay(self, steps_back: int) -> Iterable[Batch]:
        """This rank's micro-batches of an earlier step of this epoch; 1 is the last one."""
        accumulation, loader = self.plan.batches.accumulation, self.loaders["train"]
        loader.set_epoch(self.progress.epoch, (self.progress.step_in_epoch - steps_back) * accumulation)
        return (self.task.batch(images, labels) for images, labels in islice(loader, accumulation))

    @contextmanager
    def recording_the_end(self) -> Iterator[None]:
        """Record how the block ended, explain its errors, and free what the run owns."""
        outcome: Outcome = "failed"
        why: str | None = None
        self.stop_requests.training_starts()
        try:
            yield
            outcome = "finished"
        except Stopped as stopped:
            outcome, why = "stopped", stopped.why
            raise
        except Pruned as pruned:
            self.saver.finish()
            outcome, why = "pruned", str(pruned)
            raise
        except BaseException as error:
            if isinstance(error, NotFiniteError):  # which all ranks raise, after a checkpoint that is good
                self.saver.finish(raises=False)
            explained = explain(error, self.peers, self.config, self.plan, self.state)
            why = str(explained or error) or type(error).__name__
            if explained:
                raise explained from error
            raise
        finally:
            self.close(outcome, why)
            if outcome != "failed":
                self.accelerator.end_training()

    def _note_forced_end(self, number: int, why: str) -> None:
        """Before the process is ended because it cannot stop in order: a scheduler may start it again."""
        if distributed.is_main():
            if self.status:
                self.status.set("failed", why, self.progress)
            if number != signal.SIGINT and self._is_owner():
                ask_for_resume(self.folder, {"reason": why})

    def _is_owner(self) -> bool:
        try:
            self.folder.check_owner()
        except LostLockError:
            return False
        return True

    def close(self, outcome: Outcome = "failed", why: str | None = None) -> None:
        """Record how the run ended; end the threads and processes of the saver and the loaders, and the log;
        free the run folder.

        Does nothing the second time.
        """
        self.saver.close()
        if self.status:
            self.status.set(outcome, why, self.progress)
            self.status = None
        self.log.close(outcome, why)
        self._owned.close()
        clock.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
