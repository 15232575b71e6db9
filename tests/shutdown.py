"""Stops a host under 500 streams and tells what came of it, as JSON: `python -X dev -W error -m tests.shutdown`."""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

from llama_orch_adapter_api import Timeouts
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_testkit import Behaviour, EngineProcess

from .fleet import Life, back_to, census, task

STREAMS = 500
SHORT = 20
DRAIN = 0.5
AT_ONCE = 100
PATIENT = Timeouts(connect=20.0)
"""In development mode 500 connections at once take this loop seconds."""


async def stop_under_streams() -> dict[str, Any]:
    """A few streams end by themselves while the host drains; the others never would."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    before = census()
    behaviours = [
        Behaviour(dialect="llamacpp", slots=STREAMS + SHORT),
        Behaviour(dialect="vllm", slots=STREAMS + SHORT),
    ]
    engines = [EngineProcess(behaviour) for behaviour in behaviours]
    await asyncio.gather(*(engine.__aenter__() for engine in engines))
    async with AdapterHost() as host:
        for engine in engines:
            dialect = engine.behaviour.dialect
            host.bind("chat", dialect, {"url": engine.url}, replica_id=dialect, timeouts=PATIENT)
        lives = [Life(task(f"long-{number}", pace=0.2)) for number in range(STREAMS)]
        lives += [Life(task(f"short-{number}", max_tokens=3, pace=0.1)) for number in range(SHORT)]
        running = []
        for number, life in enumerate(lives):
            running.append(asyncio.create_task(life.live(host)))
            while sum(not each.tokens and not each.error for each in lives[: number + 1]) >= AT_ONCE:
                await asyncio.sleep(0.01)
        while not all(life.tokens or life.error for life in lives):
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await host.aclose(drain=DRAIN)
        took = time.monotonic() - began
        await host.aclose()
        await asyncio.gather(*running)
    reports = [await engine.report() for engine in engines]
    await asyncio.gather(*(engine.kill() for engine in engines))
    return {
        "took": took,
        "names": Counter(life.name for life in lives),
        "endings": Counter(life.endings for life in lives),
        "torn": sum(not life.is_whole() for life in lives),
        "still_live": sum(len(report.live) for report in reports),
        "left_open": [now - then for now, then in zip(await back_to(before), before, strict=True)],
        "complaints": complaints,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(stop_under_streams())))
