"""A long time of streams that are cancelled, reset, refused and cut: nothing hangs, nothing is left (case 9)."""

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from llama_orch_adapter_api import WorkerError
from llama_orch_adapter_testkit import Reply, cases, dice
from llama_orch_http_util import HttpClient, _session
from llama_orch_http_util._http2_pool import Http2Pool
from llama_orch_http_util._http2_wire import SHARED_WINDOW

from .http2_far_end import (  # type: ignore[import-not-found]  # test folders are no packages
    RAW,
    Far,
    FarEnd,
    pools,
    trusting,
    until,
)

DONE = "[DONE]"


def windows_of(pool: Http2Pool, far: FarEnd) -> set[int]:
    """What the peers may send by their own books, and what they will be allowed to; -1 for a peer that is not there."""
    peers = {each.transport.get_extra_info("peername"): each for each in far.live}
    windows = set()
    for connection in pool._connections:
        wire = connection._wire
        owed = wire._shared_owed + wire._direct_owed + wire._h2._inbound_flow_control_window_manager._bytes_processed
        peer = peers.get(connection._transport.get_extra_info("sockname"))
        windows.add(owed + peer.h2.outbound_flow_control_window if peer else -1)
    return windows


class Weather:
    """What happens to streams, by chance, at either end."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.endings: Counter[str] = Counter()

    def happens(self, probability: float) -> bool:
        return self._chance.random() < probability

    async def a_while(self, longest: float) -> None:
        await asyncio.sleep(self._chance.random() * longest)

    async def serve(self, stream: Far) -> None:
        """Refuse, end or cut the connection, reset in mid-stream, or answer."""
        if self.happens(0.03):
            stream.refuse(self._chance.choice([ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR]))
            return
        if self.happens(0.005):
            stream.connection.goaway(stream.number)
        if self.happens(0.002):
            stream.connection.transport.abort()
            return
        await self.a_while(0.01)
        stream.head()
        for number in range(self._chance.randint(0, 30)):
            await stream.send(b"data: %d%b\n\n" % (number, b" " * self._chance.choice([0, 100, 5000])))
            if self.happens(0.3):
                await self.a_while(0.003)
            if self.happens(0.002):
                stream.refuse(ErrorCodes.CANCEL)
                return
        await stream.send(b"data: [DONE]\n\n", end=True)

    async def read(self, client: HttpClient) -> str:
        """Read to the end, at any pace, or leave before it."""
        async with client.stream("/tasks", {"n": "x" * self._chance.choice([1, 30_000])}, RAW) as stream:
            async for _ in stream:
                if self.happens(0.02):
                    return "left"
                if self.happens(0.05):
                    await self.a_while(0.01)
            return stream.http_version

    async def one(self, client: HttpClient) -> str:
        """How one request ends; every tenth is cancelled."""
        reading = asyncio.create_task(self.read(client))
        if self.happens(0.1):
            await self.a_while(0.02)
            reading.cancel()
        try:
            return await reading
        except asyncio.CancelledError:
            return "cancelled"
        except WorkerError as error:
            return error.detail

    async def requests(self, client: HttpClient, total: int) -> None:
        """One after the other, until there were so many; each ends in 10 s, or hangs."""
        while self.endings.total() < total:
            async with asyncio.timeout(10):
                self.endings[await self.one(client)] += 1


@pytest.mark.nightly
@pytest.mark.timeout(7200 if os.environ.get("NIGHTLY") else 120)
@pytest.mark.parametrize("direct", [True, False])
async def test_soak(direct: bool, tmp_path: Path) -> None:
    """Case 9: after any number of cancels and resets 0 streams hang, 0 are left, windows and leases are back."""
    weather = Weather(dice())
    asyncio.get_running_loop().set_debug(False)  # which would make it ten times as long
    config = trusting(tmp_path, http2_cool_down=0.05, http2_direct_data=direct)
    total = cases(2000, nightly=200_000)
    async with (
        FarEnd(weather.serve, http1=lambda _: Reply.sse([DONE])) as far,
        HttpClient(far.url, config, narrate=lambda _: None) as client,
    ):
        await asyncio.gather(*(weather.requests(client, total) for _ in range(100)))
        await until(lambda: all(pool.open_streams == 0 for pool in pools()))
        await until(lambda: not far._tasks)

        (pool,) = pools()
        print(f"case 9: {weather.endings.total()} streams, {len(far.connections)} connections: {dict(weather.endings)}")
        assert {"2", "left", "cancelled", "truncated", "reset"} <= set(weather.endings)
        await until(lambda: len(far.live) <= config.http2_connections)
        await until(lambda: windows_of(pool, far) <= {SHARED_WINDOW})
        assert all(connection._wire._h2.open_outbound_streams == 0 for connection in pool._connections)
    assert list(_session._sessions.values()) == []
    await until(lambda: not far.live)
