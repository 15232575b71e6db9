"""The pytest plugin: `--certificate FILE.json` writes what the conformance tests of an adapter found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RESULT = "llama_orch_conformance"
"""Under this name a report holds what a conformance test found."""

_STORE = pytest.StashKey["_Store"]()


class _Store:
    """The results of the run so far, as they were told."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.told: list[str] = []
        self.rows: list[str] = []
        self.problem = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option."""
    group = parser.getgroup("llama-orch adapters")
    group.addoption("--certificate", metavar="FILE.json", type=Path, help="write the adapter's certificate")


def pytest_configure(config: pytest.Config) -> None:
    """A new store."""
    config.stash[_STORE] = store = _Store(config.getoption("certificate"))
    if not hasattr(config, "workerinput"):  # where xdist runs, the reports come together in the one that started it
        config.pluginmanager.register(_Reader(store), "llama_orch_conformance_reader")


class _Reader:
    """Reads the reports as they come in, and writes the certificate after the last one."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a conformance test told."""
        if report.when == "call":
            self._store.told += [str(value) for name, value in report.user_properties if name == RESULT]

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Write the certificate; a file for two suites, or for none, is an error."""
        store = self._store
        if store.told:
            self._write()
        elif store.file is not None and session.exitstatus == pytest.ExitCode.OK:
            store.problem = "no conformance test was run: --certificate needs a class derived from AdapterConformance"
        if store.problem:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401  # pytest publishes no type of it
        """The rows of a Markdown table."""
        store = self._store
        if store.rows or store.problem:
            terminalreporter.section("adapter conformance")
        for row in store.rows:
            terminalreporter.line(row)
        if store.problem:
            terminalreporter.line(store.problem, red=True)

    def _write(self) -> None:
        from .conformance import certificates_of  # noqa: PLC0415  # who tests no adapter need not import it

        store = self._store
        certificates = certificates_of(store.told)
        store.rows = [one.row() for one in certificates.values()]
        if store.file is None:
            return
        if len(certificates) > 1:
            store.problem = f"--certificate is for one adapter; run these one by one: {', '.join(certificates)}"
            return
        [certificate] = certificates.values()
        store.file.parent.mkdir(parents=True, exist_ok=True)
        store.file.write_bytes(certificate.encoded())
