"""The last that the host told."""

from llama_orch_adapter_host.events import BreakerChanged, FirstToken, HealthChanged, ReplicaBound, SetUpFailed
from llama_orch_orchestratord._tail import KEPT, Tail

BOUND = ReplicaBound(pool_id="chat", replica_id="0", engine="words")
OPEN = BreakerChanged(pool_id="chat", replica_id="0", engine="words", state="open", open_for=5.0)


def first_token(number: int) -> FirstToken:
    task_id = f"{number:036}"
    return FirstToken(
        pool_id="chat", task_id=task_id, replica_id="0", engine="words", attempt=1, duration=0.1, total=0.2
    )


def test_lines_come_in_order_with_their_loudness() -> None:
    """Each has its number, its moment and the host's sentence; who read some asks for those after."""
    clock = iter([1.0, 2.0, 3.0])
    tail = Tail(lambda: next(clock))
    for event in (BOUND, first_token(1), OPEN):
        tail(event)
    lines = tail.lines()

    assert [(line.n, line.at, line.level) for line in lines] == [
        (1, 1000, "info"),
        (2, 2000, "debug"),
        (3, 3000, "warning"),
    ]
    assert "chat/0" in lines[2].text
    assert tail.lines(after=2) == lines[2:]
    assert tail.lines(after=tail.told) == []


def test_many_tasks_push_no_trouble_out() -> None:
    """What every task does is kept apart: a breaker that opened is there after a thousand tasks, and memory bounded."""
    tail = Tail()
    tail(OPEN)
    for number in range(1000):
        tail(first_token(number))
    lines = tail.lines()

    assert lines[0].level == "warning"
    assert len(lines) == 1 + KEPT
    assert [line.n for line in lines[1:]] == list(range(1002 - KEPT, 1002))


def test_what_has_no_sentence_is_no_line() -> None:
    """An event that tells people nothing is left out, and its number too."""
    tail = Tail()
    tail(HealthChanged(pool_id="chat", replica_id="0", engine="words", was="down", now="down"))
    tail(OPEN)

    assert [line.n for line in tail.lines()] == [2]


def test_words_of_engines_are_one_line() -> None:
    """Control characters are shown as such, secrets are not shown."""
    tail = Tail()
    key = "sk-" + "a1B2c3D4" * 5
    told = f"Authorization: Bearer {key}\n\x1b[31m<b>no</b>\u202e"
    tail(SetUpFailed(pool_id="c", replica_id="0", engine="words", error_kind="ADAPTER", detail="auth", message=told))
    (line,) = tail.lines()

    assert key not in line.text
    assert line.text.isprintable()
