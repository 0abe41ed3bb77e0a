"""Parts by name, the package's own and the users': one kind of table for all that can be registered.

A name may be registered again by the same code, as a notebook does when its cell is run again; other code
under a name that is taken is refused.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from anynet_dist.system.errors import UserError, unknown_name

Part = TypeVar("Part", bound=Callable[..., Any])
Registered = TypeVar("Registered", bound=Callable[..., Any])

DIGEST = "__anynet_digest__"
"""A module's attribute with the digest of the plug-in file that it was read from."""
KINDS: dict[str, Registry[Any]] = {}
"""All registries, by what they hold."""


class Registry(dict[str, Part], Generic[Part]):
    """Classes or functions of one kind by name, each checked when it is registered.

    `first` are the arguments that each takes first, `passed` those that it may ask for by name, `base` the
    class that classes inherit from. Where `functions` are registered too, they make such an object. With
    `free`, further arguments come from the user's options, so that they need no default.
    """

    def __init__(
        self,
        kind: str,
        *,
        option: str = "",
        first: tuple[str, ...] = (),
        passed: tuple[str, ...] = (),
        base: type | None = None,
        functions: bool = False,
        free: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.option = kind, option or kind
        self.first, self.passed, self.base = first, passed, base
        self.functions, self.free = functions, free
        self.origins: dict[Part, frozenset[str]] = {}
        """Where each comes from, and those of the same code that it took the place of."""
        KINDS[kind] = self

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """A decorator that registers what it decorates under `name`."""

        def register(part: Registered) -> Registered:
            found: Any = part
            other = self.get(name)
            if other is not None and not self._same_code(other, found):
                raise UserError(
                    f"{self.kind} '{name}' is already registered ({other.__module__}.{other.__qualname__}):"
                    " choose another name"
                )
            self._check(name, found)
            self.origins[found] = _origin_of(found) | (self.origins[other] if other else frozenset())
            self[name] = found
            return part

        return register

    def find(self, name: str) -> Part:
        """What is registered under `name`; a UserError with the nearest name when there is nothing."""
        if name not in self:
            raise unknown_name(self.option, name, self)
        return self[name]

    def _same_code(self, before: Any, now: Any) -> bool:
        """Whether `now` is `before` again: from the same place, as when a notebook's cell or a module is run
        again, or from another copy of the same plug-in file."""
        if before.__qualname__ != getattr(now, "__qualname__", None):
            return False
        return before.__module__ == now.__module__ or bool(self.origins[before] & _origin_of(now))

    def _check(self, name: str, part: Any) -> None:
        what = f"{self.kind} '{name}'"
        is_function = inspect.isroutine(part)
        fits = inspect.isclass(part) and self.base is not None and issubclass(part, self.base)
        if not fits and not (self.functions and is_function):
            raise UserError(f"{what} must be {self._wanted()}")
        parameters = inspect.signature(part).parameters
        if tuple(parameters)[: len(self.first)] != self.first:
            found = ", ".join(parameters)
            raise UserError(f"{what} must take ({', '.join(self.first)}, ...) first; it takes ({found})")
        if not self.free:
            self._check_rest(what, list(parameters.values())[len(self.first) :])

    def _check_rest(self, what: str, rest: Collection[inspect.Parameter]) -> None:
        for parameter in rest:
            if parameter.default is parameter.empty and parameter.name not in self.passed:
                allowed = ", ".join(self.passed) or "no others"
                raise UserError(
                    f"{what} needs an argument '{parameter.name}' that is never passed: "
                    f"give it a default value (passed by name: {allowed})"
                )

    def _wanted(self) -> str:
        """What may be registered, for messages."""
        kinds = [f"a subclass of {full_name(self.base)}"] if self.base else []
        return " or ".join([*kinds, "a function"] if self.functions else kinds)


def registered(kind: str) -> Collection[str]:
    """The names of a kind that are registered so far: none where its module has not been imported."""
    return KINDS[kind].keys() if kind in KINDS else ()


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Take back all that the block has registered, of any kind, if it fails.

    What is in the package stays: the block may have been the first to import it.
    """
    before = {kind: dict(registry) for kind, registry in KINDS.items()}
    try:
        yield
    except BaseException:
        for kind, registry in KINDS.items():
            own = {name: part for name, part in registry.items() if is_own(part)}
            registry.clear()
            registry.update(own | before.get(kind, {}))
        raise


def full_name(found: type) -> str:
    """The name of a class by which people know it: `torch.nn.Module`, not where torch defines it."""
    module = found.__module__
    if module.startswith("torch."):
        module = ".".join(module.split(".")[:2])
    return f"{module}.{found.__qualname__}"


def is_own(part: Any) -> bool:
    """Whether a part is one of this package."""
    return str(part.__module__).startswith("anynet_dist.")


def _origin_of(part: Any) -> frozenset[str]:
    """The file that a part was defined in and, of a plug-in, the digest of its content."""
    module = sys.modules.get(part.__module__)
    found = (getattr(module, "__file__", None), getattr(module, DIGEST, None))
    return frozenset(place for place in found if place)
