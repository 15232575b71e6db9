"""What a task comes to."""

from llama_orch_adapter_api import End, Started, Token, WorkerReset
from llama_orch_adapter_testkit import Outcome

STARTED = Started("fake", "1", "model", "pool/0")
END = End(1, 2, "stop")
TOKENS = (Token("a", 0), Token(" b", 1))


def test_a_whole_answer():
    """ORCH-3612: its first and last event, and its tokens' text, in pieces and joined."""
    seen = Outcome((STARTED, *TOKENS, END))

    assert (seen.started, seen.end, seen.tokens) == (STARTED, END, TOKENS)
    assert (seen.pieces, seen.text, seen.failure) == (["a", " b"], "a b", "")
    assert str(seen) == f"2 tokens, 'a b', then {END}"


def test_a_failure():
    """ORCH-3612: an answer that broke off has no end, and its error in a word or two."""
    seen = Outcome(TOKENS, WorkerReset("it broke off", detail="truncated"))

    assert (seen.started, seen.end, seen.failure) == (None, None, "WORKER_RESET truncated")
    assert str(seen) == "2 tokens, 'a b', then WorkerReset truncated: it broke off"


def test_nothing_at_all():
    """ORCH-3612: without events there is neither a first nor a last one."""
    seen = Outcome(())

    assert (seen.started, seen.end, seen.text) == (None, None, "")
