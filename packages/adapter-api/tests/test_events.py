"""The events: their tags, and how a failure looks on a wire."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_orch_adapter_api import AdapterError, Error, PoolUnavailable, Token, WireEvent


def test_a_failure_on_the_wire() -> None:
    """`Error.of` carries code, message, engine, whether to try again, and the wait in milliseconds."""
    error = PoolUnavailable("all are busy", detail="overloaded", retry_after=1.5, engine="vllm")

    assert Error.of(error) == Error(
        code="POOL_UNAVAILABLE", message="all are busy", engine="vllm", retriable=True, retry_after_ms=1500
    )


def test_a_failure_without_facts() -> None:
    """What nobody knows is null on the wire."""
    event = Error.of(AdapterError("not so", detail="bad_request"))

    assert msgspec.to_builtins(event) == {
        "kind": "error",
        "code": "ADAPTER",
        "message": "not so",
        "engine": None,
        "retriable": False,
        "retry_after_ms": None,
    }


@given(wait=st.floats(0, 1e6))
@settings(deadline=None)
def test_the_wait_is_never_shortened(wait: float) -> None:
    """Who waits as the wire says comes no earlier than asked, and at most a millisecond later."""
    event = Error.of(PoolUnavailable("busy", detail="overloaded", retry_after=wait))

    assert event.retry_after_ms is not None
    assert 0 <= event.retry_after_ms - wait * 1000 <= 1


@pytest.mark.parametrize("wire", [b'{"t":"a","i":0}', b'{"kind":"tokens","t":"a","i":0}', b"{}"])
def test_an_event_says_its_kind(wire: bytes) -> None:
    """A document without a known `kind` is no event."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(wire, type=WireEvent)


def test_a_token_is_small_on_the_wire() -> None:
    """A token's document is its kind and its four fields, named by the letters of the boundary."""
    assert msgspec.json.encode(Token("hi", 3)) == (
        b'{"kind":"token","t":"hi","i":3,"channel":"content","logprob":null}'
    )
