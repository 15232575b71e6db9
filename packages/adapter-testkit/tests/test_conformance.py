"""Each check can fail: for each there is an adapter that breaks its rule, and no other one."""

import asyncio
import os
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import API_VERSION, AdapterContext, AdapterSpec, Secret
from llama_orch_adapter_testkit.conformance import certify
from llama_orch_adapter_testkit.conformance._check import Check, Trial, every_check
from llama_orch_adapter_testkit.conformance._suite import Subject

from . import bad_lives, bad_streams  # type: ignore[attr-defined]  # noqa: F401  # they fill BAD; test folders are no packages
from .declares import DeclaresAll  # type: ignore[import-not-found]  # as above
from .twisted import BAD, DIALECT, Twisted, spec_of  # type: ignore[import-not-found]  # as above

pytestmark = pytest.mark.timeout(120)  # whole certificates, on a machine that may be busy

DEAR = frozenset({"framing.every_byte", "life.many_streams", "loop.cpu", "registration.pure"})
"""Checks that take more than a tenth of a second; at night every bad adapter is tried by these, too."""

CHECKS = {one.id: one for one in every_check()}


class LaxConfig(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    api_key: Secret | None = None
    slots: int | None = None


def config(url: str) -> dict[str, Any]:
    return {"url": url}


def failures(spec: AdapterSpec, expected: frozenset[str]) -> set[str]:
    """The ids of the checks that it fails, of all that are tried."""
    subject = Subject(spec, DIALECT, config, {}, limit=3.0)
    tried = [one for name, one in CHECKS.items() if name not in DEAR or name in expected or os.environ.get("NIGHTLY")]
    results = [subject.run(one) for one in tried]
    return {one.id for one in results if one.status == "failed"}


@pytest.mark.nightly
@pytest.mark.parametrize("name", BAD)
def test_a_bad_adapter_fails_what_it_breaks(name: str):
    """ORCH-3612: the checks whose rule it breaks fail, and no other."""
    kind, expected = BAD[name]

    assert failures(spec_of(kind), expected) == expected


def test_a_good_adapter_fails_nothing():
    """What the bad ones are made of is good."""
    assert failures(spec_of(Twisted), DEAR) == set()


def test_a_busy_machine_fails_no_good_adapter():
    """An adapter that is slow to connect is stopped by the limit of a check alone, and that one says so."""
    contexts: list[AdapterContext] = []

    def factory(context: AdapterContext) -> Twisted:
        contexts.append(context)
        return Twisted(context)

    subject = Subject(spec_of(factory), DIALECT, config, {})
    result = subject.run(CHECKS["stream.order"])

    assert result.status == "passed"
    assert all(context.timeouts.connect > subject.limit for context in contexts)


def test_every_check_can_be_passed():
    """An adapter that declares all there is, and keeps it, passes every check but what nobody can see of it."""
    whole = certify(spec_of(DeclaresAll), DIALECT)

    left = {one.id: one.reason for one in whole.checks if one.status != "passed"}
    assert left.keys() == {"registration.pure"}
    assert "given as an AdapterSpec; name its entry point" in left["registration.pure"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (spec_of(Twisted, LaxConfig), "config.strict"),
        (AdapterSpec("vllm", API_VERSION + 1, spec_of(Twisted).config_type, Twisted), "registration.api"),
    ],
    ids=["config", "api"],
)
def test_a_bad_spec_fails_what_it_breaks(spec: AdapterSpec, expected: str):
    """A config that takes any key, and a boundary of another version."""
    assert failures(spec, frozenset()) == {expected}


def test_every_check_can_fail():
    """There is no check that no bad adapter fails; the registration of a package has its tests in another file."""
    named = {name for _, expected in BAD.values() for name in expected}

    assert set(CHECKS) - named == {"registration.pure", "registration.api", "config.strict"}


def test_some_checks_have_more_time():
    """A check's limit is the suite's times its patience, and a failure tells which it was."""

    async def waits(_: Trial) -> None:
        await asyncio.sleep(0.1)

    subject = Subject(spec_of(Twisted), DIALECT, config, {}, limit=0.04)
    some, more = (Check("made.up", "required", "Waits.", waits, patience) for patience in (1.0, 5.0))

    assert "it was not over after 0.04 s" in subject.run(some).reason
    assert subject.run(more).status == "passed"


def test_an_adapter_that_cannot_be_closed_is_told():
    """What hangs is named: `aclose()`, not the check in which it did."""

    class NeverCloses(Twisted):
        async def aclose(self) -> None:
            await super().aclose()
            await asyncio.sleep(60)

    result = Subject(spec_of(NeverCloses), DIALECT, config, {}).run(CHECKS["stream.order"])

    assert (result.status, result.reason) == ("failed", "TimeoutError: aclose() was not over after 2 s")
