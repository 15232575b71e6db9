"""The certificate of an adapter: every check with its result, and the verdict over all."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

Status = Literal["passed", "failed", "skipped", "not_run"]
Verdict = Literal["passed", "failed", "incomplete"]

_SIGNS: dict[Status, str] = {"passed": "✓", "failed": "✗", "skipped": "-", "not_run": "?"}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How one check went. `reason` says why it failed or was skipped; `seconds` is how long it took."""

    id: str
    group: str
    rule: str
    status: Status
    reason: str = ""
    seconds: float = 0.0


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter was seen to do with a scripted engine.

    `distribution` and `version` are None where the adapter came from no installed package; `api` is the version of the
    boundary it was written for. `engine` and `engine_version` are those of the dialect that the engine spoke. `date` is
    UTC, ISO 8601. `facts` are measured and not judged. `verdict`: `incomplete` where a required check was not run.
    """

    adapter: str
    distribution: str | None
    version: str | None
    api: int
    engine: str
    engine_version: str
    python: str
    date: str
    verdict: Verdict
    checks: tuple[Result, ...]
    facts: dict[str, float] = {}

    def encoded(self) -> bytes:
        """As JSON for people and machines."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def row(self) -> str:
        """Its row in a table of adapters, in Markdown."""
        counted = {status: sum(one.status == status for one in self.checks) for status in _SIGNS}
        told = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counted.items() if count)
        cells = (self.adapter, self.version or "?", f"{self.engine} {self.engine_version}", self.verdict, told)
        return f"| {' | '.join(cells)} |"


def verdict_of(results: Iterable[Result]) -> Verdict:
    """Failed where any check failed; incomplete where a required one was not run or does not apply."""
    seen = tuple(results)
    if any(one.status == "failed" for one in seen):
        return "failed"
    if any(one.status != "passed" for one in seen if one.group == "required"):
        return "incomplete"
    return "passed"


def certificate_schema() -> dict[str, Any]:
    """The JSON Schema 2020-12 of a certificate."""
    return msgspec.json.schema(Certificate)


def table(certificates: Sequence[Certificate]) -> str:
    """Each adapter and engine version by each check, in Markdown: verdicts, checks, and why some did not pass."""
    ordered = sorted(certificates, key=lambda one: (one.adapter, one.engine_version))
    heads = [f"{one.adapter}<br>{one.engine} {one.engine_version}" for one in ordered]
    results = {one.id: one for certificate in ordered for one in certificate.checks}
    lines = [
        "| adapter | version | engine | verdict | checks |",
        "| --- | --- | --- | --- | --- |",
        *(one.row() for one in ordered),
        "",
        f"| check | rule | group | {' | '.join(heads)} |",
        f"| --- | --- | --- | {' | '.join('---' for _ in heads)} |",
        *(_line(result, ordered) for result in results.values()),
    ]
    why = [(one.adapter, result) for one in ordered for result in one.checks if result.reason]
    if why:
        lines += ["", *(f"- {adapter}, `{result.id}`: {result.status}, {result.reason}" for adapter, result in why)]
    return "\n".join(lines) + "\n"


def _line(result: Result, ordered: Sequence[Certificate]) -> str:
    of_each = ({one.id: one.status for one in certificate.checks}.get(result.id) for certificate in ordered)
    signs = (_SIGNS[status] if status else "" for status in of_each)
    return f"| `{result.id}` | {result.rule} | {result.group} | {' | '.join(signs)} |"
