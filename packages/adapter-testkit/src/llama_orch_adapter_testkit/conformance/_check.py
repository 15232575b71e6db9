"""What a check is: a rule with a name, which an adapter keeps or breaks. Each room of checks adds its own."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ._bench import Bench
from ._found import Found

REQUIRED = "required"
"""The group of the checks that every adapter must pass."""

SSE = "sse"
"""The group of those that every adapter of an engine with event streams must pass."""


class Broken(AssertionError):
    """The adapter breaks a rule; the text says what was seen, and what was to be."""


class NotAsked(Exception):  # no error: it says why a check does not apply
    """The check does not apply: what it is about was not declared, or does not exist in this dialect."""


@dataclass(frozen=True)
class Check:
    """A rule by its id. Its group is `required`, or the word in features or workloads that opts in to it.

    It may take `patience` times as long as any other check.
    """

    id: str
    group: str
    rule: str
    run: Callable[["Trial"], Awaitable[None]]
    patience: float = 1.0

    @property
    def required(self) -> bool:
        """Whether no adapter may skip it."""
        return self.group in (REQUIRED, SSE)


class Trial(Protocol):
    """What a check is given."""

    @property
    def found(self) -> Found: ...
    @property
    def bench(self) -> Bench: ...


_T = TypeVar("_T")
_CHECKS: dict[str, Check] = {}


def check(
    name: str, group: str = REQUIRED, *, patience: float = 1.0
) -> Callable[[Callable[["Trial"], Awaitable[None]]], Check]:
    """Add a check; the first line of its docstring is the rule."""

    def add(run: Callable[["Trial"], Awaitable[None]]) -> Check:
        if name in _CHECKS:
            raise ValueError(f"two checks are named {name!r}; rename one")
        made = Check(name, group, (run.__doc__ or "").strip().partition("\n")[0], run, patience)
        _CHECKS[name] = made
        return made

    return add


def every_check() -> tuple[Check, ...]:
    """All checks, in the order of their rooms."""
    return tuple(_CHECKS.values())


def require(kept: object, message: str) -> None:
    """Say that the rule is broken unless it is kept."""
    if not kept:
        raise Broken(message)


def the(kind: type[_T], value: object, what: str) -> _T:
    """The value, which is to be of that type."""
    if not isinstance(value, kind):
        raise Broken(f"{what} is {value!r}; it is to be a {kind.__name__}")
    return value


async def meanwhile(task: asyncio.Task[Any], coming: Coroutine[Any, Any, _T]) -> _T:
    """What comes while the task runs. Where that is over before, what it raised, or that it is over."""
    awaited = asyncio.create_task(coming)
    try:
        await asyncio.wait((task, awaited), return_when=asyncio.FIRST_COMPLETED)
        if awaited.done():
            return awaited.result()
        raise Broken(f"the task was over before the engine was at work on it: {task.result()}")
    finally:
        awaited.cancel()
