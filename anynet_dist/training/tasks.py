"""Tasks by name: classification, and the users' own ones from plug-ins.

A task is a subclass of `task.Task`, registered under the name that `train.task` gives:

    @register_task("mine")
    class Mine(Task):
        def running_scores(self, device: torch.device, evaluation: bool = False) -> RunningScores: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from anynet_dist.config.errors import Problem
from anynet_dist.system.errors import UserError
from anynet_dist.system.registry import Registry
from anynet_dist.training.classification import Classification
from anynet_dist.training.task import Task, TaskSetting

TaskClass = TypeVar("TaskClass", bound=type[Task])

TASKS: Registry[type[Task]] = Registry("task", option="train.task", first=("setting",), base=Task)


def register_task(name: str) -> Callable[[TaskClass], TaskClass]:
    """Register a subclass of Task under `name`."""
    return TASKS.register(name)


register_task("classification")(Classification)


def task_problems(name: str) -> Iterator[Problem]:
    """What is wrong with the task that train.task names, once plug-ins are loaded."""
    try:
        TASKS.find(name)
    except UserError as error:
        yield Problem("train.task", str(error))


def make_task(name: str, setting: TaskSetting) -> Task:
    """The task registered under `name`. Raises UserError where there is none."""
    return TASKS.find(name)(setting)
