import pytest
from llama_orch_adapter_host.observe import coverage, missing

from .conftest import SCENARIOS, Tally  # type: ignore[import-not-found]  # test folders are no packages

FLOOR = 22
"""Kinds of events that the features bring about, whatever the machine does."""


def test_the_narration_covers_what_happens(
    tally: Tally, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """The features bring about most kinds of events that a host knows, and each is narrated."""
    scenarios = pytestconfig.stash[SCENARIOS]
    if tally.scenarios < scenarios:
        pytest.skip(f"{tally.scenarios} of {scenarios} scenarios ran in this process: THE FIGURE NEEDS ALL")
    narrated, kinds = coverage(tally.events)
    with capsys.disabled():
        print(f"\nnarration: {narrated} of {kinds} kinds of events told by {scenarios} scenarios")
        print(f"  not told of: {', '.join(missing(tally.events))}")
        print(f"  tasks that failed or were refused: {tally.failed}, each with a line of its own")

    assert narrated >= FLOOR
