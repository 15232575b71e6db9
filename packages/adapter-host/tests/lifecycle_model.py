"""What bindings shall do, told anew and far simpler: names and numbers, no adapter, no task, no lock."""

from collections import Counter
from dataclasses import dataclass, field

Place = tuple[str, str]
Named = tuple[Place, int]
"""A generation of a place."""


@dataclass
class Model:
    """`limit` seconds after a generation is drained its streams are cut."""

    limit: float
    built: Counter[Place] = field(default_factory=Counter)  # generations so far
    current: dict[Place, int] = field(default_factory=dict)
    variant: dict[Named, str] = field(default_factory=dict)  # what each is built from
    held: dict[Place, int] = field(default_factory=dict)
    since: dict[Named, float] = field(default_factory=dict)  # when it began to be drained
    gone: set[Named] = field(default_factory=set)  # out of the registry, or never in it
    open: dict[str, Named] = field(default_factory=dict)  # streams
    cut: set[str] = field(default_factory=set)

    def build(self, place: Place, variant: str) -> Named:
        self.built[place] += 1
        named = place, self.built[place]
        self.variant[named] = variant
        return named

    def put(self, named: Named, now: float) -> None:
        """It takes the place, and whatever had it is drained and gone."""
        place, generation = named
        self.remove(place, now)
        self.current[place] = generation

    def remove(self, place: Place, now: float) -> None:
        generation = self.current.pop(place, None)
        if generation is not None:
            self.since.setdefault((place, generation), now)
            self.gone.add((place, generation))

    def drop(self, place: Place) -> None:
        """What is held for it is let go of."""
        if place in self.held:
            self.gone.add((place, self.held.pop(place)))

    def next(self, place: Place, variant: str) -> Named:
        """The one that is held, if it is right, else one that is built now."""
        held = self.held.get(place)
        if held is not None and self.variant[place, held] == variant and held > self.current.get(place, 0):
            del self.held[place]
            return place, held
        self.drop(place)
        return self.build(place, variant)

    def fail(self, named: Named) -> None:
        """It was built and never bound."""
        self.gone.add(named)

    def same(self, place: Place, variant: str) -> bool:
        generation = self.current.get(place)
        return generation is not None and self.variant[place, generation] == variant

    def takes(self, place: Place) -> bool:
        """Whether a task may be sent there."""
        return place in self.current and (place, self.current[place]) not in self.since

    def tick(self, now: float) -> None:
        """Streams whose generation's limit is over are cut."""
        for task_id, named in list(self.open.items()):
            if now >= self.since.get(named, now) + self.limit:
                self.cut.add(task_id)
                del self.open[task_id]

    def closed(self) -> set[Named]:
        """Those whose adapter is closed: gone, and without a stream."""
        return {named for named in self.gone if named not in self.open.values()}
