"""What OpenAI-compatible servers say of themselves, as Structs, and what they are sent. Pure functions and values."""

from typing import Literal

import msgspec
from llama_orch_adapter_api import AdapterError, Grammar, TaskRequest
from llama_orch_http_util.openai import Count, body_of

ENGINE = "openai"

LengthKey = Literal["max_tokens", "max_completion_tokens"]
"""What bounds a chat's answer: OpenAI's newer models refuse the first, most other servers do not know the second."""


class Version(msgspec.Struct, frozen=True):
    """What is served at `version_path`."""

    version: str


class Model(msgspec.Struct, frozen=True):
    """A model that the server has. vLLM and SGLang tell of its context, in tokens; most do not."""

    id: str
    max_model_len: Count | None = None


class Models(msgspec.Struct, frozen=True):
    """`GET /v1/models`; null where there is none."""

    data: tuple[Model, ...] | None

    @property
    def only(self) -> str:
        """The name of the only model, empty where there are several."""
        names = [model.id for model in self.data or ()]
        return names[0] if len(names) == 1 else ""

    def context_of(self, name: str) -> int | None:
        """How many tokens that model takes, where the server says so."""
        return next((model.max_model_len for model in self.data or () if model.id == name), None)


VERSION = msgspec.json.Decoder(Version)
MODELS = msgspec.json.Decoder(Models)


def base_of(url: str) -> str:
    """The URL that the dialect's paths are appended to: other clients are given it with `/v1`."""
    return url.rstrip("/").removesuffix("/v1")


def request_body(task: TaskRequest, model: str, length_key: LengthKey) -> dict[str, object]:
    """The body of a completion task. Raises `AdapterError` (unsupported) for what the dialect has no word for."""
    wordless = {"a grammar": isinstance(task.response_format, Grammar), "repeat_penalty": task.sampling.repeat_penalty}
    if asked := [name for name, wanted in wordless.items() if wanted]:
        raise AdapterError(
            f"OpenAI's dialect has no word for {asked[0]} · leave it out, or give the server's own word in extra",
            detail="unsupported",
        )
    body = body_of(task, model)
    if task.messages and "max_tokens" in body:
        body[length_key] = body.pop("max_tokens")
    return body | task.extra
