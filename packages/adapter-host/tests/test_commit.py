"""After its first token a task is never sent again (battery 15)."""

import collections
import random
from collections.abc import AsyncIterator

import pytest
from llama_orch_adapter_api import Metrics, TaskRequest, Token, TokenEvent, WorkerError
from llama_orch_adapter_host import FlightRecord, PoolPolicy

from .adapters import STARTED, Words, host_of, run_many, task  # type: ignore[import-not-found]  # no packages
from .replicas import NEVER_OPEN, TAXONOMY, praise  # type: ignore[import-not-found]  # as above

FAULTS = 10_000


class Faulty(Words):
    """Gives as many tokens as are drawn, between metrics, and then fails as it is drawn."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.gave: dict[str, list[str]] = {}
        self.sent: collections.Counter[str] = collections.Counter()

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        rng = self.rng
        self.sent[task.task_id] += 1
        gave = self.gave.setdefault(task.task_id, [])
        yield STARTED
        for i in range(rng.randrange(1, 9)):
            if rng.random() < 0.2:
                yield Metrics()
            gave.append(f"{rng.randrange(100)} ")
            yield Token(gave[-1], i, rng.choice(("content", "reasoning", "tool_call")))
        kind, detail = rng.choice(TAXONOMY)
        if rng.random() < 0.05:
            raise KeyError(detail)
        raise kind(
            "it failed", detail=detail, retry_after=rng.choice((None, 0.0, 1.0)), stale_connection=rng.random() < 0.2
        )


@pytest.mark.timeout(120)
def test_nothing_is_sent_again_after_a_token():
    """Battery 15: over 10^4 random faults in mid-stream: no attempt after the first token, no token twice or lost."""
    seed = random.randrange(2**32)

    async def main() -> collections.Counter[str]:
        rng = random.Random(seed)
        replicas = [Faulty(rng) for _ in range(3)]
        details: collections.Counter[str] = collections.Counter()
        async with host_of(*replicas, policy=PoolPolicy(breaker=NEVER_OPEN)) as host:
            for number in range(FAULTS):
                if number % 500 == 0:
                    praise(host)
                for binding in host._registry.all():  # each of them takes each task
                    binding.gate.paused_until = 0.0
                    binding.gate.health._believe("ready", "")
                request = task()
                given = []
                try:
                    async for event in await host.submit("pool", request):
                        if isinstance(event, Token):
                            given.append(event.t)  # noqa: PERF401  # what came before the fault counts
                except WorkerError as error:
                    details[error.detail] += 1
                    assert isinstance(error.record, FlightRecord)
                    assert (error.phase, error.attempts, len(error.record.attempts)) == ("decode", 1, 1)
                assert sum(replica.sent[request.task_id] for replica in replicas) == 1
                assert [gave for replica in replicas if (gave := replica.gave.get(request.task_id))] == [given]
        return details

    details = run_many(main())
    print(f"seed {seed}: {sum(details.values())} faults of {len(details)} details, no attempt more, no token less")

    assert sum(details.values()) == FAULTS
    assert set(details) == {detail for _, detail in TAXONOMY}
