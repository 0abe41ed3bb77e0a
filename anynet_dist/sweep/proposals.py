"""What a search trains next: a trial that nobody trains any more, else a new one."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from anynet_dist.config.yaml_reader import read_settings
from anynet_dist.sweep.members import BASE, CONFIGS, config_file, member_of, write_config
from anynet_dist.sweep.population import append_member, read_population
from anynet_dist.sweep.progress import claim_file
from anynet_dist.sweep.sampling import Sample, network_of
from anynet_dist.sweep.search import (
    MEMBER,
    NETWORK,
    REFUSED,
    Plan,
    alone,
    open_study,
    read_search,
    require_optuna,
)
from anynet_dist.sweep.suggest import suggested
from anynet_dist.system.errors import UserError
from anynet_dist.system.lock import Lock, is_held

logger = logging.getLogger(__name__)

DRAWS = 500
"""Refused draws in a row upon which the space counts as exhausted; the second half of them is random."""


class Proposals:
    """The trials of a search, as one of its processes sees them.

    The random numbers of a draw depend on the seed and on how many draws there were before, so that a search
    that was interrupted goes on as if it had not been.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError where the folder holds no search."""
        self.folder = folder
        self.space, self.plan = read_search(folder)
        self.optuna = require_optuna()
        self.study = open_study(folder, self.space.name, self.plan)
        settings = read_settings(folder / CONFIGS / BASE, [])
        self.base = {key: setting.value for key, setting in settings.items()}

    def take(self) -> tuple[Any, Lock] | None:
        """A trial to train, and the lock of its member; None where nothing is left for this process.

        Raises UserError where the space has no further network.
        """
        with alone(self.folder):
            states = self.optuna.trial.TrialState
            for trial in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
                if MEMBER not in trial.user_attrs:  # its process ended while it drew
                    self.study.tell(trial.number, state=states.FAIL)
                    continue
                claim = self._claim(trial.user_attrs[MEMBER])
                if claim:
                    self._record(trial)
                    return trial, claim
            _, plan = read_search(self.folder)  # another call may have asked for more
            if len(self.members()) >= plan.trials:
                return None
            trial = self._draw()
            claim = self._claim(trial.user_attrs[MEMBER])
            assert claim is not None
            self._record(trial)
            return trial, claim

    def members(self) -> list[Any]:
        """The trials that are networks to train, in their order."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if MEMBER in trial.user_attrs]

    def unclaimed(self) -> int:
        """How many trials are not done yet, and trained by no one."""
        running = self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.RUNNING,))
        names = [trial.user_attrs[MEMBER] for trial in running if MEMBER in trial.user_attrs]
        return sum(not is_held(claim_file(self.folder, name)) for name in names)

    def refusals(self) -> Counter[str]:
        """How many draws each reason removed."""
        trials = self.study.get_trials(deepcopy=False)
        return Counter(trial.user_attrs[REFUSED] for trial in trials if REFUSED in trial.user_attrs)

    def _claim(self, member: str) -> Lock | None:
        try:
            return Lock(claim_file(self.folder, member), f"member {member} is being trained")
        except UserError:
            return None

    def _draw(self) -> Any:
        """A trial whose network is new and within the window; the others are marked as failed."""
        study, refusals = self.study, Counter[str]()
        trials = study.get_trials(deepcopy=False)
        tried = {trial.user_attrs[NETWORK] for trial in trials if MEMBER in trial.user_attrs}
        before = sum(MEMBER in trial.user_attrs or REFUSED in trial.user_attrs for trial in trials)
        for number in range(DRAWS):
            at_random = self.plan.sampler == "random" or number >= DRAWS // 2
            study.sampler = _sampler(self.optuna, self.plan, before + number, at_random)
            trial = study.ask()
            found = network_of(self.space, suggested(self.space, trial))
            if isinstance(found, Sample) and found.identity not in tried:
                trial.set_user_attr(NETWORK, found.identity)
                trial.set_user_attr(MEMBER, f"{len(tried):04d}")  # from here on it is one
                return study.get_trials(deepcopy=False)[trial.number]
            reason = found if isinstance(found, str) else "drawn before"
            refusals[reason] += 1
            trial.set_user_attr(REFUSED, reason)
            study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        removed = "".join(f"\n  {number:,} draws: {reason}" for reason, number in refusals.most_common(8))
        raise UserError(
            f"{self.space.name}: no further network in {DRAWS} draws after {len(self.members())} of"
            f" {self.plan.trials}; what removed them:{removed}"
        )

    def _record(self, trial: Any) -> None:
        """Write down the member that a trial is, unless that was done."""
        name = trial.user_attrs[MEMBER]
        known = {member.id for member in read_population(self.folder).members}
        if name in known:
            return
        fixed = self.optuna.trial.FixedTrial(trial.params, trial.number)
        found = network_of(self.space, suggested(self.space, fixed))
        assert isinstance(found, Sample)
        member = member_of(self.space, name, found)
        write_config(self.folder, self.space, member, found, self.base)
        append_member(self.folder, member)
        logger.info("member %s drawn: %s", name, config_file(self.folder, name))


def _sampler(optuna: Any, plan: Plan, number: int, at_random: bool) -> Any:
    """For draw `number`; the multivariate TPE where the objective is one, as Optuna 5 has it."""
    seed = int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0])
    if at_random:
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of Optuna 4
        return optuna.samplers.TPESampler(
            seed=seed,
            multivariate=len(plan.objectives) == 1,
            constant_liar=True,
        )
