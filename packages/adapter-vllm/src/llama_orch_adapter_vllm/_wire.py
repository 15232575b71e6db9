"""What vLLM's own routes send and take, as Structs and pure functions. Completions and chat are OpenAI's dialect.

Seen with version 0.32.0.
"""

from datetime import datetime
from typing import Annotated, Self

import msgspec
from llama_orch_adapter_api import Capabilities, Grammar, TaskRequest, WorkerProps, Workload
from llama_orch_http_util import gauges
from llama_orch_http_util.openai import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, Count, body_of

ENGINE = "vllm"

_GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")

_ROUTES: dict[Workload, tuple[str, ...]] = {
    "completion": (COMPLETIONS, CHAT),
    "embedding": (EMBEDDINGS,),
    "rerank": (RERANK,),
}
"""By workload, the routes of which one at least is there where the engine serves it."""


class Version(msgspec.Struct, frozen=True):
    """`GET /version`."""

    version: str


class Model(msgspec.Struct, frozen=True):
    """One name that the engine answers to; `max_model_len` in tokens. `root` is what it was loaded from."""

    id: str
    root: str = ""
    max_model_len: Count | None = None

    @property
    def source(self) -> str | None:
        """The hub's name, or the folder's: a path says too much about a machine."""
        path = self.root.rstrip("/")
        return (path.rpartition("/")[2] if path.startswith(("/", ".", "~")) else path) or None


class Models(msgspec.Struct, frozen=True):
    """`GET /v1/models`: the model first, then its other names and adapters."""

    data: Annotated[tuple[Model, ...], msgspec.Meta(min_length=1)]


class Routes(msgspec.Struct, frozen=True):
    """`GET /openapi.json`: the routes. A generate model has none for embeddings, and the other way round."""

    paths: dict[str, msgspec.Raw]

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """What the engine serves."""
        return tuple(workload for workload, any_of in _ROUTES.items() if any(route in self.paths for route in any_of))


VERSION = msgspec.json.Decoder(Version)
MODELS = msgspec.json.Decoder(Models)
ROUTES = msgspec.json.Decoder(Routes)


class Load(msgspec.Struct, frozen=True):
    """How busy the engine is; `kv_cache` runs from 0 to 1, of its fullest core."""

    running: int
    waiting: int
    kv_cache: float

    @classmethod
    def read(cls, metrics: bytes) -> Self | None:
        """From the text of `/metrics`, over all the engine's cores; None where it tells nothing of tasks."""
        seen = gauges(metrics, "vllm:", _GAUGES)
        if "num_requests_running" not in seen:
            return None
        return cls(
            running=int(sum(seen["num_requests_running"])),
            waiting=int(sum(seen.get("num_requests_waiting", []))),
            kv_cache=max(seen.get("kv_cache_usage_perc", [0.0])),
        )

    def __str__(self) -> str:
        return f"{self.running} running, {self.waiting} waiting, KV cache {self.kv_cache:.0%} full"


def request_body(task: TaskRequest, model: str) -> dict[str, object]:
    """The body of a completion task, for the route that `path_of` names."""
    body = body_of(task, model)
    if task.sampling.repeat_penalty is not None:
        body["repetition_penalty"] = task.sampling.repeat_penalty
    if isinstance(task.response_format, Grammar):
        body["structured_outputs"] = {"grammar": task.response_format.grammar}
    return body | task.extra


def worker_props(
    version: Version,
    models: Models,
    now: datetime,
    *,
    routes: Routes | None = None,
    slots: int | None = None,
    load: Load | None = None,
) -> WorkerProps:
    """The boundary's view of `/version`, `/v1/models`, and of `/openapi.json` and `/metrics` where they are served."""
    model = models.data[0]
    workloads: tuple[Workload, ...] = ("completion",) if routes is None else routes.workloads
    features = {
        "chat": routes is None or CHAT in routes.paths,
        **dict.fromkeys(("grammar", "json_schema", "logprobs", "seed"), "completion" in workloads),
        "confirms_cancel": load is not None,
    }
    return WorkerProps(
        slots_total=slots,
        slots_free=None if slots is None or load is None else max(0, slots - load.running),
        capabilities=Capabilities(
            engine=ENGINE,
            engine_version=version.version,
            model_id=model.id,
            observed_at=now,
            model_source=model.source,
            ctx_max=model.max_model_len,
            batching=True,
            slots=slots,
            workloads=workloads,
            features=tuple(feature for feature, has in features.items() if has),
        ),
    )
