import asyncio
import gc
import warnings

import pytest
from llama_orch_adapter_api import End, Metrics, PoolUnavailable, Token, WorkerReset
from llama_orch_adapter_host import Result, TokenStream

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Scripted,
    Words,
    drained,
    end,
    host_of,
    moment,
    now,
    task,
    virtual,
)
from .streams import turns  # type: ignore[import-not-found]  # as above

CANCELLED = End(None, None, "cancelled")


@virtual
async def test_a_stream_knows_its_task_and_replica():
    """A stream tells the id to cancel it by, and where it is served."""
    request = task(replica_id="1")
    async with host_of(Words(), Words()) as host, host.submit("pool", request) as stream:
        known = (stream.task_id, stream.replica)

    assert known == (request.task_id, "pool/1")


@virtual
async def test_a_stream_is_over_when_it_is_over():
    """After its last event a stream stops, again and again, and closing it changes nothing."""
    adapter = Words(words=1)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", task())
        events = await drained(stream)
        again = [await drained(stream), await drained(stream)]
        await stream.aclose()
        await stream.aclose()

    assert events == [STARTED, Token("0 ", 0), end(1)]
    assert again == [[], []]
    assert adapter.freed == 1


@virtual
async def test_collect_gives_the_whole():
    """`collect` joins content and reasoning, each in its order, with what the engine said first and last."""
    script = (
        STARTED,
        Token("think", 0, "reasoning"),
        Metrics(tokens_out=1),
        Token("an", 1),
        Token("{}", 2, "tool_call"),
        Token("ing", 3, "reasoning"),
        Token("swer", 4),
        end(5),
    )
    async with host_of(Scripted(*script)) as host:
        result = await (await host.submit("pool", task())).collect()

    assert result == Result("answer", "thinking", STARTED, end(5), result.record)


@virtual
async def test_collect_of_an_answer_without_tokens():
    """`collect` of what holds nothing but an end gives empty texts."""
    async with host_of(Scripted(STARTED, end(0))) as host:
        result = await (await host.submit("pool", task())).collect()

    assert result == Result("", "", STARTED, end(0), result.record)


@virtual
async def test_collect_raises_as_iteration_does():
    """`collect` of a stream that fails raises its WorkerError."""
    async with host_of(Scripted(STARTED, Token("a", 0), WorkerReset("gone", detail="reset"))) as host:
        with pytest.raises(WorkerReset, match="gone"):
            await (await host.submit("pool", task())).collect()


@virtual
async def test_collect_of_a_cancelled_task():
    """`collect` gives what was read before the cancel, ended by `End(cancelled)`."""
    async with host_of(Words(words=9)) as host:
        stream = await host.submit("pool", request := task())
        collecting = asyncio.create_task(stream.collect())
        await asyncio.sleep(1.5)
        await host.cancel("pool", request.task_id)
        result = await collecting

    assert result == Result("0 1 ", "", STARTED, CANCELLED, result.record)


@virtual
async def test_collect_of_a_stream_that_was_read_in_part():
    """`collect` after a pull would give an answer without its beginning, so it says so instead."""
    async with host_of(Words()) as host, host.submit("pool", task()) as stream:
        await anext(stream)
        with pytest.raises(RuntimeError, match="a part of this stream has been read already"):
            await stream.collect()

        assert stream.attempts == 1


@virtual
async def test_collect_of_a_stream_that_was_read():
    """`collect` on a stream that has nothing more to tell is a mistake, and says so."""
    async with host_of(Words(words=1, pause=None)) as host:
        stream = await host.submit("pool", task())
        await drained(stream)
        with pytest.raises(RuntimeError, match="has been read already"):
            await stream.collect()


@pytest.mark.parametrize("read", [0, 1, 2, 4])
@virtual
async def test_leaving_the_block_stops_the_engine(read: int):
    """Leaving `async with` after any number of events waits until the engine is free, and takes no time."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        async with host.submit("pool", task()) as stream:
            for _ in range(read):
                await anext(stream)
            at = now()
        left = now()

        assert adapter.freed == 1
        assert not host._registry.all()[0].leases

        rest = await drained(stream)

    assert left == at
    assert rest == [CANCELLED]


@virtual
async def test_an_error_leaves_the_block_too():
    """An exception inside `async with` stops the engine and passes unchanged."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        with pytest.raises(ZeroDivisionError):
            async with host.submit("pool", task()):
                raise ZeroDivisionError

        assert adapter.freed == 1


@virtual
async def test_a_stream_is_a_context_of_its_own():
    """A stream that was awaited may be entered later, and is closed on leaving."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", task())
        async with stream as same:
            await anext(same)

        assert adapter.freed == 1

    assert same is stream


@virtual
async def test_a_submission_that_fails_leaves_nothing_to_close():
    """`async with host.submit(…)` raises what `await` would, and has no stream to close then."""
    async with host_of(Words()) as host:
        submission = host.submit("nowhere", task())
        with pytest.raises(PoolUnavailable):
            async with submission:
                raise AssertionError("entered")
        await submission.__aexit__(None, None, None)


def test_a_submission_that_nobody_awaits_warns():
    """ORCH-3601: calling `submit` alone sends nothing, and warns when it is dropped, naming the pool and the task."""
    adapter, request = Words(), task()
    host = host_of(adapter)

    with pytest.warns(RuntimeWarning, match=rf"task {request.task_id} was never sent to pool 'pool'"):
        host.submit("pool", request)

    assert adapter.begun == 0


@pytest.mark.parametrize("awaited", [True, False])
@virtual
async def test_a_submission_that_was_begun_warns_of_nothing(awaited: bool):
    """ORCH-3601: one that was awaited or entered, were it refused, is dropped without a word."""
    async with host_of(Words()) as host:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            submission = host.submit("nowhere", task())
            with pytest.raises(PoolUnavailable):
                await (submission if awaited else submission.__aenter__())
            del submission
            gc.collect()


@virtual
async def test_breaking_out_of_the_loop_stops_the_engine():
    """`break` out of `async for` over a stream that nobody else holds frees the engine, without `aclose`."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        async for _ in await host.submit("pool", task()):
            break
        at = now()
        await asyncio.sleep(0.05)

        assert adapter.freed == 1
        assert not host._ledger.calls()

    assert now() == moment(at + 0.05)


@pytest.mark.parametrize("read", [0, 1, 2, 3])
@virtual
async def test_dropped_streams(read: int, caplog: pytest.LogCaptureFixture):
    """Battery 12: 1000 streams dropped without `aclose` free their engine at once each; the loop complains of none."""
    adapter = Words(words=9, pause=0.001)
    async with host_of(adapter) as host:
        for _ in range(1000):
            stream = await host.submit("pool", task())
            for _ in range(read):
                await anext(stream)
            del stream
            dropped = now()
            await turns(3)
            assert adapter.freed == adapter.begun

            assert now() == dropped

        assert not host._registry.all()[0].leases

    assert adapter.begun == 1000
    assert caplog.messages == []


@virtual
async def test_streams_dropped_all_at_once():
    """Battery 12: 1000 streams dropped together are closed within 100 ms."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        streams: list[TokenStream] = await asyncio.gather(*(host.submit("pool", task()) for _ in range(1000)))
        streams.clear()
        await asyncio.sleep(0.1)

        assert adapter.freed == 1000


def test_a_stream_that_outlives_its_loop():
    """A stream dropped after its loop was closed says nothing and does nothing."""

    async def main() -> TokenStream:
        return await host_of(Words(pause=None)).submit("pool", task())

    with asyncio.Runner() as runner:
        stream = runner.run(main())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del stream
        gc.collect()
