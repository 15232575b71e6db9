"""What backoff does: why the host and we use only `expo` and `full_jitter` of it, in loops of our own (battery 21)."""

import asyncio
import inspect
import itertools
import logging
import random
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import backoff
import backoff._sync
import pytest
from llama_orch_adapter_testkit import run_virtual
from llama_orch_http_util._retry import RetryPolicy

# Its decorators ask `asyncio.iscoroutinefunction`, which warns from Python 3.14 on.
library = pytest.mark.filterwarnings("ignore:.*iscoroutinefunction:DeprecationWarning")


class Asked(Exception):
    """An error that carries a Retry-After."""

    def __init__(self, retry_after: float = 0.0) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


@library
def test_backoff_asks_what_python_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decorators call `asyncio.iscoroutinefunction`, which 3.14 warns of and 3.16 has no more (battery 21)."""
    asked: list[object] = []
    monkeypatch.setattr(asyncio, "iscoroutinefunction", lambda target: bool(asked.append(target)))

    def ask() -> None:
        raise Asked

    backoff.on_exception(backoff.expo, Asked)(ask)

    assert asked == [ask]


@library
def test_backoff_waits_less_than_asked() -> None:
    """`backoff.runtime` with its default jitter waits less than the engine asked for, every time (battery 21)."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random.seed(seed)
    moments: list[float] = []

    @backoff.on_exception(backoff.runtime, Asked, value=lambda error: error.retry_after, max_tries=301)
    async def ask() -> None:
        moments.append(asyncio.get_running_loop().time())
        raise Asked(10.0)

    with pytest.raises(Asked):
        run_virtual(ask())
    waits = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert len(waits) == 300
    assert max(waits) < 10.0


def test_backoff_full_jitter_is_the_default() -> None:
    """Who names no jitter gets the full one (battery 21)."""
    assert inspect.signature(backoff.on_exception).parameters["jitter"].default is backoff.full_jitter


def test_backoff_full_jitter_has_its_own_dice() -> None:
    """`backoff.full_jitter` draws from 0 to its value, from a source that nobody can hand to it (battery 21)."""
    drawn = [backoff.full_jitter(10.0) for _ in range(1000)]

    assert min(drawn) < 0.5
    assert max(drawn) > 9.5
    assert all(0.0 <= wait <= 10.0 for wait in drawn)


def test_backoff_expo_overflows() -> None:
    """`backoff.expo` without `max_value` raises in its 1,025th value, if its factor is a float (battery 21)."""
    steps = backoff.expo(factor=0.05)
    values = [next(steps) for _ in range(1025)]

    assert values[1] == 0.05
    with pytest.raises(OverflowError):
        next(steps)


def test_backoff_expo_begins_with_nothing() -> None:
    """The first value of `backoff.expo` is None and no wait; `RetryPolicy.ceilings` leaves it out (battery 21)."""
    steps = backoff.expo(factor=0.05, max_value=2.0)

    assert next(steps) is None
    assert next(steps) == 0.05
    assert next(RetryPolicy(base=0.05).ceilings()) == 0.05


def test_backoff_expo_of_nothing_overflows() -> None:
    """With a factor of 0 not even `max_value` ends its doubling: `RetryPolicy` wants a base above 0 (battery 21)."""
    steps = backoff.expo(factor=0.0, max_value=2.0)

    with pytest.raises(OverflowError):
        list(itertools.islice(steps, 1100))


@library
def test_backoff_knows_only_the_wall_clock() -> None:
    """`max_time` is no deadline: it reads the wall clock, and an attempt runs past it as it likes (battery 21)."""
    sent: list[float] = []

    @backoff.on_exception(backoff.constant, Asked, interval=0, max_time=0.2, max_tries=5, jitter=None)
    async def ask() -> None:
        sent.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)
        raise Asked(0)

    with pytest.raises(Asked):
        run_virtual(ask())
    assert len(sent) == 5
    assert sent[-1] > 20 * 0.2 - 1e-9


@library
def test_backoff_takes_max_time_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_time` is read off the wall clock before an attempt: it is overrun, and a step ends it (battery 21)."""
    began = datetime.now(UTC)
    wall = SimpleNamespace(now=lambda: began + passed)
    monkeypatch.setattr(backoff._sync, "datetime", SimpleNamespace(datetime=wall))
    monkeypatch.setattr(backoff._sync, "time", SimpleNamespace(sleep=lambda _: None))
    second = timedelta(seconds=1)

    def attempts(takes: float) -> int:
        """How many there were of those that take so many seconds."""
        tries = 0

        @backoff.on_exception(backoff.constant, Asked, interval=0, max_time=60, max_tries=10, jitter=None)
        def ask() -> None:
            nonlocal tries, passed
            tries += 1
            passed += takes * second
            raise Asked

        with pytest.raises(Asked):
            ask()
        return tries

    passed = 0 * second
    overrun = attempts(59.0) * 59.0

    assert overrun > 100
    assert attempts(3600.0) == 2
    assert attempts(-3600.0) == 10


@library
def test_backoff_without_a_try_never_ends() -> None:
    """`max_tries=0` means no limit, not no attempt (battery 21)."""
    tries = 0

    @backoff.on_exception(backoff.constant, Asked, interval=0, max_tries=0, jitter=None)
    async def ask() -> None:
        nonlocal tries
        tries += 1
        if tries == 1000:
            raise KeyError(tries)
        raise Asked(0)

    with pytest.raises(KeyError):
        run_virtual(ask())
    assert tries == 1000


@library
def test_backoff_does_not_retry_generators() -> None:
    """Around an async generator the decorator does nothing, and does not say so (battery 21)."""
    begun = 0

    async def stream() -> AsyncIterator[str]:
        nonlocal begun
        begun += 1
        yield "token"
        raise Asked(0)

    decorated = backoff.on_exception(backoff.constant, Asked, interval=0, max_tries=5, jitter=None)(stream)

    async def main() -> list[str]:
        return [token async for token in decorated()]

    with pytest.raises(Asked):
        run_virtual(main())
    assert begun == 1


@library
def test_backoff_logs_the_error(caplog: pytest.LogCaptureFixture) -> None:
    """Its own logger prints the exception's text, and whatever key a URL in it held (battery 21)."""
    canary = secrets.token_hex(16)

    @backoff.on_exception(backoff.constant, ValueError, interval=0, max_tries=2, jitter=None)
    async def ask() -> None:
        raise ValueError(f"http://engine/v1?key={canary}")

    with caplog.at_level(logging.INFO, logger="backoff"), pytest.raises(ValueError, match="engine"):
        run_virtual(ask())
    assert caplog.text.count(canary) == 2
