"""Which of all that is looked for stands in a text, however much that is (ORCH-3613)."""

import secrets
import time
from collections.abc import Callable
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_orch_adapter_api import Secret, redact
from llama_orch_adapter_api._needles import Needles, needles_of

MANY = [f"sk-{secrets.token_hex(8)}" for _ in range(50)]
VALUES = st.text("abé🦙\udc80 \n%", min_size=4, max_size=20)


@given(st.lists(VALUES, max_size=6), st.lists(st.text("abé🦙\udc80 \n%", max_size=8)), st.sampled_from([0, 50]))
@settings(max_examples=500)
def test_those_that_are_there(values: list[str], others: list[str], many: int) -> None:
    """What stands in a text is found at any place and of any characters, among few needles and among many."""
    of = {value: needles_of(value) for value in (*values, *MANY[:many])}
    needles = [*chain.from_iterable(of.values())]
    text = "".join(chain.from_iterable(zip(others, [needle.text for needle in needles], strict=False)))

    assert set(Needles(of).within(text)) == {needle for needle in needles if needle.text in text}


def took(work: Callable[[], object]) -> float:
    """Seconds of CPU time, the shortest of five."""

    def once() -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    return min(once() for _ in range(5))


@pytest.mark.parametrize("text", ["sk-proj-" * 1024, "a log line of words. " * 400], ids=["like a key", "words"])
def test_many_secrets_cost_little_more_than_few(text: str) -> None:
    """8 KiB take no ten times as long with a thousand secrets alive as with one."""
    alive: list[Secret] = []
    cost = {}
    for count in (1, 100, 1000):
        alive += (Secret(f"sk-proj-{secrets.token_hex(16)}") for _ in range(count - len(alive)))
        redact("")
        cost[count] = took(lambda: redact(text))
        print(f"{count} secrets: {cost[count] * 1000:.2f} ms")

    assert cost[1000] < 10 * cost[1]


def test_one_more_secret_costs_little() -> None:
    """A secret that is made beside a thousand others costs less than a fourth of what they cost together."""
    begun = time.process_time()
    alive = [Secret(f"sk-proj-{secrets.token_hex(16)}") for _ in range(1000)]
    redact("")
    first = time.process_time() - begun

    def one_more() -> None:
        alive.append(Secret(f"sk-proj-{secrets.token_hex(16)}"))
        redact("")

    assert took(one_more) < first / 4
