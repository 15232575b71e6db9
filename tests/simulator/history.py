"""Which generation of each replica served when, by the host's own events, and what must follow from that."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator

from llama_orch_adapter_host import AttemptRecord
from llama_orch_adapter_host.events import HostEvent, ReplicaBound, ReplicaDraining, ReplicaRebound

from .changes import DRAIN
from .story import Story

_SLACK = 1.0
"""Seconds by which a stream may outlive the drain limit: the host looks at it now and then."""


class History:
    """Moments on the loop's clock, by replica; generation 0 is none."""

    def __init__(self) -> None:
        self._served: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self._drained: dict[tuple[str, int], float] = {}

    def note(self, event: HostEvent, now: float) -> None:
        """Learn of a change."""
        match event:
            case ReplicaBound() | ReplicaRebound():
                self._served[f"{event.pool_id}/{event.replica_id}"].append((now, event.generation))
            case ReplicaDraining():
                replica = f"{event.pool_id}/{event.replica_id}"
                self._drained[replica, event.generation] = now
                if self._served[replica][-1][1] == event.generation:  # nothing took its place
                    self._served[replica].append((now, 0))
            case _:
                pass

    def broken(self, stories: Iterable[Story]) -> Iterator[str]:
        """The rules that did not hold."""
        for story in stories:
            for attempt in story.attempts:
                began = story.began + attempt.began_after
                rules = {
                    "sent to the generation that serves": attempt.generation in self._serving(attempt.replica, began),
                    "cut by no drain before its limit": not self._cut_early(attempt, began),
                    "gone when its generation was drained": not self._outlived(attempt, began),
                }
                yield from (f"{name} · {story}" for name, holds in rules.items() if not holds)

    def _serving(self, replica: str, moment: float) -> set[int]:
        """The generation then; both where one took over in that very moment."""
        served = self._served[replica]
        moments = [each for each, _ in served]
        some = {bisect_right(moments, moment - 1e-6), bisect_right(moments, moment + 1e-6)}
        return {served[number - 1][1] for number in range(min(some), max(some) + 1) if number}

    def _cut_early(self, attempt: AttemptRecord, began: float) -> bool:
        if attempt.detail != "drained":
            return False
        drained = self._drained.get((attempt.replica, attempt.generation), began)
        return began + (attempt.duration or 0.0) < drained + DRAIN - 1e-3

    def _outlived(self, attempt: AttemptRecord, began: float) -> bool:
        drained = self._drained.get((attempt.replica, attempt.generation))
        return drained is not None and began + (attempt.duration or 0.0) > max(drained, began) + DRAIN + _SLACK
