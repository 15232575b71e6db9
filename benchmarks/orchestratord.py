"""What orchestratord adds to a host, and what its clients can make it hold: run by `run.py orchestratord [quick]`.

Streams of 30 tokens a second, one by one and in bursts: the process with the host alone, then with orchestratord
before it, then with orchestratord that writes in batches, by turns. CPU time is of that process while all its streams
run; a delay is from when a token was due to its arrival, in the process of the clients where there are any. A turn in
which one of them does not keep the pace is taken again; where that does not help, the machine is too busy, and the
verdict says so.

Slow clients take nothing: the engines have to stop, memory with them. Then each takes a little, and all leave.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import run

RATE = 30.0
PACE = 0.03
"""How far from the tokens asked for, as a share of them, a turn may be that counts."""

BURST = 8
"""Tokens that an engine says at once, where it speaks in bursts."""

DELAY = 25.0
"""Milliseconds that a token may take at the 99th percentile, from an engine to its client."""

HELD = 96
"""KiB that a slow client may make the process hold: orchestratord's own bound is 32, small pieces weigh more."""

KIB = 1024
STILL = 5
"""Looks, half a second apart, that have to show the same before nothing more is taken to come."""

LITTLE = 64 * KIB
"""What a slow client takes, when it takes any: less than the system keeps for it would not be noticed."""

WHO = {"host": "the host alone", "orchestratord": "orchestratord", "batched": "orchestratord, batch=true"}


class Turn(NamedTuple):
    """What one process came to: µs of CPU a token, share of the pace, delays in ms, KiB of memory a stream."""

    cost: float
    pace: float
    median: float
    p99: float
    memory: float


Turns = list[dict[str, Turn]]
"""By who had them."""


class Talk:
    """A process of ours that answers each line by a JSON document."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.hello = self._heard()

    def ask(self, words: str) -> dict[str, Any]:
        """Its answer to a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended; what it said stands above")
        told: dict[str, Any] = json.loads(line)
        return told


@contextmanager
def talking(script: str, *arguments: object) -> Iterator[Talk]:
    """Start a script of this folder; it ends with the block."""
    command = [sys.executable, "-P", str(Path(__file__).parent / script), *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Talk(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)
        finally:
            process.kill()


def main(*, quick: bool) -> int:
    """Run, print, keep the result; 0 if every budget was kept."""
    streams, turns, seconds = (200, 3, 3.0) if quick else (1000, 5, 5.0)
    rows = [
        *paced(streams, turns, seconds),
        *paced(streams, turns, seconds, BURST),
        *slow(room_for(500 if quick else 5000)),
    ]
    print(run.table(rows))
    run.RESULTS.mkdir(exist_ok=True)
    kept = run.RESULTS / f"orchestratord{'-quick' if quick else ''}.json"
    made = {"made": time.strftime("%Y-%m-%d"), **run.versions("llama-orch-orchestratord")}
    kept.write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n")
    return 0 if all(row["verdict"] in {"", "kept"} for row in rows) else 1


# --- paced


def paced(streams: int, turns: int, seconds: float, burst: int = 1) -> Iterator[dict[str, Any]]:
    """A row for what each of them costs a token, what is added, how late tokens are, and what a stream weighs."""
    taken = [{who: turn_of(who, streams, seconds, burst) for who in WHO} for _ in range(turns)]
    for _ in range(turns):
        worst = max(taken, key=strayed)
        if strayed(worst) > PACE:
            taken.remove(worst)
            taken.append({who: turn_of(who, streams, seconds, burst) for who in WHO})
    busy = any(strayed(turn) > PACE for turn in taken)
    contest = f"{streams} streams of {RATE:g} tokens/s" + (f", {burst} at once" if burst > 1 else "")
    for who in WHO:
        yield figure(contest, who, "µs/token", taken, lambda turn: turn.cost)
    for who in ("orchestratord", "batched"):
        added = [turn[who].cost - turn["host"].cost for turn in taken]
        yield run.row(contest, f"{WHO[who]}: added", "µs/token", added, ratio=statistics.median(added), budget=None)
    for who in WHO:
        yield figure(f"{contest}, delay", who, "ms, median", taken, lambda turn: turn.median)
    for who in WHO:
        row = figure(f"{contest}, delay", who, "ms, p99", taken, lambda turn: turn.p99)
        yield row if who != "orchestratord" or burst > 1 else judged(row, row["median"], DELAY, busy=busy)
    for who in WHO:
        yield figure(f"{contest}, memory", who, "KiB/stream", taken, lambda turn: turn.memory)
    for who in WHO:
        yield figure(f"{contest}, pace", who, "of it", taken, lambda turn: turn.pace)


def strayed(turn: dict[str, Turn]) -> float:
    """How far from the pace the one was that kept it worst."""
    return max(abs(each.pace - 1.0) for each in turn.values())


def figure(contest: str, who: str, unit: str, taken: Turns, of: Callable[[Turn], float]) -> dict[str, Any]:
    """A row with its ratio to the host alone."""
    figures = [of(turn[who]) for turn in taken]
    ratio = statistics.median(of(turn[who]) / of(turn["host"]) for turn in taken)
    return run.row(contest, WHO[who], unit, figures, ratio=ratio, budget=None)


def judged(row: dict[str, Any], value: float, budget: float, *, busy: bool = False) -> dict[str, Any]:
    """The row with a budget for its figure."""
    verdict = "too busy" if busy else "kept" if value <= budget else "over"
    return {**row, "budget": budget, "verdict": verdict}


def turn_of(who: str, streams: int, seconds: float, burst: int) -> Turn:
    """Let so many streams run, and look at the process twice."""
    options = {"rate": RATE, "streams": streams, "burst": burst}
    kind = "host" if who == "host" else "orchestratord"
    with talking("_orchestrated.py", kind, json.dumps(options)) as process:
        if who == "host":
            return _window(process, process, streams, seconds)
        query = "?batch=true" if who == "batched" else ""
        clients = {"streams": streams, "query": query}
        with talking("_sse_readers.py", process.hello["port"], json.dumps(clients)) as readers:
            return _window(process, readers, streams, seconds)


def _window(process: Talk, readers: Talk, streams: int, seconds: float) -> Turn:
    time.sleep(1.0)  # all of them run
    readers.ask("look")
    before = process.ask("look")
    time.sleep(seconds)
    after = process.ask("look")
    delays = sorted(after["delays"] if process is readers else readers.ask("look")["delays"])
    tokens = after["tokens"] - before["tokens"]
    return Turn(
        cost=(after["cpu"] - before["cpu"]) / tokens * 1e6,
        pace=tokens / (streams * RATE * (after["moment"] - before["moment"])),
        median=delays[len(delays) // 2] / 1e6,
        p99=delays[len(delays) * 99 // 100] / 1e6,
        memory=(after["rss"] - process.hello["base"]["rss"]) / streams / KIB,
    )


# --- slow


def room_for(clients: int) -> int:
    """As many as the system lets a process have descriptors for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = min(clients, most - 100)
    if room < clients:
        print(f"{clients} slow clients take {clients + 100} descriptors, and {most} are allowed: {room} are tried")
    return room


def slow(clients: int) -> Iterator[dict[str, Any]]:
    """What clients that take nothing make the process hold, and what becomes of it when they take a little and go."""
    contest = f"{clients} slow clients"
    began = time.monotonic()
    with talking("_orchestrated.py", "orchestratord", json.dumps({"width": 200})) as process:
        options = json.dumps({"streams": clients, "slow": True})
        with talking("_sse_readers.py", process.hello["port"], options) as readers:
            silent = process.ask("look")
            print(f"{clients} slow clients connected within {time.monotonic() - began:.0f} s", file=sys.stderr)
            process.ask("go")
            full = settled(process)
            readers.ask(f"take {LITTLE}")
            more = settled(process)
            readers.ask("leave")
            left = settled(process, live=0)
    base = process.hello["base"]["rss"]
    yield one(contest, "connected, before any token", "KiB/client", (silent["rss"] - base) / clients / KIB)
    held = (full["rss"] - base) / clients / KIB
    yield judged(one(contest, "that take nothing, all engines held back", "KiB/client", held), held, HELD)
    yield one(contest, "tokens that an engine is ahead", "tokens", full["tokens"] / clients)
    held = (more["rss"] - base) / clients / KIB
    row = one(contest, f"after each took {LITTLE // KIB} KiB, all held back again", "KiB/client", held)
    yield judged(row, held, HELD)
    yield one(contest, "tokens that each engine gave for that", "tokens", (more["tokens"] - full["tokens"]) / clients)
    row = one(contest, "engines that are not free 60 s after all left", "engines", float(left["live"]))
    yield judged(row, left["live"], 0)


def one(contest: str, what: str, unit: str, value: float) -> dict[str, Any]:
    """A row of one figure."""
    return run.row(contest, what, unit, [value] * 3, ratio=value, budget=None)


def settled(process: Talk, live: int | None = None, within: float = 120.0) -> dict[str, Any]:
    """What it holds when no more tokens come, or, with `live`, when so many streams run; or after so many seconds."""
    until = time.monotonic() + (within if live is None else 60.0)
    looks = [process.ask("look")]
    while time.monotonic() < until and looks[-1]["live"] != live:
        time.sleep(0.5)
        looks.append(process.ask("look"))
        if live is None and len({each["tokens"] for each in looks[-STILL:]}) == 1 and len(looks) >= STILL:
            return looks[-1]
    if live is None:
        raise RuntimeError(f"engines are not held back: {looks[-1]['tokens']} tokens, and more come")
    return looks[-1]
