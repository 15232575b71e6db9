"""At most one timer for each thing."""

import asyncio

from llama_orch_orchestratord._timers import Timers

from .serving import virtual  # type: ignore[import-not-found]  # test folders are no packages


@virtual
async def test_a_new_timer_takes_the_place_of_the_old() -> None:
    """Only the latest one rings, once, and with what it is for."""
    loop = asyncio.get_running_loop()
    timers: Timers[str] = Timers(loop)
    rung: list[tuple[str, str]] = []
    timers.arm("a", 1.0, lambda item: rung.append((item, "first")))
    timers.arm("a", 2.0, lambda item: rung.append((item, "second")))
    timers.arm("b", 3.0, lambda item: rung.append((item, "third")))
    timers.disarm("b")
    timers.disarm("c")
    await asyncio.sleep(5)

    assert rung == [("a", "second")]
    assert "a" not in timers


@virtual
async def test_one_may_be_armed_from_its_own_ring() -> None:
    """What rings may say when to ring again."""
    loop = asyncio.get_running_loop()
    timers: Timers[str] = Timers(loop)
    rung: list[float] = []

    def again(item: str) -> None:
        rung.append(loop.time())
        if len(rung) < 3:
            timers.arm(item, loop.time() + 1, again)

    timers.arm("a", 1.0, again)
    await asyncio.sleep(10)

    assert rung == [1.0, 2.0, 3.0]


@virtual
async def test_a_close_silences_all() -> None:
    """After it none rings."""
    timers: Timers[int] = Timers(asyncio.get_running_loop())
    rung: list[int] = []
    for i in range(3):
        timers.arm(i, float(i + 1), rung.append)
    timers.close()
    await asyncio.sleep(10)

    assert rung == []
