"""Simulates fleets: `nox -s simulate -- --seeds 5 --hours 24`, or replays flight records of a real one."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from llama_orch_adapter_testkit import run_virtual

from .day import Day
from .replay import read_records, replayed


def main() -> int:
    """Print one JSON document a day, or one for the replay; 1 where a rule was broken."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seeds", type=int, default=1, help="how many days, of seeds in a row (1)")
    parser.add_argument("--hours", type=float, default=24.0, help="hours of each day (24)")
    parser.add_argument("--replicas", type=int, default=6, help="engines, beside two to fall back on (6)")
    parser.add_argument("--records", type=Path, help="replay these flight records: JSON, one a line")
    parser.add_argument("--attempts", type=int, default=3, help="of the replay's retry policy (3)")
    options = parser.parse_args()
    if options.records is not None:
        print(json.dumps(run_virtual(replayed(read_records(options.records), options.attempts)), indent=1))
        return 0
    broken = 0
    for seed in range(options.seed, options.seed + options.seeds):
        report = run_virtual(Day(seed, options.hours, options.replicas).run())
        print(json.dumps(asdict(report)))
        broken += len(report.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
