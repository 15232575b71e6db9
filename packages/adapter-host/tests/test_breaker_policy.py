import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_host._breaker import BreakerPolicy


def test_the_defaults():
    """ORCH-3602: 5 in a row, or half of the last 20 with 10; open for 5 s to 60 s ± 20 %; a lease of 10 s."""
    assert msgspec.to_builtins(BreakerPolicy()) == {
        "consecutive": 5,
        "window": 20,
        "minimum": 10,
        "share": 0.5,
        "open_for": 5.0,
        "longest": 60.0,
        "spread": 0.2,
        "probe_lease": 10.0,
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"consecutive": 0}, "breaker.consecutive is 0; give 1 to open at the first fault, or more"),
        ({"consecutive": -1}, "breaker.consecutive is -1"),
        ({"minimum": 0}, "breaker.minimum is 0 and breaker.window 20; give 1 <= minimum <= window <= 1000, in calls"),
        ({"minimum": 21}, "breaker.minimum is 21 and breaker.window 20"),
        ({"window": 1001}, "breaker.minimum is 10 and breaker.window 1001"),
        ({"share": 0.0}, "breaker.share is 0.0; give a share above 0, up to 1"),
        ({"share": 1.01}, "breaker.share is 1.01"),
        ({"share": math.nan}, "breaker.share is nan"),
        ({"open_for": 0.0}, "breaker.open_for is 0.0 and breaker.longest 60.0; give 0 < open_for <= longest <= 86400"),
        ({"open_for": 61.0}, "breaker.open_for is 61.0 and breaker.longest 60.0"),
        ({"longest": math.inf}, "breaker.longest inf"),
        ({"open_for": math.nan}, "breaker.open_for is nan"),
        ({"spread": -0.1}, "breaker.spread is -0.1; give a share from 0, below 1"),
        ({"spread": 1.0}, "breaker.spread is 1.0"),
        ({"probe_lease": 0.0}, "breaker.probe_lease is 0.0; give seconds, above 0 and up to 86400"),
        ({"probe_lease": math.nan}, "breaker.probe_lease is nan"),
    ],
)
def test_a_policy_that_makes_no_sense(wrong: dict[str, float], message: str):
    """ORCH-3602: a breaker that would never open or never close is refused by its field: 0 is no threshold."""
    with pytest.raises(ValueError, match=message):
        BreakerPolicy(**wrong)  # type: ignore[arg-type]  # some are whole numbers


def test_a_policy_in_a_file():
    """A table of a config is read as a policy, and refused with the field's name."""
    assert msgspec.toml.decode("consecutive = 3\nopen_for = 1", type=BreakerPolicy) == BreakerPolicy(
        consecutive=3, open_for=1.0
    )
    with pytest.raises(msgspec.ValidationError, match=r"breaker\.consecutive is 0; give 1"):
        msgspec.toml.decode("consecutive = 0", type=BreakerPolicy)
    with pytest.raises(msgspec.ValidationError, match="threshold"):
        msgspec.toml.decode("threshold = 3", type=BreakerPolicy)


@given(open_for=st.floats(1e-300, 86_400), times=st.floats(1, 1000))
def test_spans_end_nowhere(open_for: float, times: float):
    """Spans begin at `open_for`, never shrink, reach `longest` and stay there, however small they began."""
    longest = min(open_for * times, 86_400.0)
    policy = BreakerPolicy(open_for=open_for, longest=longest)
    spans = list(itertools.islice(policy.spans(), 2000))

    assert spans[0] == open_for
    assert spans == sorted(spans)
    assert spans[-1] == longest
