"""The process as Prometheus metrics: what the host counts, what is counted of tasks here, and memory, CPU and files."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, get_args

from aiohttp import web
from llama_orch_adapter_api import one_line
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_host.events import ReplicaBound
from llama_orch_adapter_host.observe import Metrics
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ._counts import Census, Counts, Loss, PoolCounts
from ._jobs import Jobs
from ._queue import Priority
from ._refusal import Reason
from ._routes import Reply, Route

L = TypeVar("L", bound=str)

_POOL = ("pool",)


class TaskMetrics(Collector):
    """The counts of tasks, and how many there were of each kind when `census` was last set."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.census: Mapping[str, Census] = {}
        self.known = 0

    def collect(self) -> Iterator[Metric]:
        """What there is now; from whichever thread."""
        yield from _of_census(self.census)
        known = GaugeMetricFamily("orchestratord_tasks_known", "Tasks in the table, of which tasks.limit may be")
        known.add_metric((), self.known)
        yield known
        yield from _of_counts(tuple(self._counts.pools.items()))

    def describe(self) -> Iterable[Metric]:
        """The metrics without their counts."""
        return (*_of_census({}), *_of_counts(()))


def _of_census(census: Mapping[str, Census]) -> Iterator[Metric]:
    depth = GaugeMetricFamily("orchestratord_queue_depth", "Tasks that wait", labels=("pool", "priority"))
    running = GaugeMetricFamily("orchestratord_tasks_running", "Tasks that have a slot", labels=_POOL)
    unread = GaugeMetricFamily("orchestratord_tasks_unread", "Tasks begun that nobody reads", labels=_POOL)
    readers = GaugeMetricFamily("orchestratord_stream_readers", "Clients that read a task", labels=_POOL)
    for pool_id, counted in census.items():
        pool = one_line(pool_id)
        depth.add_metric((pool, "interactive"), counted.interactive)
        depth.add_metric((pool, "batch"), counted.batch)
        running.add_metric((pool,), counted.running)
        unread.add_metric((pool,), counted.unread)
        readers.add_metric((pool,), counted.read)
    return iter((depth, running, unread, readers))


def _of_counts(pools: Iterable[tuple[str, PoolCounts]]) -> Iterator[Metric]:
    admitted = CounterMetricFamily("orchestratord_admitted", "Tasks taken in", labels=("pool", "priority"))
    refused = CounterMetricFamily("orchestratord_refused", "Tasks not taken in", labels=("pool", "reason"))
    dropped = CounterMetricFamily(
        "orchestratord_dropped", "Tasks ended without their engine", labels=("pool", "reason")
    )
    disconnects = CounterMetricFamily(
        "orchestratord_disconnects", "Clients that left, which cancelled their task", labels=_POOL
    )
    waits = HistogramMetricFamily("orchestratord_queue_wait_seconds", "From admission to a slot", labels=_POOL)
    for pool_id, counts in pools:
        pool = one_line(pool_id)
        _add(admitted, pool, get_args(Priority), counts.admitted)
        _add(refused, pool, get_args(Reason), counts.refused)
        _add(dropped, pool, get_args(Loss), counts.dropped)
        disconnects.add_metric((pool,), counts.disconnects)
        counts.waits.add_to(waits, (pool,))
    return iter((admitted, refused, dropped, disconnects, waits))


def _add(family: CounterMetricFamily, pool: str, labels: Iterable[L], counts: Mapping[L, int]) -> None:
    for label in labels:
        family.add_metric((pool, label), counts[label])


class Scrapes:
    """What Prometheus is told. Made before the host binds anything, as far as it can be."""

    def __init__(self, host: AdapterHost) -> None:
        self._registry = CollectorRegistry()
        self._one = asyncio.Lock()
        self._jobs: Jobs | None = None
        self._tasks: TaskMetrics | None = None
        metrics = Metrics(self._registry)
        ProcessCollector(registry=self._registry)
        for pool_id, pool in host.capabilities().pools.items():
            for replica_id, seen in pool.replicas.items():  # bound before anybody listened
                metrics(
                    ReplicaBound(pool_id=pool_id, replica_id=replica_id, engine=seen.engine, generation=seen.generation)
                )
        self.deafen = host.observe(metrics)

    def count(self, jobs: Jobs) -> None:
        """Tell of these tasks, too."""
        self._jobs = jobs
        self._tasks = TaskMetrics(jobs.counts)
        self._registry.register(self._tasks)

    async def text(self, accept: str) -> tuple[bytes, str]:
        """All of it, and its content type, which suits a header `Accept`. Written in a thread, one at a time."""
        encode, content_type = choose_encoder(accept)
        async with self._one:
            if self._jobs is not None and self._tasks is not None:
                self._tasks.census, self._tasks.known = self._jobs.census(), len(self._jobs)
            return await asyncio.to_thread(encode, self._registry), content_type


SCRAPES = web.AppKey("scrapes", Scrapes)


async def _metrics(request: web.Request) -> web.Response:
    text, content_type = await request.app[SCRAPES].text(request.headers.get("Accept", ""))
    return web.Response(body=text, headers={"Content-Type": content_type})


ROUTES = (
    Route(
        name="metrics",
        method="GET",
        path="/metrics",
        handler=_metrics,
        summary="The host's, the tasks' and the process's figures for Prometheus.",
        replies={
            200: Reply("In the form that Accept asks for.", (str,), ("text/plain", "application/openmetrics-text")),
        },
    ),
)
