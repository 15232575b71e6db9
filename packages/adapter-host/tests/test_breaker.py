from collections.abc import Callable

import pytest
from llama_orch_adapter_host._breaker import Breaker, BreakerPolicy, Breakers, Permit, State, Verdict
from llama_orch_adapter_testkit import dice

MIDDLE = 0.5
"""The random number that leaves a span as it is."""

Heard = list[tuple[str, State, float]]

DEFAULT = BreakerPolicy()


def breaker_of(
    policy: BreakerPolicy = DEFAULT, *, random: Callable[[], float] = lambda: MIDDLE
) -> tuple[Breaker, Heard]:
    """A breaker, and all that its listener hears."""
    heard: Heard = []
    breakers = Breakers(random=random, on_change=lambda *change: heard.append(change))
    return breakers.create("chat/r0#1", policy), heard


def entered(breaker: Breaker, now: float = 0.0) -> Permit:
    permit = breaker.enter(now)
    assert permit is not None
    return permit


def calls(breaker: Breaker, *verdicts: Verdict, now: float = 0.0) -> None:
    """Calls, one after the other, that end so."""
    for verdict in verdicts:
        breaker.leave(entered(breaker, now), verdict, now)


def tripped(policy: BreakerPolicy = DEFAULT, now: float = 0.0) -> Breaker:
    breaker, _ = breaker_of(policy)
    calls(breaker, *["fault"] * policy.consecutive, now=now)
    assert breaker.state == "open"
    return breaker


def half_open(policy: BreakerPolicy = DEFAULT, now: float = 100.0) -> Breaker:
    """A breaker that was tripped at 0, and whose health answered at `now`."""
    breaker = tripped(policy)
    breaker.half_open(now)
    assert breaker.state == "half_open"
    return breaker


def test_five_faults_in_a_row():
    """ORCH-3602: it opens at 5 consecutive faults; a good call between them begins the count anew."""
    breaker, _ = breaker_of(BreakerPolicy(minimum=20))
    calls(breaker, "fault", "fault", "fault", "fault", "ok", "fault", "fault", "fault", "fault")
    before = breaker.state
    calls(breaker, "fault")

    assert (before, breaker.state) == ("closed", "open")


def test_neutral_is_no_outcome():
    """ORCH-3602: a neutral call ends no row of faults, and fills no window."""
    row, _ = breaker_of()
    calls(row, "fault", "fault", "neutral", "fault", "fault", "neutral", "neutral", "fault")
    window, _ = breaker_of()
    calls(window, *["neutral"] * 20, "fault", "fault", "fault", "fault", "ok", "fault", "fault", "fault", "fault")

    assert row.state == "open"
    assert window.state == "closed"


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        ("ffffoffff", "closed"),  # 8 of 9: too few to tell
        ("ffffoffffo", "open"),  # 8 of 10, and the one that makes them enough is good
        ("ofofofofo", "closed"),
        ("ofofofofof", "open"),  # 5 of 10
        ("oof" * 6 + "oo", "closed"),  # 6 of 20
        ("o" * 1000 + "fo" * 9, "closed"),  # 9 of the last 20: what is long ago does not count
        ("o" * 1000 + "fo" * 9 + "f", "open"),  # 10 of the last 20
    ],
)
def test_the_share_of_the_last_twenty(verdicts: str, state: State):
    """ORCH-3602: it opens where 50 % of the last 20 outcomes were faults, once there are 10, and not before."""
    breaker, _ = breaker_of()
    calls(breaker, *("fault" if letter == "f" else "ok" for letter in verdicts[:-1]))
    before = breaker.state
    calls(breaker, "fault" if verdicts[-1] == "f" else "ok")

    assert (before, breaker.state) == ("closed", state)


@pytest.mark.parametrize(("share", "window"), [(0.07, 100), (0.29, 100), (0.57, 100), (0.3, 10), (0.1, 30)])
def test_a_share_is_kept_to_the_letter(share: float, window: int):
    """ORCH-3602: exactly the share of faults opens it, one less does not, whatever its binary fraction is."""
    enough = round(share * window)
    policy = BreakerPolicy(consecutive=1000, window=window, minimum=window, share=share)
    less, _ = breaker_of(policy)
    calls(less, *["fault"] * (enough - 1), *["ok"] * (window - enough + 1))
    exactly, _ = breaker_of(policy)
    calls(exactly, *["fault"] * enough, *["ok"] * (window - enough))

    assert (less.state, exactly.state) == ("closed", "open")


def test_the_window_begins_anew_once_closed():
    """ORCH-3602: what went wrong before a trip is no reason for the next one."""
    breaker = half_open()
    calls(breaker, "ok", now=100.0)
    calls(breaker, *["fault"] * 4, "ok", *["fault"] * 4, now=101.0)

    assert breaker.state == "closed"


def test_an_open_one_rejects():
    """ORCH-3602: open, nobody gets a permit, also when the span is over, until health has answered."""
    breaker = tripped()

    assert [breaker.enter(now) for now in (0.0, 4.9, 5.0, 1000.0)] == [None] * 4
    assert [breaker.admits(now) for now in (0.0, 4.9, 5.0, 1000.0)] == [False] * 4
    assert [breaker.due(now) for now in (0.0, 4.9, 5.0, 1000.0)] == [False, False, True, True]
    assert [breaker.reopens_in(now) for now in (0.0, 4.0, 5.0, 1000.0)] == [5.0, 1.0, 0.0, 0.0]


def test_health_answers_too_early():
    """ORCH-3602: a health check that began before a span shortens none, whatever it found."""
    breaker = tripped()
    breaker.half_open(4.9)
    breaker.postpone(4.9)

    assert breaker.state == "open"
    assert breaker.reopens_in(4.0) == 1.0


def test_spans_double():
    """ORCH-3602: it stays open for 5 s, twice as long with every trip in a row up to 60 s, and once closed for 5 s."""
    breaker = tripped()
    spans = []
    now = 0.0
    for _ in range(6):
        spans.append(breaker.reopens_in(now))
        now += spans[-1]
        breaker.half_open(now)
        calls(breaker, "fault", now=now)
    now += breaker.reopens_in(now)
    breaker.half_open(now)
    calls(breaker, "ok", now=now)
    calls(breaker, *["fault"] * 5, now=now)

    assert spans == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert breaker.reopens_in(now) == 5.0


def test_health_says_no():
    """ORCH-3602: where health does not answer ready it stays open for another span, not a longer one."""
    breaker, heard = breaker_of()
    calls(breaker, *["fault"] * 5)
    for now in (5.0, 10.0, 15.0):
        breaker.postpone(now)
        assert breaker.reopens_in(now) == 5.0
    breaker.half_open(20.0)
    calls(breaker, "fault", now=20.0)

    assert breaker.reopens_in(20.0) == 10.0
    assert [change[1:] for change in heard] == [("open", 5.0), ("half_open", 0.0), ("open", 10.0)]


def test_spans_are_spread():
    """ORCH-3602: a span is drawn from 20 % below to 20 % above; so is each that health postpones."""
    drawn = dice().random
    spans = []
    for _ in range(2000):
        breaker, _ = breaker_of(random=drawn)
        calls(breaker, *["fault"] * 5)
        spans.append(breaker.reopens_in(0.0))
        breaker.postpone(50.0)
        spans.append(breaker.reopens_in(50.0))

    assert 4.0 <= min(spans) < 4.05
    assert 5.95 < max(spans) <= 6.0
    assert sum(spans) / len(spans) == pytest.approx(5.0, abs=0.05)


def test_one_probe():
    """ORCH-3602, battery 18: of 1,000 callers that come when the span is over exactly one gets a permit."""
    breaker = half_open()
    permits = [breaker.enter(100.0) for _ in range(1000)]
    probes = [permit for permit in permits if permit is not None]

    print(f"{len(permits)} callers at expiry: {len(probes)} permit")
    assert [permit.probe for permit in probes] == [True]
    assert permits[0] is probes[0]
    assert [breaker.admits(now) for now in (109.9, 110.0)] == [False, True]
    assert breaker.reopens_in(104.0) == 6.0


def test_the_first_token_closes():
    """ORCH-3602: half open, it closes at its probe's first token; how that stream ends decides nothing any more."""
    breaker = half_open(BreakerPolicy(consecutive=1))
    probe = entered(breaker, 100.0)
    breaker.first_token(probe, 101.0)
    at_the_token = breaker.state
    breaker.leave(probe, "fault", 102.0)

    assert (at_the_token, breaker.state) == ("closed", "closed")
    assert breaker.reopens_in(102.0) == 0.0


def test_a_probe_without_a_token():
    """ORCH-3602: an answer without tokens, such as an embedding, closes it at its end."""
    breaker = half_open()
    calls(breaker, "ok", now=100.0)

    assert breaker.state == "closed"


def test_a_probe_that_failed():
    """ORCH-3602: a fault of the probe opens it again at once, for twice as long."""
    breaker = half_open()
    calls(breaker, "fault", now=100.0)

    assert breaker.state == "open"
    assert breaker.reopens_in(100.0) == 10.0


def test_a_cancelled_probe():
    """ORCH-3602, battery 18: a neutral probe gives its permit back and changes nothing; it says nothing later."""
    breaker = half_open()
    cancelled = entered(breaker, 100.0)
    breaker.leave(cancelled, "neutral", 100.1)
    state, admits = breaker.state, breaker.admits(100.1)
    breaker.first_token(cancelled, 100.2)
    breaker.leave(cancelled, "fault", 100.2)
    following = entered(breaker, 100.3)

    assert (state, admits) == ("half_open", True)
    assert following.probe
    assert breaker.enter(100.3) is None
    breaker.leave(following, "fault", 100.4)
    assert breaker.reopens_in(100.4) == 10.0


def test_a_hung_probe():
    """ORCH-3602, battery 18: after its lease of 10 s another may try, just one, and the hung one decides nothing."""
    breaker = half_open()
    hung = entered(breaker, 100.0)
    second, now = None, 100.0
    while second is None:
        now += 0.5
        second = breaker.enter(now)
    crowd = [breaker.enter(now) for _ in range(1000)]
    for verdict in ("ok", "fault", "neutral"):
        breaker.first_token(hung, now)
        breaker.leave(hung, verdict, now)
    state, admits = breaker.state, breaker.admits(now)
    breaker.first_token(second, now + 20.0)

    print(f"hung probe replaced after {now - 100.0} s; of 1000 others then: {1000 - crowd.count(None)}")
    assert (now, second.probe) == (110.0, True)
    assert crowd == [None] * 1000
    assert (state, admits) == ("half_open", False)
    assert breaker.state == "closed"


def test_a_slow_probe():
    """ORCH-3602: as long as no other took its place, a probe that outlived its lease still closes it."""
    breaker = half_open()
    slow = entered(breaker, 100.0)
    breaker.first_token(slow, 130.0)

    assert breaker.state == "closed"


@pytest.mark.parametrize("ending", ["ok", "fault", "token"])
def test_a_stream_from_before_the_trip(ending: str):
    """ORCH-3602: it decides nothing while the breaker is open, half open with or without a probe, nor once closed."""
    breaker, heard = breaker_of(BreakerPolicy(consecutive=3))
    old = [entered(breaker) for _ in range(4 * 5)]
    calls(breaker, "fault", "fault", "fault")

    def end_some(now: float) -> State:
        for permit in [old.pop() for _ in range(5)]:
            if ending == "token":
                breaker.first_token(permit, now)
            else:
                breaker.leave(permit, "ok" if ending == "ok" else "fault", now)
        return breaker.state

    open_ = end_some(1.0)
    breaker.half_open(5.0)
    without_probe = end_some(5.0)
    probe = entered(breaker, 5.0)
    with_probe = end_some(6.0)
    breaker.first_token(probe, 7.0)
    closed = end_some(8.0)
    calls(breaker, "fault", "fault", now=9.0)

    assert [open_, without_probe, with_probe, closed, breaker.state] == [
        "open",
        "half_open",
        "half_open",
        "closed",
        "closed",
    ]
    assert [state for _, state, _ in heard] == ["open", "half_open", "closed"]


def test_one_permit_for_all():
    """ORCH-3602: closed, all calls of an epoch share one permit; the next epoch has another."""
    breaker, _ = breaker_of()
    first = {id(entered(breaker)) for _ in range(100)}
    before = entered(breaker)
    calls(breaker, *["fault"] * 5)
    breaker.half_open(5.0)
    breaker.first_token(entered(breaker, 5.0), 5.0)

    assert len(first) == 1
    assert entered(breaker, 5.0) is not before
    assert entered(breaker, 5.0).epoch > before.epoch
