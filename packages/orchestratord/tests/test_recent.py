"""What tasks took of late."""

from llama_orch_orchestratord._recent import WINDOW, Recent, quantile


def test_what_is_older_than_the_window_does_not_count() -> None:
    """A span counts for so many seconds after its end, then it is forgotten."""
    recent = Recent()
    recent.add(0.0, 1.0)
    recent.add(5.0, 2.0)

    assert recent.within(9.9) == [1.0, 2.0]
    assert recent.within(WINDOW) == [2.0]
    assert recent.within(100.0) == []
    assert recent.within(5.0) == []


def test_the_latest_are_kept() -> None:
    """However many end within the window, memory is bounded."""
    recent = Recent()
    for number in range(5000):
        recent.add(1.0, float(number))

    assert recent.within(1.0) == [float(number) for number in range(5000 - 1024, 5000)]


def test_quantiles() -> None:
    """The span which that share of them does not exceed; of none there is none."""
    spans = [float(number) for number in range(1, 101)]

    assert (quantile(spans, 0.5), quantile(spans, 0.95), quantile(spans, 1.0)) == (51.0, 96.0, 100.0)
    assert quantile([3.0], 0.5) == 3.0
    assert quantile([], 0.5) is None
