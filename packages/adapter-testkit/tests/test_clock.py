import asyncio
import socket
import threading
import time

import pytest
from llama_orch_adapter_testkit import LoopbackEngine, Reply, VirtualClockLoop, run_virtual


def test_an_hour_passes_at_once():
    """Sleeping moves the loop's time by what was asked for, and takes no real time."""

    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    begun = time.monotonic()
    now = run_virtual(main())

    assert now == 3600
    assert time.monotonic() - begun < 1


def test_timers_fire_in_order_and_on_time():
    """Timers fire by their moment, not by the order in which they were set, each at exactly its moment."""

    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[str, float]] = []
        for name, delay in (("late", 30.0), ("soon", 0.25), ("never", 99.0), ("then", 7.5), ("soon too", 0.25)):
            timer = loop.call_later(delay, lambda name=name: fired.append((name, loop.time())))
            if name == "never":
                timer.cancel()
        await asyncio.sleep(200)
        return fired

    assert run_virtual(main()) == [("soon", 0.25), ("soon too", 0.25), ("then", 7.5), ("late", 30.0)]


def test_the_clock_stands_while_something_is_ready():
    """Turns of the loop that wait for no timer cost no virtual time."""

    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 0


def test_limits_are_exact():
    """A timeout ends what hangs at its very moment."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(86400 * 3 + 0.125):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 86400 * 3 + 0.125


def test_sockets_come_before_timers():
    """An answer that is on its way over a socket comes before a limit of 10 ms passes."""

    async def main() -> tuple[bytes, float]:
        async with (
            LoopbackEngine({("GET", "/"): Reply.json(200, "hello")}) as engine,
            asyncio.timeout(0.01),
        ):
            host, port = engine.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return answer, asyncio.get_running_loop().time()

    answer, now = run_virtual(main())

    assert answer.endswith(b'"hello"')
    assert now == 0


def test_bytes_from_elsewhere_have_a_moment_to_come():
    """What another thread sends at once comes before a timer, though no event loop sees it coming."""
    ours, theirs = socket.socketpair()

    def echo() -> None:
        while data := theirs.recv(1):
            theirs.send(data)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        in_time = 0
        for _ in range(20):
            begun = loop.time()
            timer = loop.call_later(1, lambda: None)
            await loop.sock_sendall(ours, b"x")
            await loop.sock_recv(ours, 1)
            in_time += loop.time() == begun
            timer.cancel()
        return in_time

    with ours, theirs:
        ours.setblocking(False)
        thread = threading.Thread(target=echo)
        thread.start()
        in_time = run_virtual(main())
        ours.shutdown(socket.SHUT_RDWR)
        thread.join()

    assert in_time > 10  # all of them, but for a machine that is busy elsewhere


def test_a_silent_socket_does_not_hold_the_clock():
    """With a connection open and nothing to read, an hour's limit passes at once."""

    async def main() -> float:
        async with LoopbackEngine({("GET", "/"): Reply.silence()}) as engine:
            host, port = engine.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3600):
                    await reader.read()
            writer.close()
            await writer.wait_closed()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 3600


def test_a_thread_at_work_holds_the_clock():
    """A limit does not pass while a thread computes, however short it is, and the thread is joined at the end."""

    async def main() -> tuple[int, float]:
        async with asyncio.timeout(0.001):
            total = await asyncio.to_thread(sum, range(1_000_000))
        return total, asyncio.get_running_loop().time()

    result = run_virtual(main())

    assert result == (499_999_500_000, 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio")]


def test_the_loop_is_closed_afterwards():
    """`run_virtual` closes its loop and brings out what the coroutine raises."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        raise LookupError("from inside")

    with pytest.raises(LookupError, match="from inside"):
        run_virtual(main())

    assert isinstance(loops[0], VirtualClockLoop)
    assert loops[0].is_closed()
