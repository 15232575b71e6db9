"""A fake engine as a process: `python -m llama_orch_adapter_testkit '{"dialect": "vllm"}'`.

It writes its URL as JSON to stdout, then a report for each line that comes on stdin, and ends when that ends.
"""

import asyncio
import gc
import json
import resource
import sys
from contextlib import suppress
from typing import Any

from ._engine import LoopbackEngine
from ._fake import Behaviour, FakeEngine, Generation


async def serve(options: dict[str, Any]) -> None:
    """Serve until stdin ends."""
    behaviour = Behaviour.of(options)
    fake = FakeEngine(behaviour)
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with LoopbackEngine(
        fake, idle=behaviour.idle, send_buffer=behaviour.send_buffer, port=behaviour.port
    ) as engine:
        _say({"url": engine.url})
        while await lines.readline():
            _say(_report(engine, fake))


def _report(engine: LoopbackEngine, fake: FakeEngine) -> dict[str, Any]:
    """What was seen; what has ended is forgotten."""
    ended = [each for each in fake.generations if each.ended is not None]
    fake.generations = [each for each in fake.generations if each.ended is None]
    engine.requests.clear()
    return {
        "live": [_seen(each) for each in fake.generations],
        "ended": [_seen(each) for each in ended],
        "connections": engine.open_connections,
        "connections_made": engine.connections_made,
        "refused": fake.refused,
        "resets_of_reused": fake.resets_of_reused,
        "failures": [repr(failure) for failure in engine.failures],
    }


def _seen(generation: Generation) -> list[Any]:
    request = generation.request
    return [generation.subject, generation.tokens, request.sent, generation.began, generation.ended, generation.ending]


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(700, 10, 1000)  # else it stands still for 35 ms amid 1,000 streams, as a slow client would
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(json.loads(sys.argv[1])))
