"""The class to derive from: a test for each check, each on an event loop of its own."""

import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar

import msgspec
import pytest
from llama_orch_adapter_api import AdapterSpec, one_line

from .._dialect import Dialect
from .._pytest import RESULT
from ._bench import Bench
from ._certificate import Certificate, Result, verdict_of
from ._check import REQUIRED, SSE, Broken, Check, NotAsked, every_check
from ._found import Found, find
from ._limit import run, within


class Told(msgspec.Struct, frozen=True):
    """A result on its way to the certificate; as JSON, since with xdist it comes from another process."""

    suite: str
    head: Certificate
    result: Result


@dataclass(eq=False)
class Subject:
    """An adapter, the engine it is to meet, and what its author leaves out and why."""

    adapter: str | AdapterSpec
    dialect: Dialect
    config: Any
    skips: Mapping[str, str]
    limit: float = 10.0

    @cached_property
    def found(self) -> Found:
        """The adapter; looked for when it is first needed."""
        return find(self.adapter)

    @cached_property
    def bench(self) -> Bench:
        """Where it meets engines."""
        return Bench(self.found.spec, self.dialect, self.config)

    def run(self, one: Check) -> Result:
        """The check's result; what the adapter raises is the reason of a failure."""
        if not one.required and (one.id in self.skips or one.group in self.skips):
            return _result(one, "skipped", self.skips.get(one.id) or self.skips[one.group])
        _ = self.bench  # finding the adapter reads files and imports, which is nothing for an event loop
        began = time.perf_counter()
        try:
            run(self._judged(one))
        except NotAsked as why:
            return _result(one, "skipped", str(why), began)
        except Broken as why:
            return _result(one, "failed", str(why), began)
        except Exception as why:  # noqa: BLE001  # an adapter may raise anything
            return _result(one, "failed", f"{type(why).__name__}: {why}", began)
        return _result(one, "passed", "", began)

    def head(self) -> Certificate:
        """The certificate's head: whose it is, and no check yet."""
        found = self.found
        return Certificate(
            adapter=found.name,
            distribution=found.distribution,
            version=found.version,
            api=found.spec.api,
            engine=self.dialect.name,
            engine_version=self.dialect.version,
            python=platform.python_version(),
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            verdict="incomplete",
            checks=(),
            facts=dict(self.bench.facts),
        )

    async def _judged(self, one: Check) -> None:
        limit = self.limit * one.patience
        try:
            async with within(limit) as timer:
                if one.group != REQUIRED:
                    await self._opted_in(one.group)
                await one.run(self)
        except TimeoutError as late:
            if not timer.expired():
                raise
            raise Broken(f"it was not over after {limit:g} s: the adapter waits for what does not come") from late

    async def _opted_in(self, group: str) -> None:
        if group == SSE:
            if not self.dialect.is_sse:
                raise NotAsked(f"{self.dialect.name} sends no event streams")
            return
        declared = await self.bench.capabilities()
        if group not in (*declared.features, *declared.workloads):
            raise NotAsked(f"{group} is not declared")


_SUBJECT = pytest.StashKey[Subject]()
"""Where a class of tests keeps its adapter, for all its checks."""


def certify(
    adapter: str | AdapterSpec,
    dialect: Dialect,
    config: Any = None,  # noqa: ANN401  # as AdapterConformance.config
    *,
    skips: Mapping[str, str] | None = None,
    limit: float = 10.0,
) -> Certificate:
    """The certificate of an adapter, without pytest. Not inside an event loop: each check runs on one of its own."""
    subject = Subject(adapter, dialect, config or (lambda url: {"url": url}), allowed(skips or {}), limit)
    results = [subject.run(one) for one in every_check()]
    return whole(subject.head(), results)


def whole(head: Certificate, results: Iterable[Result]) -> Certificate:
    """The certificate over these results; checks that are not among them were not run."""
    seen = {one.id: one for one in results}
    checks = tuple(seen.get(one.id) or _result(one, "not_run") for one in every_check())
    return msgspec.structs.replace(head, checks=checks, verdict=verdict_of(checks))


def certificates_of(told: Iterable[str]) -> dict[str, Certificate]:
    """The certificates by their suite, of what its tests told."""
    heads: dict[str, Certificate] = {}
    facts: dict[str, dict[str, float]] = {}
    results: dict[str, list[Result]] = {}
    for each in told:
        one = msgspec.json.decode(each, type=Told)
        heads[one.suite] = one.head
        facts.setdefault(one.suite, {}).update(one.head.facts)
        results.setdefault(one.suite, []).append(one.result)
    return {
        suite: whole(msgspec.structs.replace(head, facts=facts[suite]), results[suite]) for suite, head in heads.items()
    }


def allowed(skips: Mapping[str, str]) -> Mapping[str, str]:
    """The skips, each of which names an optional check or group and has a reason. Raises `ValueError`."""
    names = {name: one for one in every_check() for name in (one.id, one.group)}
    for name, reason in skips.items():
        if name not in names:
            raise ValueError(f"skips names {name!r}, which is no check and no group; known: {', '.join(sorted(names))}")
        if names[name].required:
            raise ValueError(f"skips names {name!r}, which is required of every adapter; mend the adapter")
        if not reason.strip():
            raise ValueError(f"skips gives no reason for {name!r}; say why, the certificate repeats it")
    return skips


class AdapterConformance:
    """Derive from it, say which adapter and which dialect, and pytest runs every check.

    `adapter` is the name of an installed entry point, or an `AdapterSpec`. `dialect` is how the scripted engine speaks.
    `skips` gives a reason for each check or group that is left out; required ones cannot be. A check may take `limit`
    seconds, not counting those that other processes take from it.
    """

    adapter: ClassVar[str | AdapterSpec]
    dialect: ClassVar[Dialect]
    skips: ClassVar[Mapping[str, str]] = {}
    limit: ClassVar[float] = 10.0

    def config(self, url: str) -> Mapping[str, Any]:
        """The replica's config for an engine at that url; fields that take a `Secret` are filled in where missing."""
        return {"url": url}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test for each check."""
        if "conformance_check" in metafunc.fixturenames:
            metafunc.parametrize("conformance_check", every_check(), ids=lambda one: one.id)

    def test_conforms(self, conformance_check: Check, request: pytest.FixtureRequest) -> None:
        """The adapter keeps the rule."""
        node = request.node.getparent(pytest.Class)
        if _SUBJECT not in node.stash:
            node.stash[_SUBJECT] = Subject(self.adapter, self.dialect, self.config, allowed(self.skips), self.limit)
        subject = node.stash[_SUBJECT]
        result = subject.run(conformance_check)
        told = Told(node.nodeid, subject.head(), result)
        request.node.user_properties.append((RESULT, msgspec.json.encode(told).decode()))
        if result.status == "failed":
            pytest.fail(f"{result.id}: {result.rule}\n{result.reason}", pytrace=False)
        if result.status == "skipped":
            pytest.skip(result.reason)


def _result(one: Check, status: Any, reason: str = "", began: float | None = None) -> Result:  # noqa: ANN401  # Status
    seconds = 0.0 if began is None else round(time.perf_counter() - began, 3)
    return Result(id=one.id, group=one.group, rule=one.rule, status=status, reason=one_line(reason), seconds=seconds)
