"""Asking a replica something beside its tasks: bounded in time, and whatever goes wrong is an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from llama_orch_adapter_api import Capabilities, DecodeTimeout, WorkerAdapter, WorkerError, WorkerHealth, WorkerProps

from ._binding import Binding
from ._exits import is_strangers
from ._opening import plugin_error

T = TypeVar("T")

PROBE_LIMIT = 5.0
"""Seconds that a health or props call of one replica may take."""

FAREWELL_LIMIT = 2.0
"""Seconds that an adapter may take to close, or to confirm a cancel."""


async def ask_health(binding: Binding) -> WorkerHealth:
    """How the replica is; one that does not answer is `down`."""
    answer = await _ask(binding, lambda adapter: adapter.health(), WorkerHealth)
    return WorkerHealth.of(answer) if isinstance(answer, WorkerError) else answer


async def ask_props(binding: Binding) -> WorkerProps | WorkerError:
    """What the replica can do, or why it does not say."""
    answer = await _ask(binding, lambda adapter: adapter.props(), WorkerProps)
    return _counted(binding, answer) if isinstance(answer, WorkerProps) else answer


def _counted(binding: Binding, props: WorkerProps) -> WorkerProps:
    """Numbers of slots that cannot be are not known: told once, and no reason to lose a replica that works."""
    for name, least in (("slots_total", 1), ("slots_free", 0)):
        number = getattr(props, name)
        if number is not None and number < least:
            if name not in binding.nonsense:
                binding.nonsense.add(name)
                binding.broke("props", f"{name} is {number}, taken for unknown")
            props = msgspec.structs.replace(props, **{name: None})
    return props


async def _ask(binding: Binding, ask: Callable[[WorkerAdapter], Awaitable[object]], kind: type[T]) -> T | WorkerError:
    """What the adapter answers, if it is of this kind, or why it does not."""
    info = binding.info
    try:
        if binding.unanswered:
            raise _Late
        answer = await _within(PROBE_LIMIT, lambda: ask(binding.adapter), binding.unanswered)
        if not isinstance(answer, kind):
            wrong = f"not a {kind.__name__}"
        else:
            try:
                return _plain(answer, kind)
            except (msgspec.ValidationError, TypeError) as error:  # the latter for what is no value at all
                wrong = f"with a wrong field: {error}"
        failure: WorkerError = plugin_error(binding, f"answered a {type(answer).__name__}, {wrong}")
    except WorkerError as error:
        failure = error
    except _Late:
        failure = DecodeTimeout(
            f"no answer within {PROBE_LIMIT:g} s · {binding.replica} · look at the engine", detail="first_token"
        )
    except Exception as error:  # noqa: BLE001  # it is a stranger's code, and one replica's trouble alone
        failure = plugin_error(binding, f"raised {_name(error)}, which is no WorkerError")
    return failure.placed(engine=info.engine, pool=info.pool_id, replica=info.replica_id)


def _plain(answer: T, kind: type[T]) -> T:
    """The answer in the boundary's own kind. Raises for a wrong field: a Struct that is made in Python checks none.

    What an adapter's subclass holds beside the boundary's fields is its own.
    """
    return msgspec.convert(msgspec.to_builtins(_fields(answer, kind), enc_hook=_bare), kind)


def _fields(answer: object, kind: type) -> dict[str, object]:
    if not isinstance(answer, kind):
        raise TypeError(f"a {type(answer).__name__} is no {kind.__name__}")
    fields = {name: getattr(answer, name) for name in kind.__struct_fields__}  # type: ignore[attr-defined]  # a Struct's
    if kind is WorkerProps:
        fields["capabilities"] = _fields(fields["capabilities"], Capabilities)
    return fields


def _bare(value: object) -> object:
    """A subclass of `str` or `int` is as good as they are."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    raise TypeError(f"a {type(value).__name__} is no value")


async def farewell(
    binding: Binding, what: str, say: Callable[[], Awaitable[None]], limit: float = FAREWELL_LIMIT
) -> bool:
    """Tell the adapter something; it may take `limit` seconds. Whether it did it."""
    try:
        await _within(limit, say, set())
    except _Late:
        binding.broke(what, "TimeoutError")
        return False
    except Exception as error:  # noqa: BLE001  # as above
        binding.broke(what, _name(error))
        return False
    return True


class _Late(Exception):
    """An adapter has not answered in its time, or still owes the answer before."""


class _Unruly(Exception):
    """An adapter ended a call by what would end more than the call: its own cancellation, or SystemExit."""


async def _within(
    limit: float, ask: Callable[[], Awaitable[object]], unanswered: set[asyncio.Future[object]]
) -> object:
    """What the adapter answers, in a task of its own: one that ignores its cancellation is waited for no further."""
    task = asyncio.ensure_future(_tamed(ask))
    task.add_done_callback(_take)
    try:
        await asyncio.wait({task}, timeout=limit)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task}, timeout=FAREWELL_LIMIT)
        raise
    finally:
        if late := not task.done():
            task.cancel()
            unanswered.add(task)
            task.add_done_callback(unanswered.discard)
            await asyncio.wait({task}, timeout=0)  # most end at once
    if late:
        raise _Late
    if task.cancelled():
        raise _Unruly("CancelledError")
    return task.result()


async def _tamed(ask: Callable[[], Awaitable[object]]) -> object:
    try:
        return await ask()
    except SystemExit as error:
        if not is_strangers(error):
            raise
        raise _Unruly("SystemExit") from None  # asyncio would end the loop by it


def _take(task: asyncio.Future[object]) -> None:
    """Take what it failed with, or the loop would log it as never retrieved."""
    if not task.cancelled():
        task.exception()


def _name(error: Exception) -> str:
    return str(error) if isinstance(error, _Unruly) else type(error).__name__
