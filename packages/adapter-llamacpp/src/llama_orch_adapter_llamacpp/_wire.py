"""What llama.cpp's own routes send and take, as Structs and pure functions. Chat is OpenAI's dialect (http-util).

Seen with the server of b11549. The native `/completion` ends on `stop: true`, never on `[DONE]`.
"""

from datetime import datetime
from typing import Self

import msgspec
from llama_orch_adapter_api import Capabilities, End, Grammar, JsonSchema, TaskRequest, Token, WorkerProps, Workload
from llama_orch_http_util import ErrorObject, error_in_stream, gauges
from llama_orch_http_util.openai import MAX_COUNT, Count, Timings, TokenLogprob, body_of, sampling_of, told, tools_of

ENGINE = "llamacpp"

_ALWAYS = ("chat", "deadline", "grammar", "json_schema", "logprobs", "seed", "deterministic")

LATE_MS = 1000
"""Milliseconds that the engine's own time limit comes after the deadline, at the least.

At its limit the engine ends an answer as it does at `n_predict`, so that who still listens would take it for a whole
one. The host ends the task at its deadline, long before; the engine's limit is for the case that nobody is left to.
"""


RANDOM_SEED = 2**32 - 1
"""What llama.cpp reads as "choose one"."""


class Modalities(msgspec.Struct, frozen=True):
    """What besides text the model reads."""

    vision: bool = False
    audio: bool = False


class TemplateCaps(msgspec.Struct, frozen=True):
    """What the model's chat template can render."""

    supports_tools: bool = False
    supports_tool_calls: bool = False


class Seeded(msgspec.Struct, frozen=True):
    """Of a task's settings, or of those that tasks have by default, the seed."""

    seed: int | None = None


class GenerationDefaults(msgspec.Struct, frozen=True):
    """What a task gets that asks for nothing; `n_ctx` is the context of a slot, in tokens."""

    n_ctx: Count | None = None
    params: Seeded = Seeded()


class Props(msgspec.Struct, frozen=True):
    """`GET /props`."""

    total_slots: Count
    build_info: str
    model_alias: str = ""
    model_path: str = ""
    endpoint_slots: bool = False
    endpoint_metrics: bool = False
    modalities: Modalities = Modalities()
    chat_template_caps: TemplateCaps = TemplateCaps()
    default_generation_settings: GenerationDefaults = GenerationDefaults()

    @property
    def file(self) -> str:
        """The name of the model's file: a path says too much about a machine."""
        return self.model_path.rpartition("/")[2].rpartition("\\")[2]

    @property
    def model_id(self) -> str:
        """The alias the engine was given, else the file's name."""
        return self.model_alias or self.file or "unknown"

    @property
    def seed(self) -> int | None:
        """The seed of tasks that bring none; None where the engine draws one for each, as it does unless told."""
        seed = self.default_generation_settings.params.seed
        return None if seed == RANDOM_SEED else seed


class Slot(msgspec.Struct, frozen=True):
    """One entry of `GET /slots`; `n_ctx` in tokens, `params` those of the task that it works on or worked on last."""

    is_processing: bool
    n_ctx: Count
    params: Seeded = Seeded()


class Load(msgspec.Struct, frozen=True):
    """How busy the engine is."""

    working: int
    waiting: int

    @classmethod
    def read(cls, metrics: bytes) -> Self | None:
        """From the text of `/metrics`; None where it tells nothing of tasks."""
        seen = gauges(metrics, "llamacpp:", ("requests_processing", "requests_deferred"))
        if "requests_processing" not in seen:
            return None
        return cls(int(sum(seen["requests_processing"])), int(sum(seen.get("requests_deferred", []))))

    def __str__(self) -> str:
        return f"{self.working} working, {self.waiting} waiting"


class Event(msgspec.Struct, frozen=True):
    """One event of `POST /completion`; counts are totals so far."""

    content: str = ""
    stop: bool = False
    stop_type: str = ""
    tokens_evaluated: Count | None = None
    tokens_predicted: Count | None = None
    timings: Timings = {}
    completion_probabilities: tuple[TokenLogprob, ...] = ()
    error: ErrorObject | str | None = None


PROPS = msgspec.json.Decoder(Props)
SLOTS = msgspec.json.Decoder(list[Slot])
EVENT = msgspec.json.Decoder(Event)


class NativeAnswer:
    """Makes tokens of `/completion` events and, once `stop: true` is in, the end."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._count = 0
        self._last: Event | None = None

    @property
    def finished(self) -> bool:
        """Whether `stop: true` is in: without it a stream that ended was cut."""
        return self._last is not None

    def take(self, event: Event) -> list[Token]:
        """The tokens of an event. Raises what an error object in it means."""
        if event.error is not None:
            raise error_in_stream(event.error, self._where)
        if event.stop:
            self._last = event
        if not event.content:
            return []
        likely = event.completion_probabilities
        token = Token(event.content, self._count, "content", likely[0].logprob if likely else None)
        self._count += 1
        return [token]

    def end(self) -> End:
        """The end of a finished answer."""
        last = self._last or Event()
        timings = told(last.timings)
        cached = timings.get("cache_n", -1)
        return End(
            tokens_in=last.tokens_evaluated,
            tokens_out=last.tokens_predicted,
            finish_reason="length" if last.stop_type == "limit" else "stop",
            cached_tokens=int(cached) if 0 <= cached <= MAX_COUNT else None,
            decode_time_ms=timings.get("predicted_ms"),
            timings=timings,
        )


def completion_body(task: TaskRequest, seed: int | None = None) -> dict[str, object]:
    """The body of `POST /completion` for a prompt; `seed` is for a task that brings none."""
    body: dict[str, object] = {"prompt": task.prompt, "stream": True, **sampling_of(task), **_own_knobs(task, seed)}
    if task.model_ref is not None:
        body["model"] = task.model_ref
    if task.max_tokens is not None:
        body["n_predict"] = task.max_tokens
    if task.sampling.logprobs is not None:
        body["n_probs"] = max(1, task.sampling.logprobs)  # 0 would switch them off
    if task.sampling.logit_bias:
        body["logit_bias"] = [[token, bias] for token, bias in task.sampling.logit_bias.items()]
    if isinstance(task.response_format, JsonSchema):
        body["json_schema"] = task.response_format.schema
    return body | task.extra


def chat_body(task: TaskRequest, seed: int | None = None) -> dict[str, object]:
    """The body of `POST /v1/chat/completions` for messages; `seed` is for a task that brings none."""
    body = body_of(task, task.model_ref) | _own_knobs(task, seed)
    if task.sampling.logprobs == 0:
        body["top_logprobs"] = 1  # with 0 the engine sends no text at all
    named = [tool for tool in task.tools if tool.name == task.tool_choice]
    if named:
        body.update(tools=tools_of(named), tool_choice="required")  # a choice by name is read as "auto"
    return body | task.extra


def _own_knobs(task: TaskRequest, seed: int | None) -> dict[str, object]:
    """What both routes take beyond OpenAI's fields, and the seed."""
    knobs: dict[str, object] = {}
    chosen = seed if task.seed is None else task.seed
    if chosen is not None:
        knobs["seed"] = chosen
    if task.sampling.repeat_penalty is not None:
        knobs["repeat_penalty"] = task.sampling.repeat_penalty
    if task.kv_hint is not None:
        knobs["cache_prompt"] = task.kv_hint == "reuse"
    if isinstance(task.response_format, Grammar):
        knobs["grammar"] = task.response_format.grammar
    if task.deadline_ms is not None:
        knobs["t_max_predict_ms"] = task.deadline_ms + LATE_MS  # from the first token on, heeded after a line's end
    return knobs


def let_go(slots: list[Slot], seed: int | None, *, alike: int, begun: bool) -> bool:
    """Whether no slot works on a task of this seed, but for `alike` others of it.

    One that has not begun may still be queued: none is where a slot is idle. A slot that tells no seed may be its own.
    """
    working = [slot.params.seed for slot in slots if slot.is_processing]
    mine = sum(found is None or seed is None or found == seed for found in working)
    return mine <= alike and (begun or len(working) < len(slots))


def worker_props(
    props: Props,
    now: datetime,
    *,
    slots: list[Slot] | None = None,
    load: Load | None = None,
    workloads: tuple[Workload, ...] = ("completion",),
    digest: str | None = None,
) -> WorkerProps:
    """The boundary's view of `/props` and, where the engine serves them, of `/slots`, else of `/metrics`."""
    features = {
        "tools": props.chat_template_caps.supports_tools or props.chat_template_caps.supports_tool_calls,
        "vision": props.modalities.vision,
        "audio": props.modalities.audio,
        "confirms_cancel": props.endpoint_slots,
    }
    free = None
    if slots is not None:
        free = sum(not slot.is_processing for slot in slots)
    elif load is not None:
        free = max(0, props.total_slots - load.working)
    return WorkerProps(
        slots_total=props.total_slots,
        slots_free=free,
        capabilities=Capabilities(
            engine=ENGINE,
            engine_version=props.build_info,
            model_id=props.model_id,
            observed_at=now,
            model_digest=digest,
            model_source=props.file or None,
            ctx_max=slots[0].n_ctx if slots else props.default_generation_settings.n_ctx,
            batching=True,
            slots=props.total_slots,
            workloads=workloads,
            features=(*_ALWAYS, *(feature for feature, has in features.items() if has)),
        ),
    )
