"""Which plugins are installed, from metadata alone: nothing of theirs is imported here."""

import re
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from typing import Literal, NamedTuple

import msgspec
from llama_orch_adapter_api import ENTRY_POINT_GROUP

from ._config import PluginsConfig
from ._guard import told

State = Literal["found", "ready", "hooks off", "broken", "hangs", "duplicate", "incompatible", "blocked"]

AS_WANTED: frozenset[str] = frozenset({"found", "ready", "blocked"})
"""States that somebody asked for."""

QUARANTINED: frozenset[str] = frozenset({"broken", "hangs", "hooks off"})
"""States of what misbehaved."""


class Plugin(msgspec.Struct, frozen=True):
    """One entry point and what became of it. `mend` is what to do where it is not ready.

    A plugin is `found` until it is loaded. Of one that is `ready`, or has its `hooks off` because they misbehaved, the
    `engines` and `routes` serve. `dropped` counts what its hooks were not told because they were too far behind.
    """

    name: str
    version: str
    api: int | None
    state: State
    origin: str
    engines: tuple[str, ...] = ()
    mend: str = ""
    routes: tuple[str, ...] = ()
    dropped: int = 0

    @property
    def serves(self) -> bool:
        """Whether what it registered can be used."""
        return self.state in ("ready", "hooks off")


class Candidate(NamedTuple):
    """A plugin and the way to it; None where its metadata cannot be read."""

    plugin: Plugin
    point: EntryPoint | None


def scan(lists: PluginsConfig, found: Iterable[EntryPoint] | None = None) -> list[Candidate]:
    """Every entry point of our group, by name: `found`, `blocked`, `duplicate`, or `broken` where it cannot be read."""
    points, unreadable = _installed() if found is None else (list(found), [])
    candidates = [Candidate(_listed(point, lists), point) for point in points]
    owners: dict[str, list[str]] = defaultdict(list)
    for plugin, _ in candidates:
        if plugin.state == "found":
            owners[plugin.name].append(plugin.origin)
    told_apart = [Candidate(_duplicate(plugin, owners[plugin.name]), point) for plugin, point in candidates]
    return sorted([*told_apart, *unreadable], key=lambda candidate: (candidate.plugin.name, candidate.plugin.origin))


def normalised(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed() -> tuple[list[EntryPoint], list[Candidate]]:
    try:
        return list(entry_points(group=ENTRY_POINT_GROUP)), []
    except Exception:  # noqa: BLE001  # some package's metadata are spoilt, which one is found out below
        return _one_by_one()


def _one_by_one() -> tuple[list[EntryPoint], list[Candidate]]:
    """As `entry_points` finds them, the first of a name alone, but for those that cannot be read."""
    points: list[EntryPoint] = []
    unreadable: list[Candidate] = []
    seen: set[str] = set()
    for distribution in distributions():
        name, version = _told_by(distribution)
        if name and normalised(name) in seen:
            continue
        seen.add(normalised(name or ""))
        try:
            points += distribution.entry_points.select(group=ENTRY_POINT_GROUP)
        except Exception as error:  # noqa: BLE001  # whatever its files hold
            unreadable.append(_unreadable(name or "?", version or "?", error))
    return points, unreadable


def _unreadable(name: str, version: str, error: Exception) -> Candidate:
    mend = f"its entry_points.txt cannot be read ({told(error)}); install it again, or remove it"
    return Candidate(Plugin(name, version, None, "broken", name, (), mend), None)


def _listed(point: EntryPoint, lists: PluginsConfig) -> Plugin:
    owner, version = _told_by(point.dist) if point.dist else (None, None)
    mend = _refusal(lists, point.name, owner)
    return Plugin(point.name, version or "?", None, "blocked" if mend else "found", owner or point.value, (), mend)


def _told_by(distribution: Distribution) -> tuple[str | None, str | None]:
    """Its name and version, as far as it knows: a package half removed does not."""
    try:
        return distribution.name, distribution.version
    except Exception:  # noqa: BLE001  # its metadata are spoilt or gone
        return None, None


def _refusal(lists: PluginsConfig, name: str, owner: str | None) -> str:
    if _holds(lists.block, name, owner):
        return "plugins.block names it; to use it, take it off that list"
    if lists.block and owner is None:
        return "its package lost its own name, so plugins.block may mean it; install it again"
    if lists.allow is not None and not _holds(lists.allow, name, owner):
        return "plugins.allow does not name it; to use it, add it to that list"
    return ""


def _holds(names: Iterable[str], name: str, owner: str | None) -> bool:
    """Whether a list names the entry point, or the distribution that owns it."""
    return any(entry == name or (owner and normalised(entry) == normalised(owner)) for entry in names)


def _duplicate(plugin: Plugin, owners: list[str]) -> Plugin:
    if plugin.state != "found" or len(owners) == 1:
        return plugin
    mend = f"keep one of the packages that own it: {', '.join(sorted(owners))}"
    return msgspec.structs.replace(plugin, state="duplicate", mend=mend)
