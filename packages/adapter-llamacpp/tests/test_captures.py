"""Every capture is replayed by a test of this package, or set aside with the reason why not."""

from pathlib import Path

from .replays import SHELF  # type: ignore[import-not-found]  # test folders are no packages

SET_ASIDE = {
    "delete_v1_stream": "with a conversation's id a closed connection no longer cancels, so none is sent",
    "delete_v1_stream_unknown": "with a conversation's id a closed connection no longer cancels, so none is sent",
    "v1_streams_lookup": "with a conversation's id a closed connection no longer cancels, so none is sent",
    "emb_models": "the same as get_v1_models",
    "get_lora": "adapters of the model are the operator's",
    "get_models": "the same as get_v1_models",
    "get_v1_health": "the same as get_health",
    "get_v1_models": "/props tells name and context",
    "head_health": "an OPTIONS of a web page",
    "post_apply_template": "the engine renders messages by itself",
    "post_detokenize": "the engine counts tokens by itself",
    "post_tokenize": "the engine counts tokens by itself",
    "post_tokenize_plain": "the engine counts tokens by itself",
}
"""Answers to what the adapter never asks. Where a route may come into use, its bytes are at hand."""


def test_every_capture_is_replayed_or_set_aside():
    """A capture that no test names shows nothing; docs/engine-facts.md says which test holds which fact."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))
    replayed = {name for name in SHELF if f'"{name}"' in tests}

    assert replayed.isdisjoint(SET_ASIDE)
    assert replayed | SET_ASIDE.keys() == SHELF.keys()
