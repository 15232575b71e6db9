"""What is believed of a replica's health: its answers, with hysteresis (ORCH-3602)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import WorkerHealth
from llama_orch_adapter_host._health import Belief, Health, HealthPolicy

from .replicas import BUSY, DOWN, LOADING, READY  # type: ignore[import-not-found]  # test folders are no packages

ANSWERS = {"ready": READY, "busy": BUSY, "loading": LOADING, "down": DOWN}


def beliefs(*answers: str, fall: int = 2, rise: int = 2) -> list[Belief]:
    """What is believed after each answer."""
    health = Health(HealthPolicy(fall=fall, rise=rise))
    told = []
    for answer in answers:
        health.saw(ANSWERS[answer])
        told.append(health.belief)
    return told


@pytest.mark.parametrize(
    ("answers", "believed"),
    [
        ("ready", "ready"),
        ("loading", "loading"),
        ("busy", "busy"),
        ("down", "unknown"),
        ("down down", "down"),
        ("ready down ready down", "ready"),
        ("ready down down", "down"),
        ("ready down busy down", "busy"),
        ("ready down loading down", "loading"),
        ("down down ready", "down"),
        ("down down ready ready", "ready"),
        ("down down ready busy", "busy"),
        ("down down ready down ready", "down"),
        ("down down loading", "loading"),
        ("down down loading ready", "ready"),
        ("loading ready", "ready"),
        ("loading down down", "down"),
        ("ready busy ready", "ready"),
    ],
)
def test_what_is_believed(answers: str, believed: Belief):
    """ORCH-3602: down needs two answers in a row, up again two more; loading and busy are believed at once."""
    assert beliefs(*answers.split())[-1] == believed


@pytest.mark.parametrize(
    ("belief", "admits"), [("unknown", True), ("ready", True), ("busy", True), ("loading", False), ("down", False)]
)
def test_who_admits(belief: Belief, admits: bool):
    """ORCH-3602: a busy replica still takes tasks, one that loads or is down does not; an unknown one does."""
    health = Health(HealthPolicy())
    health._believe(belief, "")

    assert health.admits == admits


@pytest.mark.parametrize(
    ("answers", "awaited"),
    [
        ("ready", False),
        ("ready down", False),
        ("loading", True),
        ("loading ready", False),
        ("down down", False),
        ("down down ready", True),
        ("down down ready down", False),
        ("down down ready ready", False),
    ],
)
def test_what_is_awaited(answers: str, awaited: bool):
    """ORCH-3602: a replica is awaited while it loads, and from its first good answer after it was down."""
    health = Health(HealthPolicy())
    for answer in answers.split():
        health.saw(ANSWERS[answer])

    assert health.awaited == awaited


class Model:
    """Beliefs by counting the latest answers over the whole history, as the policy's docstring says it."""

    def __init__(self, fall: int, rise: int) -> None:
        self.fall, self.rise = fall, rise
        self.belief = "unknown"
        self.since: list[str] = []  # answers since the belief changed

    def saw(self, answer: str) -> bool:
        self.since.append(answer)
        if answer == self.belief:
            return False
        if answer == "down":
            row = self.fall
            alike = [each == "down" for each in self.since[-row:]]
        elif answer in ("ready", "busy") and self.belief == "down":
            row = self.rise
            alike = [each in ("ready", "busy") for each in self.since[-row:]]
        else:
            row, alike = 1, [True]
        if len(alike) < row or not all(alike):
            return False
        self.belief, self.since = answer, []
        return True


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.sampled_from(sorted(ANSWERS)), max_size=40))
def test_it_agrees_with_a_model(fall: int, rise: int, answers: list[str]):
    """ORCH-3602: over any answers, with any hysteresis, belief and news are those of an independent model."""
    health, model = Health(HealthPolicy(fall=fall, rise=rise)), Model(fall, rise)
    for answer in answers:
        assert health.saw(ANSWERS[answer]) == model.saw(answer)
        assert health.belief == model.belief


def test_the_latest_words_are_kept():
    """The detail is that of the answer that is believed, and follows while the belief stays."""
    health = Health(HealthPolicy())
    health.saw(WorkerHealth(live=True, ready=True, state="ready", detail="one"))
    health.saw(DOWN)
    assert health.detail == "one"
    health.saw(WorkerHealth(live=True, ready=True, state="ready", detail="two"))
    assert health.detail == "two"
    health.saw(DOWN)
    health.saw(DOWN)

    assert health.detail == "connection refused"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"interval": 0.0}, "health.interval is 0.0; give seconds, above 0 and up to 86400"),
        ({"interval": 1e9}, "health.interval is 1000000000.0; give"),
        ({"spread": 1.0}, "health.spread is 1.0; give a share from 0 to below 1"),
        ({"fall": 0}, "health.fall is 0; give 1 or more"),
        ({"rise": 0}, "health.rise is 0; give 1 or more"),
    ],
)
def test_a_policy_that_makes_no_sense(facts: dict[str, float], told: str):
    """A figure out of its range is refused with its name and the mend."""
    with pytest.raises(ValueError, match=told):
        HealthPolicy(**facts)  # type: ignore[arg-type]
