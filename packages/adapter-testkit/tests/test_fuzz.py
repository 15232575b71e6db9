"""Random tests can be repeated, and vary in size."""

import pytest
from llama_orch_adapter_testkit import captures, cases, dice, mutilated, mutilated_reply

CAPTURE = captures.load("vllm", "v1_chat_stream")


def test_a_seed_is_told_and_replays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The printed seed, given back, brings the same mutilations."""
    first = mutilated(dice(), CAPTURE.body)
    monkeypatch.setenv("SEED", capsys.readouterr().out.strip().removeprefix("SEED="))

    assert mutilated(dice(), CAPTURE.body) == first


def test_mutilations_differ(monkeypatch: pytest.MonkeyPatch):
    """One source of chance gives many different inputs, most of them not the original."""
    monkeypatch.setenv("SEED", "7")
    chance = dice()
    seen = {mutilated(chance, CAPTURE.body) for _ in range(200)}

    assert len(seen - {CAPTURE.body}) > 150


def test_a_reply_is_cut_and_changed(monkeypatch: pytest.MonkeyPatch):
    """Replies come in pieces; some are short, and some as they were but for a few bytes."""
    monkeypatch.setenv("SEED", "7")
    chance = dice()
    replies = [mutilated_reply(chance, CAPTURE) for _ in range(200)]
    sizes = [sum(map(len, reply.pieces)) for reply in replies]

    assert {len(reply.pieces) for reply in replies} >= {1, 2, 3, 4}
    assert min(sizes) < len(CAPTURE.response) / 2 < max(sizes)


def test_the_night_is_longer(monkeypatch: pytest.MonkeyPatch):
    """NIGHTLY takes the larger size."""
    monkeypatch.delenv("NIGHTLY", raising=False)
    each_run = cases(10, nightly=1000)
    monkeypatch.setenv("NIGHTLY", "1")

    assert (each_run, cases(10, nightly=1000)) == (10, 1000)
