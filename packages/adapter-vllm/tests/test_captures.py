"""Every capture is replayed by a test of this package, or set aside with the reason why not."""

from pathlib import Path

from .replays import SHELF  # type: ignore[import-not-found]  # test folders are no packages

SET_ASIDE = {
    "get_load": "/metrics tells more",
    "get_ping": "the same as get_health",
    "key_tokenize": "the engine counts tokens by itself",
    "post_abort_requests": "ids are internal, and closing the connection always stops it",
    "post_detokenize": "the engine counts tokens by itself",
    "post_tokenize": "the engine counts tokens by itself",
    "post_tokenize_chat": "the engine counts tokens by itself",
}
"""Answers to what the adapter never asks. Where a route may come into use, its bytes are at hand."""


def test_every_capture_is_replayed_or_set_aside():
    """A capture that no test names shows nothing; docs/engine-facts.md says which test holds which fact."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))
    replayed = {name for name in SHELF if f'"{name}"' in tests}

    assert replayed.isdisjoint(SET_ASIDE)
    assert replayed | SET_ASIDE.keys() == SHELF.keys()
