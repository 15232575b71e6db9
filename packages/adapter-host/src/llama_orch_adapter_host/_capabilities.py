"""What every replica can do, as it was last seen. Reading asks nobody; changes are events."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec
from llama_orch_adapter_api import Capabilities, WorkerError, WorkerProps, one_line

from ._binding import Binding

_NAMES = {"ctx_max": "context", "model_id": "model", "model_digest": "model digest", "engine_version": "engine"}
"""What people call a field."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica can do. `capabilities` is None until its engine answered once.

    `age` is in seconds, since the engine was asked. `stale`: it did not answer when it was last asked, `problem` says
    why, or nobody asked for too long. `generation` is that of the binding that was asked.
    """

    engine: str
    generation: int
    capabilities: Capabilities | None
    observed_at: datetime | None
    age: float | None
    stale: bool
    slots_total: int | None = None
    slots_free: int | None = None
    problem: str | None = None


class PoolCapabilities(msgspec.Struct, frozen=True):
    """A pool's replicas by id."""

    replicas: Mapping[str, Snapshot]


class CapabilitySnapshot(msgspec.Struct, frozen=True):
    """Everything the host knows of its pools at one moment; it serves as `/v1/capabilities`."""

    pools: Mapping[str, PoolCapabilities]


class _Seen:
    """The latest answers of one binding."""

    def __init__(self) -> None:
        self.props: WorkerProps | None = None
        self.at = 0.0  # on the host's clock
        self.observed_at: datetime | None = None  # the same moment, on the wall's
        self.problem: str | None = None


class CapabilityCache:
    """By binding. `patience` is how many seconds an answer stays fresh at the least, on a monotonic `clock`."""

    def __init__(self, patience: float, clock: Callable[[], float]) -> None:
        self._patience = patience
        self._clock = clock
        self._seen: dict[Binding, _Seen] = {}

    def saw(self, binding: Binding, answer: WorkerProps | WorkerError) -> tuple[str, ...]:
        """Take in what a replica answered; what changed, one sentence each. The first answer changes nothing."""
        seen = self._seen.setdefault(binding, _Seen())
        if isinstance(answer, WorkerError):
            seen.problem = answer.message
            return ()
        before, seen.props, seen.problem = seen.props, answer, None
        seen.at, seen.observed_at = self._clock(), datetime.now(UTC)
        binding.gate.slots = answer.slots_total
        return () if before is None else changes(before.capabilities, answer.capabilities)

    def hand_over(self, old: Binding, new: Binding) -> tuple[str, ...]:
        """A new generation took the place of an old one; what it can do differently."""
        before, after = self._seen.get(old), self._seen.get(new)
        if before is None or after is None or before.props is None or after.props is None:
            return ()
        return changes(before.props.capabilities, after.props.capabilities)

    def known(self, binding: Binding) -> Capabilities | None:
        """What it can do, None until it answered once."""
        seen = self._seen.get(binding)
        return None if seen is None or seen.props is None else seen.props.capabilities

    def forget(self, binding: Binding) -> None:
        """A binding is gone."""
        self._seen.pop(binding, None)

    def age(self, binding: Binding) -> float:
        """Seconds since it last answered, infinite where it never did."""
        seen = self._seen.get(binding)
        return float("inf") if seen is None or seen.props is None else self._clock() - seen.at

    def of(self, binding: Binding, pause: float = 0.0) -> Snapshot:
        """As it is known now. `pause` is how many seconds may lie between two looks at it: three make it stale."""
        info, age = binding.info, self.age(binding)
        seen = self._seen.get(binding) or _Seen()
        if seen.props is None:
            return Snapshot(
                engine=info.engine,
                generation=info.generation,
                capabilities=None,
                observed_at=None,
                age=None,
                stale=True,
                problem=seen.problem,
            )
        return Snapshot(
            engine=info.engine,
            generation=info.generation,
            capabilities=seen.props.capabilities,
            observed_at=seen.observed_at,
            age=age,
            stale=seen.problem is not None or age > max(self._patience, 3 * pause),
            slots_total=seen.props.slots_total,
            slots_free=seen.props.slots_free,
            problem=seen.problem,
        )


def changes(before: Capabilities, after: Capabilities) -> tuple[str, ...]:
    """What one can do that the other cannot, one sentence each: "context shrank 32768 → 8192"."""
    told: list[str] = []
    for field in before.__struct_fields__:
        old, new = getattr(before, field), getattr(after, field)
        if old == new or field == "observed_at":
            continue
        told.append(_change(_NAMES.get(field, field), old, new))
    return tuple(told)


def _change(name: str, old: object, new: object) -> str:
    if isinstance(old, tuple) and isinstance(new, tuple):
        lost, won = [w for w in old if w not in new], [w for w in new if w not in old]
        words = [*(f"-{one_line(word)}" for word in lost), *(f"+{one_line(word)}" for word in won)]
        return f"{name} {' '.join(words) or 'reordered'}"
    if isinstance(old, int) and isinstance(new, int) and not isinstance(new, bool):
        return f"{name} {'shrank' if new < old else 'grew'} {old} → {new}"
    return f"{name} changed {one_line(str(old))} → {one_line(str(new))}"


def capabilities_schema() -> dict[str, object]:
    """The JSON schema of a `CapabilitySnapshot`."""
    return msgspec.json.schema(CapabilitySnapshot)
