"""What is remembered of origins whose HTTP/2 failed."""

import asyncio

from llama_orch_http_util._origins import Origins, origins


def test_a_mark_ends() -> None:
    """A mark holds for its span, and setting it is news once."""
    memory = Origins()

    assert not memory.is_marked("a", 0)
    assert memory.mark("a", 0, 300)
    assert not memory.mark("a", 299, 300)
    assert [memory.is_marked("a", now) for now in (0, 299.9, 300)] == [True, True, False]
    assert memory.mark("a", 300, 300)
    assert not memory.is_marked("b", 0)


def test_a_mark_is_taken_back() -> None:
    """A mark that was a mistake is taken back; what bears none stays so."""
    memory = Origins()
    memory.mark("a", 0, 300)
    for _ in range(2):
        memory.forget("a")

    assert not memory.is_marked("a", 1)


def test_the_memory_is_bounded() -> None:
    """However many origins are marked, the last 1,024 are known."""
    memory = Origins()
    for number in range(3000):
        memory.mark(number, 0, 300)

    assert [number for number in range(3000) if memory.is_marked(number, 1)] == list(range(1976, 3000))


def test_each_loop_has_its_own() -> None:
    """A loop's memory is one, and no other loop's."""

    async def both() -> tuple[Origins, Origins]:
        return origins(), origins()

    (first, again), (other, _) = asyncio.run(both()), asyncio.run(both())

    assert first is again
    assert first is not other
