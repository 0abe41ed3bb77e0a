"""A process that trains the trials of a search one after the other, and tells Optuna what came out."""

from __future__ import annotations

import logging
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from anynet_dist.runs.metrics_log import Record, read_records
from anynet_dist.sweep.members import run_folder
from anynet_dist.sweep.population import read_population
from anynet_dist.sweep.progress import end_of, read_attempts
from anynet_dist.sweep.proposals import Proposals
from anynet_dist.sweep.search import MEMBER, Pruner
from anynet_dist.sweep.space import MEASURES
from anynet_dist.sweep.worker import train, train_noted
from anynet_dist.system.errors import UserError
from anynet_dist.training.finish import Pruned
from anynet_dist.training.hooks import Hook, register_hook

logger = logging.getLogger(__name__)

REDUCTION = 3
"""Of the networks that reach a rung, the best one in so many goes on, to as many times the epochs."""
RUNGS = 2
"""Of ASHA, before the last epoch."""


def work_on_search(folder: Path, attempts: int) -> None:
    """Train trials of a search until as many as planned are done, or whoever started this is gone.

    Raises StoppedEarly when it was asked to stop: the trial goes on with the next one who looks for work.
    """
    proposals = Proposals(folder)
    parent = os.getppid()
    while os.getppid() == parent:
        taken = proposals.take()
        if taken is None:
            return
        trial, claim = taken
        with claim:
            _train_trial(proposals, trial, attempts)
    logger.warning("what started this worker is gone: it ends")


def _train_trial(proposals: Proposals, trial: Any, attempts: int) -> None:
    """Train a trial from where it stands, and tell what came out, unless it is to be tried again."""
    folder, member = proposals.folder, trial.user_attrs[MEMBER]
    if end_of(folder, member) is None:
        hook = _reporting(proposals, trial)
        train_noted(folder, member, attempts, partial(_train, hook=hook))
    states = proposals.optuna.trial.TrialState
    end = end_of(folder, member)
    if end == "finished":
        values = [_value(folder, member, objective) for objective in proposals.plan.objectives]
        if any(map(math.isnan, values)):
            logger.warning("member %s: its last score is not a number: the trial counts as failed", member)
            proposals.study.tell(trial.number, state=states.FAIL)
        else:
            proposals.study.tell(trial.number, values)
    elif end == "pruned":
        proposals.study.tell(trial.number, state=states.PRUNED)
    elif read_attempts(folder, member).given_up:
        proposals.study.tell(trial.number, state=states.FAIL)


def _train(folder: Path, member: str, hook: Hook) -> None:
    try:
        train(folder, member, [hook])
    except Pruned as pruned:
        logger.info("member %s: %s", member, pruned)


def _reporting(proposals: Proposals, stored: Any) -> Hook:
    """Tells Optuna the objective after each evaluation, and ends the run where Optuna says so."""
    study, (objective, *others) = proposals.study, proposals.plan.objectives
    trial = proposals.optuna.trial.Trial(study, stored._trial_id)
    reported = set(stored.intermediate_values)

    @register_hook(every="evaluation")
    def report(trainer: Any) -> None:
        if others:  # Optuna takes such reports for one objective only
            return
        # Those from before an interruption too, where it came between the log and the report.
        for record in read_records(trainer.folder.metrics):
            score = record.get(objective)
            if score is not None and record["epoch"] not in reported:
                reported.add(record["epoch"])
                trial.report(score, record["epoch"])
        study.pruner = _pruner(proposals.optuna, proposals.plan.pruner, trainer.config.train.epochs)
        if reported and not trainer.all_steps_done and trial.should_prune():
            raise Pruned(f"pruned after epoch {trainer.progress.epoch}: {objective} is behind that of others")

    return report


def _pruner(optuna: Any, name: Pruner, epochs: int) -> Any:
    """The pruner for runs of so many epochs; it keeps nothing but what is in the study."""
    first = max(1, math.ceil(epochs / REDUCTION**RUNGS))
    if name == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=first, max_resource=epochs, reduction_factor=REDUCTION
        )
    return optuna.pruners.NopPruner()


def _value(folder: Path, member: str, objective: str) -> float:
    """An objective of a finished member: its complexity, or the last score in its log; maybe not a number.

    Raises UserError where the log has no such score.
    """
    if objective in MEASURES:
        found = next(each for each in read_population(folder).members if each.id == member)
        return found.complexity[objective]
    records = read_records(run_folder(folder, member) / "metrics.jsonl")
    values = [record[objective] for record in records if objective in record]
    if not values:
        raise UserError(f"--objective {objective}: runs have no such score (but {_scores(records)})")
    return math.nan if values[-1] is None else float(values[-1])


def _scores(records: list[Record]) -> str:
    return ", ".join(sorted({name for record in records for name in record if name.startswith("val/")}))
