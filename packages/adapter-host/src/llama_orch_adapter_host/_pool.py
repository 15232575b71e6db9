"""A pool: replicas that may stand in for each other, and what its tasks share."""

from ._binding import Binding
from ._closed import Closed
from ._latency import Latency
from ._policy import PoolPolicy
from ._pulse import Pulse
from ._retry import Budget
from ._ring import Ring


class Pool:
    """The bindings of one pool by replica, in the order they were bound."""

    def __init__(self, pool_id: str, policy: PoolPolicy) -> None:
        self.id = pool_id
        self.policy = policy
        self.budget = Budget(policy.retry)
        self.first_token = Latency()
        self.live: set[object] = set()  # its tasks, from admission to their end
        self.average = 0.0  # tasks in flight on one of the replicas that took tasks when they were counted last
        self.average_until = float("-inf")  # the moment from which they are counted anew
        self.turn = 0  # from where the next look at the replicas begins, so that equals share
        self.bindings: dict[str, Binding] = {}
        self.order: tuple[Binding, ...] = ()
        self.pulse = Pulse()  # of all its replicas
        self.closed: Closed | None = None  # what was found out of it last, as long as that holds
        self._ring: Ring[Binding] | None = None

    @property
    def ring(self) -> Ring[Binding]:
        """Where sessions belong; made anew when the replicas change."""
        if self._ring is None:
            self._ring = Ring({binding.info.replica_id: binding for binding in self.order})
        return self._ring

    def known_closed(self, now: float) -> Closed | None:
        """Why it takes no task, where that is known without a look at its replicas."""
        closed = self.closed
        if closed is None or (closed.beats == self.pulse.beats and now < closed.until):
            return closed
        self.closed = None
        return None

    def set(self, binding: Binding) -> None:
        """Put a binding in its place: a new one's last, or that of the one it takes over from."""
        self.bindings[binding.info.replica_id] = binding
        binding.gate.join(self.pulse)
        self._changed()

    def remove(self, replica_id: str) -> None:
        """Take a binding out."""
        del self.bindings[replica_id]
        self._changed()

    def adopt(self, policy: PoolPolicy) -> None:
        """Treat tasks so from now on, those of replicas bound earlier too.

        What the budget holds is kept unless its own figures changed.
        """
        for binding in self.order:
            binding.gate.limit = policy.max_in_flight
        if policy.retry != self.policy.retry:
            self.budget = Budget(policy.retry)
        self.policy = policy

    def _changed(self) -> None:
        self.pulse.beats += 1
        self.order = tuple(self.bindings.values())
        self._ring = None
        self.average_until = float("-inf")
