"""The battery's spans at their exact bars: `python -m benchmarks._latencies [quick]`, from the project's root.

What is measured is what the tests measure (`tests/latencies.py`), which hold it to ten times the bars. Printed is, as
JSON, a list of what, unit, figure and bar; the first one, without a bar, is how late this machine wakes who sleeps.
"""

import asyncio
import gc
import json
import random
import sys
import time

from tests.fleet import quantile
from tests.latencies import cancels, crowded, dropped, many_descriptors, stopped

Line = tuple[str, str, float, float | None]

MS = 1000
DIALECT = "llamacpp"


async def main(*, quick: bool) -> list[Line]:
    """Measure."""
    chance = random.Random()
    late_wakes = [await woken_late() for _ in range(500)]
    _, cancelled, late = await cancels(DIALECT, 1000 if quick else 10_000, chance)
    freed, _ = await dropped(DIALECT, 200 if quick else 1000, chance)
    _, asked, told, _ = await crowded(DIALECT, 1000, 50)
    in_flight, grown, usual, now, _ = await stopped(DIALECT, 100, 100 if quick else 1000)
    return [
        ("the machine, who sleeps is woken late, p99", "ms", MS * quantile(late_wakes, 0.99), None),
        ("cancel_latency (9), p99", "ms", MS * quantile(cancelled, 0.99), 5),
        ("cancel_latency (9), longest", "ms", MS * max(cancelled), 250),
        ("cancel_latency (9), after the answer", "tokens", late, 0),
        ("dropped_iterator (12), longest", "ms", MS * max(freed), 100),
        ("pool_starvation (27), health, longest", "ms", MS * max(asked), 20),
        ("pool_starvation (27), cancel, longest", "ms", MS * max(told), 20),
        ("slow_consumer (28), most in flight", "MB", max(in_flight) / 1e6, 1),
        ("slow_consumer (28), memory", "MB", grown / 1e6, 64),
        ("slow_consumer (28), the others' p99, more", "ms", MS * (now - usual), 5),
    ]


async def woken_late() -> float:
    """Seconds that a short sleep takes too long where nothing else is to be done."""
    began = time.monotonic()
    await asyncio.sleep(0.002)
    return time.monotonic() - began - 0.002


if __name__ == "__main__":
    gc.freeze()  # what the test tools are made of, of which an orchestrator has nothing to collect
    with many_descriptors():
        sys.stdout.write(json.dumps(asyncio.run(main(quick="quick" in sys.argv))))
