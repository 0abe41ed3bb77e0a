"""Functions of the user's that a run calls every n steps, or after each evaluation.

    @register_hook(every=100)
    def note(trainer):
        if trainer.accelerator.is_main_process:
            print(trainer.progress.step)

A hook is called on every rank, after each n-th optimizer step and before that step is saved, so it may
synchronise the ranks. An earlier step's checkpoint may still be on its way: `trainer.saver.finish()`, called
on every rank, waits for it. With `every="evaluation"` it is called after each evaluation on the validation
images, when the scores are in the log and the network is saved, where that was due.

In a plug-in it belongs to the runs whose `plugins` list that file; elsewhere, as in a notebook, it is given
to `Trainer(config, hooks=[note])`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from anynet_dist.system.errors import UserError

Hook = Callable[[Any], object]
"""Called with the Trainer."""
Function = TypeVar("Function", bound=Hook)

_EVERY = "__anynet_every__"
_EVALUATION = "evaluation"


def register_hook(every: int | Literal["evaluation"] = 1) -> Callable[[Function], Function]:
    """Mark a function as one to call with the trainer after every `every`-th step, or after each evaluation.

    Raises UserError where `every` is neither a positive integer nor "evaluation".
    """
    if every != _EVALUATION and (not isinstance(every, int) or every < 1):
        raise UserError(
            f"register_hook: every must be an integer of at least 1, or '{_EVALUATION}' (got {every!r})"
        )

    def mark(function: Function) -> Function:
        setattr(function, _EVERY, every)
        return function

    return mark


def hooks_of(plugins: Iterable[str]) -> list[Hook]:
    """The hooks that these plug-in files define, in the order of the files; the files must be loaded."""
    loaded = {_file_of(module): module for module in list(sys.modules.values())}
    files = [Path(plugin).expanduser().resolve() for plugin in plugins]
    values = [value for file in files if file in loaded for value in vars(loaded[file]).values()]
    return [value for value in values if _EVERY in getattr(value, "__dict__", ())]


def _file_of(module: Any) -> Path | None:
    """The file of a plug-in's module; None for any other module."""
    is_plugin = str(getattr(module, "__name__", "")).startswith("anynet_plugin_")
    return Path(module.__file__).resolve() if is_plugin else None


def call_hooks(hooks: Sequence[Hook], trainer: Any, step: int) -> None:
    """Call those whose turn it is after `step`."""
    for hook in hooks:
        every = getattr(hook, _EVERY, 1)
        if every != _EVALUATION and step % every == 0:
            hook(trainer)


def has_evaluation_hooks(hooks: Sequence[Hook]) -> bool:
    """Whether there are any of evaluations."""
    return any(getattr(hook, _EVERY, 1) == _EVALUATION for hook in hooks)


def call_evaluation_hooks(hooks: Sequence[Hook], trainer: Any) -> None:
    """Call those of evaluations."""
    for hook in hooks:
        if getattr(hook, _EVERY, 1) == _EVALUATION:
            hook(trainer)
