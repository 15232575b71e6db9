"""What vLLM's own routes send and take, as Structs and pure functions. Completions and chat are OpenAI's dialect.

Seen with version 0.32.0.
"""

import re
from datetime import datetime
from typing import Annotated, Self

import msgspec
from llama_orch_adapter_api import Capabilities, Grammar, TaskRequest, WorkerProps
from llama_orch_http_util.openai import Count, body_of

ENGINE = "vllm"

_GAUGE = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)(?:\{.*\})? "
    rb"(\d{1,15}(?:\.\d{1,30})?(?:e-\d\d)?)(?!\S)",
    re.MULTILINE,
)
"""A gauge of `/metrics` and its value; one that is no sensible number is passed over."""


class Version(msgspec.Struct, frozen=True):
    """`GET /version`."""

    version: str


class Model(msgspec.Struct, frozen=True):
    """One name that the engine answers to; `max_model_len` in tokens."""

    id: str
    max_model_len: Count | None = None


class Models(msgspec.Struct, frozen=True):
    """`GET /v1/models`: the model first, then its other names and adapters."""

    data: Annotated[tuple[Model, ...], msgspec.Meta(min_length=1)]


VERSION = msgspec.json.Decoder(Version)
MODELS = msgspec.json.Decoder(Models)


class Load(msgspec.Struct, frozen=True):
    """How busy the engine is; `kv_cache` runs from 0 to 1, of its fullest core."""

    running: int
    waiting: int
    kv_cache: float

    @classmethod
    def read(cls, metrics: bytes) -> Self | None:
        """From the text of `/metrics`, over all the engine's cores; None where it tells nothing of tasks."""
        gauges: dict[bytes, list[float]] = {}
        for name, value in _GAUGE.findall(metrics):
            gauges.setdefault(name, []).append(float(value))
        if b"num_requests_running" not in gauges:
            return None
        return cls(
            running=int(sum(gauges[b"num_requests_running"])),
            waiting=int(sum(gauges.get(b"num_requests_waiting", []))),
            kv_cache=max(gauges.get(b"kv_cache_usage_perc", [0.0])),
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


def worker_props(version: Version, models: Models, slots: int | None, load: Load | None, now: datetime) -> WorkerProps:
    """The boundary's view of `/version`, `/v1/models` and, where `slots` is configured, `/metrics`."""
    model = models.data[0]
    return WorkerProps(
        slots_total=slots,
        slots_free=None if slots is None or load is None else max(0, slots - load.running),
        capabilities=Capabilities(
            engine=ENGINE,
            engine_version=version.version,
            model_id=model.id,
            observed_at=now,
            ctx_max=model.max_model_len,
            batching=True,
            slots=slots,
            features=("chat", "grammar", "json_schema", "logprobs", "seed"),
        ),
    )
