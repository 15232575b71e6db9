"""What a certificate says, how it is published, and the table over several."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from llama_orch_adapter_api import AdapterSpec
from llama_orch_adapter_testkit.conformance import Certificate, Result, certificate_schema, certify, table
from llama_orch_adapter_testkit.conformance._certificate import Status, verdict_of
from llama_orch_adapter_testkit.conformance._check import every_check
from llama_orch_adapter_testkit.conformance._suite import Subject

from .twisted import DIALECT, Twisted, spec_of  # type: ignore[import-not-found]  # test folders are no packages

pytestmark = pytest.mark.timeout(120)  # whole certificates, on a machine that may be busy


def result(status: Status, group: str = "required", reason: str = "") -> Result:
    return Result(id=f"a.{status}", group=group, rule="It does.", status=status, reason=reason)


def certificate(*checks: Result, adapter: str = "acme") -> Certificate:
    return Certificate(
        adapter=adapter,
        distribution="acme-adapter",
        version="1.2",
        api=1,
        engine="acme",
        engine_version="9",
        python="3.11.7",
        date="2026-11-25T00:00:00Z",
        verdict=verdict_of(checks),
        checks=checks,
    )


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([result("passed")], "passed"),
        ([result("passed"), result("skipped", "tools")], "passed"),
        ([result("passed"), result("not_run", "tools")], "passed"),
        ([result("passed"), result("failed", "tools")], "failed"),
        ([result("not_run"), result("failed")], "failed"),
        ([result("passed"), result("skipped")], "incomplete"),
        ([result("passed"), result("not_run")], "incomplete"),
        ([result("passed"), result("skipped", "sse")], "passed"),
    ],
)
def test_the_verdict(checks: list[Result], verdict: str):
    """One failure fails it, and without a required check it is not complete."""
    assert verdict_of(checks) == verdict


def test_a_certificate_fits_its_schema():
    """ORCH-3612: what is written is what the published JSON schema says, and reads back as it was."""
    whole = certify(spec_of(Twisted), DIALECT)
    document = msgspec.json.decode(whole.encoded())

    jsonschema.Draft202012Validator.check_schema(certificate_schema())
    jsonschema.validate(document, certificate_schema())
    assert msgspec.json.decode(whole.encoded(), type=Certificate) == whole
    assert (whole.adapter, whole.distribution, whole.engine, whole.engine_version) == ("vllm", None, "vllm", "0.32.0")
    assert whole.verdict == "incomplete"  # it came from no package, so that nobody saw it register
    assert whole.facts["cpu_us_per_token"] > 0


@pytest.mark.parametrize(
    ("skips", "words"),
    [
        ({"rerank": " "}, "no reason for 'rerank'"),
        ({"stream.order": "it is hard"}, "'stream.order', which is required"),
        ({"required": "it is hard"}, "'required', which is required"),
        ({"sse.mark": "rare"}, "'sse.mark', which is required"),
        ({"nonsense": "why not"}, "'nonsense', which is no check"),
    ],
)
def test_a_skip_needs_a_reason_and_a_check_that_may_be_skipped(skips: dict[str, str], words: str):
    """Required checks cannot be left out, nor any without saying why."""
    with pytest.raises(ValueError, match=words):
        certify(spec_of(Twisted), DIALECT, skips=skips)


def test_a_skip_is_told_with_its_reason():
    """Left out by group or by name, the check stands in the certificate, and so does the reason."""
    whole = certify(spec_of(Twisted), DIALECT, skips={"logprobs": "the build has none", "seed.sent": "no seeds"})
    told = {one.id: (one.status, one.reason) for one in whole.checks}

    assert told["logprobs.told"] == ("skipped", "the build has none")
    assert told["seed.sent"] == ("skipped", "no seeds")
    assert told["rerank.scores"] == ("skipped", "rerank is not declared")


def test_an_adapter_that_is_not_installed():
    """The error names the entry points there are, and the mend."""
    with pytest.raises(LookupError, match="no entry point 'acme' .*known: .*vllm.*; install the adapter's package"):
        certify("acme", DIALECT)


def test_what_an_adapter_raises_is_the_reason():
    """Whatever a factory raises, the suite goes on and says what it was, in one line."""

    def factory(_: Any) -> Any:
        raise ZeroDivisionError("one\ntwo")

    whole = certify(AdapterSpec("vllm", 1, spec_of(Twisted).config_type, factory), DIALECT)
    reasons = {one.reason for one in whole.checks if one.status == "failed"}

    assert whole.verdict == "failed"
    assert reasons == {r"ZeroDivisionError: one\ntwo"}


def test_the_table_holds_every_adapter_and_check():
    """Adapters are columns by name, checks are rows; what did not pass stands below with its reason."""
    told = table(
        [
            certificate(result("passed"), result("failed", reason="it does not"), adapter="zeta"),
            certificate(result("passed"), result("skipped", "tools", "it has none")),
        ]
    )

    assert told.splitlines() == [
        "| adapter | version | engine | verdict | checks |",
        "| --- | --- | --- | --- | --- |",
        "| acme | 1.2 | acme 9 | passed | 1 passed, 1 skipped |",
        "| zeta | 1.2 | acme 9 | failed | 1 passed, 1 failed |",
        "",
        "| check | rule | group | acme<br>acme 9 | zeta<br>acme 9 |",
        "| --- | --- | --- | --- | --- |",
        "| `a.passed` | It does. | required | ✓ | ✓ |",
        "| `a.skipped` | It does. | tools | - |  |",
        "| `a.failed` | It does. | required |  | ✗ |",
        "",
        "- acme, `a.skipped`: skipped, it has none",
        "- zeta, `a.failed`: failed, it does not",
    ]


def test_the_table_from_files(tmp_path: Path):
    """The command reads certificates and prints their table; without a word it says how it is used."""
    one = certificate(result("passed"))
    (tmp_path / "acme.json").write_bytes(one.encoded())
    command = [sys.executable, "-P", "-m", "llama_orch_adapter_testkit.conformance"]
    told = subprocess.run([*command, "table", tmp_path / "acme.json"], capture_output=True, text=True, check=True)
    schema = subprocess.run([*command, "schema"], capture_output=True, text=True, check=True)
    lost = subprocess.run(command, capture_output=True, text=True, check=False)

    assert told.stdout == table([one])
    assert msgspec.json.decode(schema.stdout) == certificate_schema()
    assert (lost.returncode, lost.stderr.split(":")[0]) == (2, "usage")


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (lambda: asyncio.sleep(9), "it was not over after 0.2 s"),
        (lambda: asyncio.wait_for(asyncio.sleep(9), 0.01), "TimeoutError: "),
    ],
    ids=["hangs", "its own limit"],
)
def test_what_hangs_is_not_waited_for(raised: Callable[[], Awaitable[Any]], reason: str):
    """A check that hangs is ended by the suite's limit and says so; a limit of the adapter's own is its own failure."""

    class Hangs(Twisted):  # type: ignore[misc]  # the base is not typed there
        async def health(self) -> Any:
            return await raised()

    subject = Subject(spec_of(Hangs), DIALECT, lambda url: {"url": url}, {}, limit=0.2)
    (ready,) = [one for one in every_check() if one.id == "health.ready"]

    assert subject.run(ready).reason.startswith(reason)


STORED = sorted((Path(__file__).parents[3] / "docs" / "certificates").glob("*.json"))


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_a_stored_certificate_is_over_every_check(file: Path):
    """ORCH-3612: those in docs/ name the checks that there are, in their present words; else run `nox -s certify`."""
    stored = msgspec.json.decode(file.read_bytes(), type=Certificate)

    assert [(one.id, one.group, one.rule) for one in stored.checks] == [
        (one.id, one.group, one.rule) for one in every_check()
    ]


def test_all_are_stored():
    """There is something to look at."""
    assert len(STORED) >= 3
