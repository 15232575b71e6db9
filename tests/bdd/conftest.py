"""The steps of the features, and the count of what was narrated while they ran."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from llama_orch_adapter_host.events import HostEvent
from pytest_bdd import given, parsers, step, then, when

from .world import ENDLESS, World, id_of, in_words  # type: ignore[import-not-found]  # test folders are no packages

SENTENCE = r'(?P<sentence>(?:batch )?task "\w+".* is sent.*)'
SENT = re.compile(
    r'(?P<batch>batch )?task "(?P<name>\w+)"'
    r"(?: of (?P<tokens>-?\d+) tokens)?(?P<endless> without an end)?(?: with (?P<deadline>\d+) ms to its deadline)?"
    r'(?: for the pool "(?P<pool>\w+)")? is sent(?: to replica (?P<replica>\d+))?'
)
"""A task in words."""

HERE = Path(__file__).parent

SCENARIOS = pytest.StashKey[int]()


@dataclass
class Tally:
    """What all scenarios of this run told: events, and how many tasks failed or were refused."""

    scenarios: int = 0
    failed: int = 0
    events: list[HostEvent] = field(default_factory=list)


@pytest.fixture(scope="session")
def tally() -> Tally:
    return Tally()


@pytest.fixture
def world(tmp_path: Path, tally: Tally) -> Iterator[World]:
    """A scenario's. Of each of its tasks that failed or was refused there has to be a line of narration."""
    world = World(tmp_path)
    try:
        yield world
    finally:
        world.close()
    assert world.untold() == set(), "\n".join(world.lines)
    tally.scenarios += 1
    tally.failed += len(world.failed)
    tally.events += world.told


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """What counts over all scenarios runs after them, and knows how many there are."""
    config.stash[SCENARIOS] = sum(item.path == HERE / "test_features.py" for item in items)
    yield
    items.sort(key=lambda item: item.path == HERE / "test_narration.py")


def task_of(sentence: str) -> dict[str, Any]:
    """The task that a step sends, by the arguments of `World.send`."""
    words = SENT.fullmatch(sentence)
    assert words is not None, f"no task is described by: {sentence}"
    wanted = {
        "name": words["name"],
        "max_tokens": ENDLESS if words["endless"] else words["tokens"] and int(words["tokens"]),
        "priority": words["batch"] and "batch",
        "deadline_ms": words["deadline"] and int(words["deadline"]),
        "pool_id": words["pool"],
        "replica_id": words["replica"],
    }
    return {key: value for key, value in wanted.items() if value is not None}


# --- what there is


@given(parsers.re(r"an engine with (?P<slots>\d+) slots?(?: that refuses every task with (?P<status>\d+))?"))
def _engine(world: World, slots: str, status: str | None) -> None:
    world.add_engine(int(slots), {} if status is None else {int(status): 1.0})


@given(parsers.parse("the queue has room for {count:d} tasks"))
def _room(world: World, count: int) -> None:
    world.settings.append(f"[admission]\nqueue = {count}")


@given("a full queue drops what waited longest")
def _drops(world: World) -> None:
    world.settings.append('policy = "drop-lru"')


@given("a task goes on when its reader leaves")
def _goes_on(world: World) -> None:
    world.settings.append("[stream]\ncancel_on_disconnect = false")


@given(parsers.parse('tokens of the roles "{one}" and "{other}"'))
def _tokens(world: World, one: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.tokens = {role: os.urandom(16).hex() for role in (one, other)}
    for role, token in world.tokens.items():
        monkeypatch.setenv(f"TOKEN_OF_{role.upper()}", token)
    entries = ", ".join(f'{{ env = "TOKEN_OF_{role.upper()}", role = "{role}" }}' for role in world.tokens)
    world.settings.append(f"[auth]\ntokens = [{entries}]")


@given("the orchestrator runs")
def _runs(world: World) -> None:
    world.write_pools()
    world.start()


@given(parsers.parse("the orchestrator runs on engine {number:d}"))
def _runs_on(world: World, number: int) -> None:
    world.write_pools(number)
    world.start()


@when(parsers.parse("the file of pools names engine {number:d}"))
def _names(world: World, number: int) -> None:
    world.write_pools(number)


@when("the file of pools names an adapter that is not there")
def _names_nothing(world: World) -> None:
    world.write_pools(adapter="nope")


# --- what clients do


@when(parsers.re(SENTENCE))
def _sent(world: World, sentence: str) -> None:
    world.send(**task_of(sentence))


@given(parsers.re(SENTENCE))
def _taken_in(world: World, sentence: str) -> None:
    world.send(**task_of(sentence))
    assert world.answer.status == 202, world.answer


@step(parsers.parse('task "{name}" is read'))
def _read(world: World, name: str) -> None:
    assert world.read(name).status == 200


@step(parsers.parse('task "{name}" has its first token'))
def _first(world: World, name: str) -> None:
    world.until(f"{name} has a token", lambda: world.readings[name].text != "")


@when(parsers.parse('the reader of task "{name}" leaves'))
def _leaves(world: World, name: str) -> None:
    world.leave(name)


@when(parsers.parse('task "{name}" is cancelled'))
def _cancelled(world: World, name: str) -> None:
    world.ask("POST", f"/v1/tasks/{id_of(name)}/cancel")


@step(parsers.re(r"(?P<count>\d+)(?: more)? tasks of (?P<tokens>\d+) tokens are being read"))
def _crowd(world: World, count: str, tokens: str) -> None:
    names = [f"task{len(world.readings) + number}" for number in range(int(count))]
    for name in names:
        world.send(name, max_tokens=int(tokens))
        assert world.answer.status == 202, world.answer
    for name in names:
        assert world.read(name).status == 200
    world.until("all of them have a token", lambda: all(world.readings[name].text for name in names))


@when("the pools are reloaded")
def _reloaded(world: World) -> None:
    world.ask("POST", "/v1/pools/chat/reload")


@when("the pool is drained")
def _drained(world: World) -> None:
    world.ask("POST", "/v1/pools/chat/drain")


@when(parsers.parse("replica {replica:d} is drained to its end"))
def _emptied(world: World, replica: int) -> None:
    world.ask("POST", f"/v1/pools/chat/drain?replica_id={replica}&wait=true")


@when("the drain of the pool is undone")
def _undrained(world: World) -> None:
    world.ask("POST", "/v1/pools/chat/reload?undrain=true")


@when(parsers.parse("the drain of replica {replica:d} is undone"))
def _filled(world: World, replica: int) -> None:
    world.ask("POST", f"/v1/pools/chat/reload?undrain=true&replica_id={replica}")


@when(parsers.re("the capabilities are asked for(?P<again> again)?"))
def _capabilities(world: World, again: str | None) -> None:
    tags = [answer.headers["ETag"] for answer in world.answers if "ETag" in answer.headers]
    world.ask("GET", "/v1/capabilities", **({"If-None-Match": tags[-1]} if again else {}))


@step(parsers.re(r"a client with (?P<token>.+)"))
def _client(world: World, token: str) -> None:
    world.headers = world.credentials(token)


@when(parsers.re(r'"(?P<path>[^"]+)" is asked for(?: with (?P<token>.+))?'))
def _asked(world: World, path: str, token: str | None) -> None:
    path = re.sub(r"(?<=/tasks/)\w+", lambda found: id_of(found[0]), path)
    world.ask("GET", path, **({} if token is None else world.credentials(token)))


# --- what engines do


@when(parsers.parse("engine {number:d} is killed"))
def _killed(world: World, number: int) -> None:
    world.do(world.engines[number].kill())


@when(parsers.parse("engine {number:d} comes back"))
def _back(world: World, number: int) -> None:
    world.revive(number)


@then(parsers.parse("engine {number:d} is free"))
def _free(world: World, number: int) -> None:
    world.until_engine(number, "works on nothing", lambda look: not look.live)


@then(parsers.parse('engine {number:d} gets to its end with "{name}"'))
def _served(world: World, number: int, name: str) -> None:
    world.until_engine(number, f"got to its end with {name}", lambda look: name in look.ended)


@then(parsers.parse('engine {number:d} was sent "{name}" once'))
def _once(world: World, number: int, name: str) -> None:
    look = world.until_engine(number, f"got to its end with {name}", lambda look: name in look.ended)
    assert look.ended.count(name) == 1


@then(parsers.parse("engine {number:d} has served {count:d} tasks"))
def _share(world: World, number: int, count: int) -> None:
    world.until_engine(number, "is done", lambda look: not look.live)
    assert len(world.look(number).ended) == count


@then(parsers.parse('engine {number:d} was sent "{one}" before "{other}"'))
def _order(world: World, number: int, one: str, other: str) -> None:
    ended = world.until_engine(number, "saw both", lambda look: {one, other} <= set(look.ended)).ended
    assert ended.index(one) < ended.index(other)


@then(parsers.parse('engine {number:d} never saw "{name}"'))
def _unseen(world: World, number: int, name: str) -> None:
    live, ended = world.look(number)
    assert name not in live + ended


# --- what comes of it


@then(parsers.parse("the answer is {status:d}"))
def _status(world: World, status: int) -> None:
    assert world.answer.status == status, world.answer


@then("it tells where the stream is")
def _where(world: World) -> None:
    task_id = world.answer.body["task_id"]
    assert world.answer.headers["Location"] == f"/v1/tasks/{task_id}"


@then("it tells when to come again")
def _again(world: World) -> None:
    told = world.answer
    backoff = int(told.headers["X-Backoff-Ms"])
    assert backoff == told.body["retry_after_ms"] > 0
    assert int(told.headers["Retry-After"]) == -(-backoff // 1000)


@then("it asks for a token")
def _challenge(world: World) -> None:
    assert world.answer.headers["WWW-Authenticate"] == "Bearer"


@then(parsers.parse("it is at place {place:d} of the queue"))
def _place(world: World, place: int) -> None:
    assert world.answer.body["queue_position"] == place


@then(parsers.parse('it says "{words}"'))
def _says(world: World, words: str) -> None:
    assert words in world.answer.body["message"]


@then(parsers.parse('"{order}" would undo a drain'))
def _undo(world: World, order: str) -> None:
    assert order in world.answer.body["undo"]


@then("nothing was cut")
def _uncut(world: World) -> None:
    assert world.answer.body["cut"] == 0


@then(parsers.parse("replica {replica} has {slots:d} slots"))
def _slots(world: World, replica: str, slots: int) -> None:
    seen = world.answer.body["pools"]["chat"]["replicas"][replica]
    assert seen["capabilities"]["slots"] == slots


@then(parsers.parse("it went to replica {first}, then to replica {second}"))
def _went(world: World, first: str, second: str) -> None:
    assert [each["replica"] for each in world.answer.body["attempts"]] == [f"chat/{first}", f"chat/{second}"]


@then("both answers are the same")
def _same(world: World) -> None:
    one, other = world.answers[-2:]
    assert (one.status, one.body) == (other.status, other.body)


@then(parsers.parse('task "{name}" is "{state}"'))
def _state(world: World, name: str, state: str) -> None:
    assert world.ask("GET", f"/v1/tasks/{id_of(name)}").body["state"] == state


@then(parsers.parse('task "{name}" gets all of its {count:d} tokens'))
def _whole(world: World, name: str, count: int) -> None:
    reading = world.finished(name)
    assert reading.shape == ["started", *["token"] * count, "end"]
    assert reading.text == "".join(f"{name}.{number} " for number in range(count))
    assert reading.frames[-1].data["finish_reason"] == "length"


@then(parsers.parse('task "{name}" ends as "{reason}"'))
def _ends(world: World, name: str, reason: str) -> None:
    last = world.finished(name).frames[-1]
    assert (last.event, last.data["finish_reason"]) == ("end", reason)


@then(parsers.parse('task "{name}" fails with "{code}"'))
def _fails(world: World, name: str, code: str) -> None:
    last = world.finished(name).frames[-1]
    assert (last.event, last.data["code"]) == ("error", code)


@then(parsers.parse("all of the {count:d} tasks get all of their {tokens:d} tokens"))
def _all_whole(world: World, count: int, tokens: int) -> None:
    assert len(world.readings) == count
    for name in world.readings:
        _whole(world, name, tokens)


@then(parsers.parse('it is told that "{words}"'))
def _told(world: World, words: str) -> None:
    line_part = in_words(words)
    world.until(f"a line tells that {words}", lambda: any(line_part in line for line in world.lines))
