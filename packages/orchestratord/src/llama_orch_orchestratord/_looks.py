"""What replicas can do, and what became of a task, over HTTP. No engine is asked."""

import hashlib
from datetime import UTC, datetime

import msgspec
from aiohttp import web
from llama_orch_adapter_host import CapabilitySnapshot, FlightRecord, PoolCapabilities, Snapshot

from ._keys import HOST, JOBS
from ._refusal import invalid
from ._routes import Reply, Route, answer

_NO_TIME = datetime.fromtimestamp(0, UTC)


async def _capabilities(request: web.Request) -> web.Response:
    snapshot = request.app[HOST].capabilities()
    tag = content_tag(snapshot)
    headers = {"ETag": f'W/"{tag}"', "Cache-Control": "no-cache"}
    known = request.if_none_match or ()
    if any(each.value in {tag, "*"} for each in known):
        return web.Response(status=304, headers=headers)
    return answer(200, snapshot, headers)


def content_tag(snapshot: CapabilitySnapshot) -> str:
    """The same for two snapshots that differ in no more than when engines were asked."""
    timeless = {
        pool_id: PoolCapabilities({replica_id: _timeless(seen) for replica_id, seen in pool.replicas.items()})
        for pool_id, pool in snapshot.pools.items()
    }
    return hashlib.blake2b(msgspec.json.encode(timeless, order="deterministic"), digest_size=16).hexdigest()


def _timeless(seen: Snapshot) -> Snapshot:
    capabilities = seen.capabilities
    if capabilities is not None:
        capabilities = msgspec.structs.replace(capabilities, observed_at=_NO_TIME)
    return msgspec.structs.replace(seen, capabilities=capabilities, age=None, observed_at=None)


async def _explain(request: web.Request) -> web.Response:
    task_id = request.match_info["task_id"]
    record = request.app[HOST].explain(task_id)
    if record is not None:
        return answer(200, record)
    job = request.app[JOBS].find(task_id)
    raise invalid(
        f"task {task_id} is {job.state}, and was sent to no replica · GET /v1/tasks/{task_id} tells how it stands",
        status=404,
        detail="not_found",
    )


ROUTES = (
    Route(
        name="capabilities",
        method="GET",
        path="/v1/capabilities",
        handler=_capabilities,
        summary="What every replica of every pool can do, as it was last seen. No engine is asked.",
        takes=("If-None-Match",),
        replies={
            200: Reply(
                "All of it. The ETag stays the same while nothing changes but the times.",
                (CapabilitySnapshot,),
                headers=("ETag", "Cache-Control"),
            ),
            304: Reply("It is as If-None-Match says.", headers=("ETag", "Cache-Control")),
        },
    ),
    Route(
        name="explainTask",
        method="GET",
        path="/v1/tasks/{task_id}/explain",
        handler=_explain,
        summary="The flight record: which replicas a task was sent to, why, and what each answered.",
        replies={200: Reply("The record. It grows while the task runs.", (FlightRecord,))},
        refusals={404: "No task has this id, or it was sent to no replica."},
    ),
)
