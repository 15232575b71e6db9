"""The end of a host: refuse, drain, interrupt, close (ORCH-3600)."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    End,
    PoolUnavailable,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_host._events import (
    HostEvent,
    HostStopped,
    HostStopping,
    ReplicaDrained,
    ReplicaDraining,
    ReplicaUnbound,
    TaskEnded,
)
from llama_orch_adapter_host._flight import STOP_LIMIT
from llama_orch_adapter_host._probe import FAREWELL_LIMIT

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Clinging,
    Scripted,
    Swallowing,
    Words,
    cancel_now,
    drained,
    eager,
    end,
    host_of,
    moment,
    now,
    plugins_with,
    task,
    virtual,
)
from .streams import CANCELLED, STOPPED, told_by  # type: ignore[import-not-found]  # as above


@virtual
async def test_stopping_lets_streams_end():
    """Battery 30: a host that is closed waits for its streams, and no longer than they take."""
    adapter = Words(words=5)
    host = host_of(adapter)
    reader = asyncio.create_task(drained(await host.submit("pool", task())))
    await host.aclose()
    events = await reader

    assert now() == pytest.approx(5, abs=0.06)
    assert events[-1] == end(5)
    assert adapter.closed == 1


@virtual
async def test_leaving_the_block_ends_every_stream():
    """Battery 30: a host whose block is left ends its streams at once, those that nobody reads among them."""
    async with host_of(Words(words=5)) as host:
        reader = asyncio.create_task(told_by(await host.submit("pool", task())))
        unread = await host.submit("pool", task())
    events = await reader

    assert now() == pytest.approx(2, abs=0.06)
    assert events[-1] == STOPPED
    assert await told_by(unread) == [STOPPED]


@virtual
async def test_an_adapter_may_do_more_for_a_cancel():
    """ORCH-3601: `cancel` reaches the adapter's own `cancel`, in the background; a stop of the host waits for none."""

    class Thorough(Words):
        """Confirms a cancel after a second, or never, or not at all."""

        def __init__(self, seconds: float) -> None:
            super().__init__(words=9)
            self.seconds = seconds
            self.told: list[str] = []

        async def cancel(self, task_id: str) -> None:
            await asyncio.sleep(self.seconds)
            self.told.append(task_id)
            raise OSError

    adapters = [Thorough(1), Thorough(100)]
    host = host_of(*adapters)
    requests = [task(replica_id=str(i)) for i in range(2)]
    streams = [await host.submit("pool", request) for request in requests]
    receipts = [cancel_now(host, request) for request in requests]
    await asyncio.sleep(1.5)
    await host.aclose()

    assert [receipt.outcome for receipt in receipts] == ["cancelled", "cancelled"]
    assert [adapter.told for adapter in adapters] == [[requests[0].task_id], []]
    assert now() == pytest.approx(2 + 1.5, abs=0.1)
    assert [await drained(stream) for stream in streams] == [[CANCELLED], [CANCELLED]]


@virtual
async def test_what_an_adapter_refuses_at_once_has_its_places():
    """An error raised by `submit` itself tells engine, pool, replica and phase as any other does."""

    class Refusing(Words):
        """Raises before there is anything to iterate."""

        def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
            raise AdapterError("no", detail="unsupported") if task.prompt == "no" else KeyError(task.prompt)

    async with host_of(Refusing()) as host:
        for prompt, detail in (("no", "unsupported"), ("other", "plugin")):
            with pytest.raises(AdapterError) as caught:
                await host.submit("pool", task(prompt))
            error = caught.value

            assert (error.detail, error.phase) == (detail, "queue")
            assert (error.engine, error.pool, error.replica) == ("words", "pool", "0")


@virtual
async def test_stopping_in_an_error_lets_nothing_end():
    """Battery 30: a host that is left by an exception ends its streams at once."""
    adapter = Words(words=5)
    host = host_of(adapter)
    stream = await host.submit("pool", task())
    at = now()
    with pytest.raises(ZeroDivisionError):
        async with host:
            raise ZeroDivisionError

    assert now() == at
    assert await told_by(stream) == [STOPPED]
    assert (adapter.freed, adapter.closed) == (1, 1)


@virtual
async def test_each_pool_drains_for_as_long_as_it_may():
    """Battery 30: when a host stops, a stream is ended at its own pool's `drain` limit, not at the longest one."""
    adapters = [Words(words=99), Words(words=99), Words(words=4)]
    host = AdapterHost(plugins=plugins_with(*adapters))
    for pool, drain in (("short", 1.5), ("long", 6.5), ("none", 0.0)):
        host.bind(pool, "words", {}, timeouts=Timeouts(drain=drain))
    ends: dict[str, float] = {}

    async def read(pool: str) -> TokenEvent | str:
        events = await told_by(await host.submit(pool, task()))
        ends[pool] = now()
        return events[-1]

    readers = [asyncio.create_task(read(pool)) for pool in ("short", "long", "none")]
    await asyncio.sleep(1.2)
    begun = now()
    await host.aclose()
    last = [await reader for reader in readers]

    assert last == 3 * [STOPPED]
    assert ends["none"] == begun
    assert ends["short"] - begun == pytest.approx(1.525, abs=0.03)
    assert ends["long"] - begun == pytest.approx(6.525, abs=0.03)


@virtual
async def test_a_second_stop_waits_for_the_first():
    """Battery 30: stopping again returns when the first stop is done; adapters are closed once."""
    adapter = Words(words=4)
    host = host_of(adapter)
    stream = await host.submit("pool", task())
    first = asyncio.create_task(host.aclose())
    reader = asyncio.create_task(drained(stream))
    await asyncio.sleep(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await host.aclose(drain=0)
    assert not first.done()
    await host.aclose(drain=0)

    assert (adapter.freed, adapter.closed) == (1, 1)
    assert await reader == [STARTED, *(Token(f"{i} ", i) for i in range(4)), end(4)]
    await first
    await host.aclose()
    assert adapter.closed == 1


@virtual
async def test_a_stop_that_is_given_up_and_asked_for_again():
    """Battery 30: a stop that is given up while it closes goes on, and another one waits for it."""

    class Slow(Words):
        async def aclose(self) -> None:
            await asyncio.sleep(1)
            await super().aclose()

    adapter = Slow()
    host = host_of(adapter)
    stopping = asyncio.create_task(host.aclose(drain=0))
    for _ in range(2):
        await asyncio.sleep(0.2)
        stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert adapter.closed == 0
    await host.aclose()

    assert (adapter.closed, now()) == (1, moment(1))


@virtual
async def test_a_stop_that_is_given_up():
    """Battery 30: whoever cancels a host's draining still finds its streams ended and its adapters closed."""
    adapter = Words(words=99)
    host = host_of(adapter)
    stream = await host.submit("pool", task())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await host.aclose()

    assert now() == moment(3)
    assert await told_by(stream) == [STOPPED]
    assert (adapter.freed, adapter.closed) == (1, 1)


@virtual
async def test_an_adapter_is_closed_after_its_last_stream():
    """Battery 30: an adapter is closed when none of its streams is open, not even one that ended but is still held."""

    class Ordered(Words):
        left_open = -1

        async def aclose(self) -> None:
            self.left_open = self.begun - self.freed
            await super().aclose()

    adapter = Ordered(words=1)
    async with host_of(adapter) as host:
        held = await host.submit("pool", task())
        last = [await anext(held) for _ in range(3)][-1]
        dropped = await host.submit("pool", task())
        await host.cancel("pool", dropped.task_id)

    assert last == end(1)
    assert adapter.left_open == 0
    assert adapter.freed == 2
    assert await drained(held) == []


@virtual
async def test_adapters_that_do_not_close(caplog: pytest.LogCaptureFixture):
    """Battery 30: closing adapters takes as long as the slowest, up to the limit; what they raise is logged."""

    class Stuck(Words):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    class Broken(Words):
        async def aclose(self) -> None:
            raise OSError("secret")

    good = Words()
    async with host_of(Stuck(), Broken(), Stuck(), good):
        pass

    assert now() == moment(FAREWELL_LIMIT)
    assert good.closed == 1
    assert sorted(caplog.messages) == [
        "pool/0 has a fault in its adapter, in closing the adapter: TimeoutError · report it to its author",
        "pool/1 has a fault in its adapter, in closing the adapter: OSError · report it to its author",
        "pool/2 has a fault in its adapter, in closing the adapter: TimeoutError · report it to its author",
    ]


@pytest.mark.parametrize("drain", [None, 0, 1])
@virtual
async def test_shutdown_with_500_streams(drain: float | None, caplog: pytest.LogCaptureFixture):
    """Battery 30: a stop with 500 streams of every habit takes up to drain + 3 s; each ends once, no task is left."""
    adapters = [
        Words(words=99),
        Words(words=3),
        Swallowing(words=99),
        Clinging(words=99),
        Scripted(STARTED, Token("a", 0), 99),
    ]
    limits = Timeouts(drain=2)
    host = host_of(*adapters, timeouts=limits)

    async def read(i: int) -> list[TokenEvent | str]:
        stream = await host.submit("pool", task(replica_id=str(i % 5)))
        events = await told_by(stream)
        assert await drained(stream) == []
        return events

    bindings = host._registry.all()
    readers = [asyncio.create_task(read(i)) for i in range(500)]
    await asyncio.sleep(1.5)
    begun = now()
    await host.aclose(drain)
    took = now() - begun
    endings = [[event for event in await reader if isinstance(event, End | str)] for reader in readers]

    assert took <= (limits.drain if drain is None else drain) + 3
    assert [len(ends) for ends in endings] == 500 * [1]
    assert {end if isinstance(end, str) else end.finish_reason for (end,) in endings} <= {STOPPED, "stop"}
    assert [adapter.closed for adapter in adapters] == 5 * [1]
    assert [adapter.begun for adapter in adapters] == 5 * [100]
    assert all(not binding.leases for binding in bindings)
    assert all(reader.cancelling() == 0 for reader in readers)


@virtual
async def test_shutdown_does_not_wait_for_the_deaf():
    """Battery 30: an adapter that no cancellation moves is left behind after the limit, and the host is closed."""
    adapter = Clinging(words=1, pause=None, deaf=3)
    host = host_of(adapter)
    stream = await host.submit("pool", task())
    (binding,) = host._registry.all()
    await host.aclose(drain=0)

    assert now() == moment(STOP_LIMIT)
    assert adapter.closed == 1
    assert await told_by(stream) == [STOPPED]
    (flight,) = binding.leases
    while flight._waiting is not None:  # so that the test leaves nothing
        flight._insist(flight._waiting)
        await asyncio.sleep(0.1)


@virtual
async def test_a_stopped_host_takes_nothing_more():
    """Battery 30: once it stops, a host neither binds nor asks: both would reach for what it has let go of."""
    host = host_of(Words())
    await host.aclose()

    with pytest.raises(PoolUnavailable) as refused:
        host.bind("pool", "words", {}, replica_id="late")
    for ask in (host.health, host.props):
        with pytest.raises(PoolUnavailable) as asked:
            await ask("pool")
        assert (refused.value.detail, asked.value.detail) == ("draining", "draining")


@virtual
async def test_stopping_is_told_before_it_begins():
    """Battery 30: that a host stops, and with how many streams, is told first, also where tasks start eagerly."""
    told: list[HostEvent] = []
    async with host_of(Words()) as host:
        stream = await host.submit("pool", task())
        host.observe(told.append)
        asyncio.get_running_loop().set_task_factory(eager)
        await host.aclose(drain=0)
        asyncio.get_running_loop().set_task_factory(None)
        with pytest.raises(WorkerReset):
            await drained(stream)

    assert [type(event) for event in told] == [
        HostStopping,
        ReplicaDraining,
        TaskEnded,
        ReplicaDrained,
        ReplicaUnbound,
        HostStopped,
    ]
    assert told[0].flights == 1


@virtual
async def test_a_host_is_closed_once_by_who_is_told_of_it():
    """Battery 30: an observer that closes the host as it hears of the stop waits for it, also in an eager task."""
    adapter = Words()
    told: list[type[HostEvent]] = []
    closing: list[asyncio.Task[None]] = []
    async with host_of(adapter) as host:

        def close(event: HostEvent) -> None:
            told.append(type(event))
            if isinstance(event, HostStopping):
                closing.append(asyncio.get_running_loop().create_task(host.aclose(drain=0)))

        host.observe(close)
        asyncio.get_running_loop().set_task_factory(eager)
        await host.aclose(drain=0)
        asyncio.get_running_loop().set_task_factory(None)
        await asyncio.wait(closing)

    assert told == [HostStopping, ReplicaDraining, ReplicaDrained, ReplicaUnbound, HostStopped]
    assert (len(closing), adapter.closed) == (1, 1)
