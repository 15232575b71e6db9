"""Runs a suite of benchmarks and prints each budget with its verdict: `python run.py SUITE [quick]`.

SUITE is http-util, http2, host or orchestratord.

Every figure is CPU time of the client's process, and every verdict a ratio to raw aiohttp in the same run: the clients
take turns, so that a machine that others use slows all of them alike. Shown are medians; the spread is the distance
between the quartiles, as a share of the median.

Paced streams are measured while all of them run, from the last one's first event to the first one's end, every client
alike: connecting is no part of their pace. On a busy machine events pile up and come several to a read, which is
cheaper for every client and not what is asked: such a turn is taken again, and where that does not help, the verdict
says so.
"""

import importlib.metadata
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
RESULTS = HERE / "results"


EVENTS_A_READ = 1.1
"""How many a paced client may find in a read, on average over a turn that counts."""


class Contest(NamedTuple):
    """Clients that do the same work. `per` is how many units of it a round holds; the first one is the measure."""

    name: str
    clients: tuple[str, ...]
    options: dict[str, object]
    per: int
    unit: str
    budgets: dict[str, float]


class Turn(NamedTuple):
    """What a unit cost each client, in microseconds, and the most events a read that one of them saw (paced alone)."""

    costs: dict[str, float]
    events_a_read: float


def contests(*, quick: bool) -> list[Contest]:
    """What is measured for http-util (performance.md §2: the ratios are its budgets)."""
    rounds = 10 if quick else 30
    paced = 100 if quick else 1000
    return [
        Contest(
            "backlog: 32 streams of 256 events",
            ("raw_streams", "typed_streams", "token_streams"),
            {"count": 32, "path": "/stream?events=256", "rounds": rounds, "warm_up": 3},
            32 * 257 * rounds,
            "event",
            {"typed_streams": 1.5},
        ),
        Contest(
            f"paced: {paced} streams of 30 events/s",
            ("raw_streams", "typed_streams"),
            {"count": paced, "path": "/stream?events=150&rate=30", "steady": True, "warm_up": 0},
            paced * 151,
            "event",
            {"typed_streams": 1.1},
        ),
        Contest(
            "short requests, one after the other",
            ("raw_short", "typed_short"),
            {"count": 300, "rounds": rounds, "warm_up": 1},
            300 * rounds,
            "request",
            {"typed_short": 1.2},
        ),
    ]


def main(words: list[str]) -> int:
    """Run, print, keep the result; 0 if every budget was kept."""
    quick = "quick" in words
    if "http2" in words:
        import http2  # noqa: PLC0415  # it needs a proxy, and what makes certificates

        return http2.main(quick=quick)
    if "host" in words:
        import host  # noqa: PLC0415  # it needs the host, which the others do without

        return host.main(quick=quick)
    if "orchestratord" in words:
        import orchestratord  # noqa: PLC0415  # it needs orchestratord

        return orchestratord.main(quick=quick)
    turns = 3 if quick else 7
    rows = [row for contest in contests(quick=quick) for row in measured(contest, turns)]
    rows += imports(turns)
    print(table(rows))
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / f"http-util{'-quick' if quick else ''}.json"
    kept.write_text(json.dumps({"made": time.strftime("%Y-%m-%d"), **versions(), "rows": rows}, indent=1) + "\n")
    return 0 if all(row["verdict"] in {"", "kept"} for row in rows) else 1


def measured(contest: Contest, turns: int) -> Iterator[dict[str, Any]]:
    """One row a client: microseconds a unit, spread, ratio, verdict."""
    with server() as url:
        taken = [turn_of(contest, url) for _ in range(turns)]
        for _ in range(turns):
            most = max(taken, key=lambda turn: turn.events_a_read)
            if most.events_a_read > EVENTS_A_READ:
                taken.remove(most)
                taken.append(turn_of(contest, url))
    busy = any(turn.events_a_read > EVENTS_A_READ for turn in taken)
    for client in contest.clients:
        figures = [turn.costs[client] for turn in taken]
        ratio = statistics.median(turn.costs[client] / turn.costs[contest.clients[0]] for turn in taken)
        line = row(contest.name, client, f"µs/{contest.unit}", figures, ratio=ratio, budget=contest.budgets.get(client))
        yield {**line, "verdict": "too busy"} if busy and line["verdict"] else line


def turn_of(contest: Contest, url: str) -> Turn:
    """Let each client do the work once."""
    told = {client: told_by(client, url, contest.options) for client in contest.clients}
    costs = {client: each["cpu"] / (each["share"] * contest.per) * 1e6 for client, each in told.items()}
    return Turn(costs, max(each["share"] * contest.per / each.get("reads", math.inf) for each in told.values()))


def imports(turns: int) -> Iterator[dict[str, Any]]:
    """CPU milliseconds of an import, against that of what it stands on."""
    what = {"aiohttp + msgspec": "import aiohttp, msgspec", "http-util": "import llama_orch_http_util"}
    seen: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(turns):
        for name, code in what.items():
            seen[name].append(import_cpu(code) * 1e3)
    for name, figures in seen.items():
        ratio = statistics.median(a / b for a, b in zip(figures, seen["aiohttp + msgspec"], strict=True))
        yield row("import", name, "ms", figures, ratio=ratio, budget=1.3 if name == "http-util" else None)


def row(
    contest: str, client: str, unit: str, figures: list[float], *, ratio: float, budget: float | None
) -> dict[str, Any]:
    """A line of the table."""
    quartiles = statistics.quantiles(figures, n=4) if len(figures) > 2 else [min(figures), 0, max(figures)]
    median = statistics.median(figures)
    verdict = "" if budget is None else "kept" if ratio <= budget else "over"
    return {
        "contest": contest,
        "client": client,
        "unit": unit,
        "median": round(median, 2),
        "spread": round((quartiles[2] - quartiles[0]) / median, 2) if median else 0.0,
        "ratio": round(ratio, 2),
        "budget": budget,
        "verdict": verdict,
    }


@contextmanager
def server() -> Iterator[str]:
    """The far end in a process of its own; gives its URL."""
    command = [sys.executable, "-P", HERE / "_server.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


def told_by(client: str, url: str, options: dict[str, object]) -> dict[str, float]:
    """What a client tells of its work (`_clients.main`)."""
    command = [sys.executable, "-P", HERE / "_clients.py", client, url, json.dumps(options)]
    told: dict[str, float] = json.loads(output(command))
    return told


def import_cpu(code: str) -> float:
    """CPU seconds that an import took in a fresh process, less that process itself."""
    timed = "import time; began = time.process_time(); {}; print(time.process_time() - began)"
    return float(output([sys.executable, "-P", "-c", timed.format(code)]))


def output(command: list[Any], cwd: Path | None = None) -> str:
    """What a process printed; its failure is ours."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600, cwd=cwd).stdout


def versions(*more: str) -> dict[str, str]:
    """What the figures depend on."""
    names = ("aiohttp", "msgspec", "llama-orch-http-util", *more)
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for people."""
    show: dict[str, Callable[[dict[str, Any]], str]] = {
        "what": lambda r: f"{r['contest']} · {r['client']}",
        "median": lambda r: f"{r['median']:.2f} {r['unit']}",
        "spread": lambda r: f"±{r['spread'] / 2:.0%}",
        "ratio": lambda r: f"{r['ratio']:.2f}",
        "budget": lambda r: "" if r["budget"] is None else f"≤ {r['budget']:.2f}",
        "verdict": lambda r: r["verdict"],
    }
    lines = [list(show), *([cell(r) for cell in show.values()] for r in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(show))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
