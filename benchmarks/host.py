"""What the host adds to an adapter that is used directly, printed against its budgets: run by `run.py host [quick]`.

Budgets (performance.md §2): 25 µs a call and 0.5 µs a token; flat, give or take a fifth, from 1 to 1,000 replicas and
from 100 to 5,000 streams. The first row, the adapter alone, tells how fast the machine is by which to read them. Per
call and per token is the slope of two answers' lengths. How the streams' number tells is shown as a ratio, host and
adapter against the adapter alone at the same number: both touch more memory then.

Last come the spans of the battery (9, 12, 27, 28) beside their exact bars, in wall time; their ratio is to the bar.
Where the machine wakes who sleeps too late for that, what is over its bar is "too busy".
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import run

SHORT, LONG = 1, 257
"""Tokens of the two answers."""

LATE = 1.0
"""Milliseconds that a machine may be late to wake who sleeps (p99); over that it is too busy for spans of 5 ms."""


class Added(NamedTuple):
    """Microseconds that each round cost a call: what the host added, and with what ratio to the adapter alone."""

    added: list[float]
    ratios: list[float]


def main(*, quick: bool) -> int:
    """Run, print, keep the result; 0 if every budget was kept."""
    rounds = 5 if quick else 15
    rows = [*calls_and_tokens(rounds), *replicas(rounds), *streams(3 if quick else 7), *spans(quick=quick)]
    print(run.table(rows))
    run.RESULTS.mkdir(exist_ok=True)
    kept = run.RESULTS / f"host{'-quick' if quick else ''}.json"
    made = {"made": time.strftime("%Y-%m-%d"), **run.versions()}
    kept.write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n")
    return 0 if all(row["verdict"] in {"", "kept"} for row in rows) else 1


def calls_and_tokens(rounds: int) -> list[dict[str, Any]]:
    """What a call costs, and each token more."""
    [short] = hosted(1, calls=500, tokens=SHORT, rounds=rounds)
    [long] = hosted(1, calls=40, tokens=LONG, rounds=rounds)
    call = statistics.median(short.added)
    tokens = [(each - call) / (LONG - SHORT) for each in long.added]
    alone = [added / (ratio - 1) for added, ratio in zip(short.added, short.ratios, strict=True)]
    return [
        run.row("the adapter alone", "a call", "µs/call", alone, ratio=1.0, budget=None),
        figure("a call", "µs/call", short.added, 25.0),
        figure("a token", "µs/token", tokens, 0.5),
    ]


def replicas(rounds: int) -> list[dict[str, Any]]:
    """The same with more and more replicas; 2 is the least that leaves a choice."""
    counts = (2, 10, 100, 1000)
    seen = [each.added for each in hosted(*counts, calls=500, tokens=SHORT, rounds=rounds)]
    return [
        run.row(
            "a call, by replicas",
            f"{count} replicas",
            "µs/call",
            figures,
            ratio=statistics.median(these / least for these, least in zip(figures, seen[0], strict=True)),
            budget=None if count == 2 else 1.2,
        )
        for count, figures in zip(counts, seen, strict=True)
    ]


def streams(rounds: int) -> list[dict[str, Any]]:
    """Answers of 65 tokens, more and more of them side by side, the same number in all: few would be told by chance."""
    seen = {count: hosted(1, calls=5000, tokens=65, rounds=rounds, streams=count)[0] for count in (100, 1000, 5000)}
    least = statistics.median(seen[100].ratios)
    return [
        run.row(
            "65 tokens, by streams",
            f"{count} streams",
            "µs/call",
            each.added,
            ratio=statistics.median(each.ratios) / least,
            budget=None if count == 100 else 1.2,
        )
        for count, each in seen.items()
    ]


def spans(*, quick: bool) -> list[dict[str, Any]]:
    """How soon an engine and a caller learn of things, on real sockets; the ratio is to the bar."""
    command = [sys.executable, "-m", "benchmarks._latencies", *(["quick"] if quick else [])]
    told = json.loads(run.output(command, cwd=Path(__file__).parent.parent))
    busy = told[0][2] > LATE
    return [span(*line, busy=busy) for line in told]


def span(what: str, unit: str, seen: float, bar: float | None, *, busy: bool) -> dict[str, Any]:
    """A row of one figure with its bar. What is over on a busy machine tells of that."""
    kept = bar is None or seen <= bar
    return {
        "contest": "battery",
        "client": what if bar is None else f"{what} ≤ {bar:g}",
        "unit": unit,
        "median": round(seen, 2),
        "spread": 0.0,
        "ratio": round(seen / bar, 2) if bar else 0.0,
        "budget": 1.0 if bar else bar,
        "verdict": "" if bar is None else "kept" if kept else "too busy" if busy else "over",
    }


def figure(what: str, unit: str, figures: list[float], budget: float) -> dict[str, Any]:
    """A row whose budget is the figure itself."""
    line = run.row("what the host adds", what, unit, figures, ratio=statistics.median(figures), budget=budget)
    return {**line, "median": round(statistics.median(figures), 3)}


def hosted(*replicas: int, calls: int, tokens: int, rounds: int, streams: int = 1) -> list[Added]:
    """A process of its own that takes turns between host and adapter, and between these numbers of replicas."""
    command = [sys.executable, "-P", Path(__file__).parent / "_hosted.py"]
    counts = ",".join(map(str, replicas))
    told = json.loads(run.output([*command, *map(str, (calls, tokens, counts, streams, rounds))]))
    return [Added(*each) for each in told]
