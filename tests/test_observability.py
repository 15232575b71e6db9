"""The page on observability says what there is."""

import re
from pathlib import Path
from typing import get_args

from llama_orch_adapter_host.events import HostEvent
from llama_orch_adapter_host.observe import TAXONOMY, Metrics
from prometheus_client import CollectorRegistry

PAGE = (Path(__file__).parents[1] / "docs" / "observability.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, a row as its cells."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")][
        2:
    ]


def names(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def test_every_metric_is_on_the_page() -> None:
    """The page names each metric that Prometheus is told of, and its labels (ORCH-3604)."""
    told = {
        family.name + ("_total" if family.type == "counter" else ""): list(family._labelnames)  # type: ignore[attr-defined]
        for family in Metrics(CollectorRegistry()).describe()
    }
    page = {name: labels.split(", ") if labels else [] for cell, labels, _ in rows("Metrics") for name in names(cell)}

    assert page == told


def test_every_field_is_on_the_page() -> None:
    """The page names each field of the logs, in their order, and each action (ORCH-3604)."""
    table = rows("JSON logs")
    actions = next(names(words) for cell, words in table if names(cell) == ["action"])

    assert [name for cell, _ in table for name in names(cell)] == ["timestamp", "level", "logger", *TAXONOMY]
    assert actions == [kind.__struct_config__.tag for kind in get_args(HostEvent)]
