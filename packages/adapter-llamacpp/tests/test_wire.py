"""llama.cpp's own routes: the bodies that the engine was seen to send, and what they mean."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import (
    AdapterError,
    Capabilities,
    End,
    InternalError,
    Token,
    WorkerError,
    WorkerProps,
)
from llama_orch_adapter_llamacpp._wire import (
    EVENT,
    PROPS,
    SLOTS,
    GenerationDefaults,
    Load,
    Modalities,
    NativeAnswer,
    Props,
    Seeded,
    Slot,
    TemplateCaps,
    let_go,
    worker_props,
)
from llama_orch_adapter_testkit import captures

WHERE = "engine:8080"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
FEATURES = ("chat", "deadline", "grammar", "json_schema", "logprobs", "seed", "deterministic")


def native(*events: dict[str, Any] | bytes) -> tuple[list[Token], NativeAnswer]:
    """The tokens of `/completion` events, and the answer that made them."""
    answer = NativeAnswer(WHERE)
    raw = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return [token for event in raw for token in answer.take(EVENT.decode(event))], answer


def test_props_of_the_captured_engine():
    """`/props` and `/slots` become exact capacity and capabilities."""
    props = PROPS.decode(captures.load("llamacpp", "get_props").body)
    slots = SLOTS.decode(captures.load("llamacpp", "get_slots_idle").body)

    assert worker_props(props, NOW, slots=slots) == WorkerProps(
        slots_total=2,
        slots_free=2,
        capabilities=Capabilities(
            engine="llamacpp",
            engine_version="b0-unknown",
            model_id="smollm2",
            observed_at=NOW,
            model_source="SmolLM2-135M-Instruct.Q4_1.gguf",
            ctx_max=2048,
            batching=True,
            slots=2,
            features=(*FEATURES, "confirms_cancel"),
        ),
    )


@pytest.mark.parametrize(
    ("name", "free"),
    [("get_slots_idle", 2), ("get_slots_after", 2), ("get_slots_busy", 0), ("fail_on_no_slot_idle", 2)],
)
def test_free_slots_are_those_that_do_not_work(name: str, free: int):
    """Every captured answer of `/slots` is understood, and its idle slots are counted."""
    slots = SLOTS.decode(captures.load("llamacpp", name).body)

    assert len(slots) == 2
    assert worker_props(Props(2, "b1"), NOW, slots=slots).slots_free == free


@pytest.mark.parametrize(
    ("alias", "path", "model_id"),
    [
        ("tiny", "/models/a.gguf", "tiny"),
        ("", "/models/a.gguf", "a.gguf"),
        ("", "C:\\models\\a.gguf", "a.gguf"),
        ("", "a.gguf", "a.gguf"),
        ("", "", "unknown"),
    ],
)
def test_a_model_is_named_without_its_folder(alias: str, path: str, model_id: str):
    """The alias names the model, else its file's name: folders are nobody's business."""
    props = Props(1, "b1", model_alias=alias, model_path=path)

    assert worker_props(props, NOW).capabilities.model_id == model_id


@pytest.mark.parametrize(
    ("modalities", "template", "more"),
    [
        (Modalities(), TemplateCaps(supports_tools=True), ("tools",)),
        (Modalities(), TemplateCaps(supports_tool_calls=True), ("tools",)),
        (Modalities(vision=True, audio=True), TemplateCaps(), ("vision", "audio")),
    ],
    ids=str,
)
def test_features_follow_from_model_and_template(modalities: Modalities, template: TemplateCaps, more: tuple[str, ...]):
    """What only some models can do is listed where this one can."""
    props = Props(1, "b1", modalities=modalities, chat_template_caps=template)

    assert worker_props(props, NOW).capabilities.features == FEATURES + more


@pytest.mark.parametrize(("slots", "ctx_max"), [(None, 2048), ([], 2048), ([Slot(False, 512)], 512)], ids=str)
def test_the_context_is_that_of_a_slot(slots: list[Slot] | None, ctx_max: int):
    """`/slots` tells the context of one slot; without it, the defaults do."""
    props = PROPS.decode(captures.load("llamacpp", "get_props").body)

    assert worker_props(props, NOW, slots=slots).capabilities.ctx_max == ctx_max


def test_without_slots_nobody_knows_how_many_are_free():
    """An engine without `/slots` has a number of slots, and no number of free ones."""
    props = worker_props(Props(4, "b1"), NOW)

    assert (props.slots_total, props.slots_free) == (4, None)


@pytest.mark.parametrize(
    ("name", "load", "words"),
    [
        ("get_metrics", Load(0, 0), "0 working, 0 waiting"),
        ("get_metrics_busy", Load(2, 1), "2 working, 1 waiting"),
        ("get_metrics_after", Load(0, 0), "0 working, 0 waiting"),
        ("get_health", None, "None"),
    ],
)
def test_load_of_the_captured_engine(name: str, load: Load | None, words: str):
    """The gauges are read exactly; what tells nothing of tasks is no load."""
    seen = Load.read(captures.load("llamacpp", name).body)

    assert (seen, str(seen)) == (load, words)


@pytest.mark.parametrize(("load", "free"), [(None, None), (Load(1, 0), 3), (Load(9, 1), 0)])
def test_free_slots_by_metrics(load: Load | None, free: int | None):
    """Without `/slots`, the working tasks tell how many are free."""
    assert worker_props(Props(4, "b1"), NOW, load=load).slots_free == free


def test_whose_seed_a_task_gets():
    """Its default of 2**32 - 1 means that the engine draws one for each task; started with a seed, it tells that."""
    drawn = PROPS.decode(captures.load("llamacpp", "get_props").body)
    given = Props(1, "b1", default_generation_settings=GenerationDefaults(params=Seeded(42)))

    assert (drawn.seed, given.seed, Props(1, "b1").seed) == (None, 42, None)


def working(*seeds: int | None, idle: int = 0) -> list[Slot]:
    return [Slot(True, 9, Seeded(seed)) for seed in seeds] + [Slot(False, 9, Seeded(7))] * idle


@pytest.mark.parametrize(
    ("slots", "seed", "alike", "begun", "gone"),
    [
        (working(7, 8), 7, 0, True, False),
        (working(8, 9), 7, 0, True, True),
        (working(8, 9), 7, 0, False, False),
        (working(8, idle=1), 7, 0, False, True),
        (working(7, 7), 7, 1, True, False),
        (working(7, 8), 7, 1, True, True),
        (working(None, 8), 7, 0, True, False),
        (working(8), None, 0, True, False),
        (working(8), None, 1, True, True),
        (working(idle=2), None, 0, False, True),
    ],
    ids=[
        "works",
        "gone",
        "may be queued",
        "no queue",
        "both of a seed",
        "the other of its seed",
        "a slot tells no seed",
        "no seed of its own",
        "the other without a seed",
        "all idle",
    ],
)
def test_a_task_is_let_go(slots: list[Slot], seed: int | None, alike: int, begun: bool, gone: bool):
    """No slot works on its seed, and nothing is queued where it may be: else nobody knows that it is gone."""
    assert let_go(slots, seed, alike=alike, begun=begun) == gone


def test_the_seed_of_a_slot_is_that_of_its_task():
    """The captured slots tell what they work on; idle ones that never worked tell nothing."""
    seeds = {
        name: [slot.params.seed for slot in SLOTS.decode(captures.load("llamacpp", name).body)]
        for name in ("get_slots_busy", "get_slots_idle")
    }

    assert seeds == {"get_slots_busy": [2**32 - 1] * 2, "get_slots_idle": [None] * 2}


def test_a_whole_answer_is_an_event_as_well():
    """What `/completion` answers to a request that does not stream is understood by the same type."""
    tokens, answer = native(captures.load("llamacpp", "completion_nostream").body)

    assert tokens == [Token(" Paris.\n\nThe United", 0)]
    assert (answer.end().tokens_in, answer.end().tokens_out, answer.end().cached_tokens) == (5, 6, 4)


def test_an_event_may_be_several_tokens():
    """The engine holds back incomplete characters, so its count is the number of tokens, not that of events."""
    tokens, answer = native(
        {"content": "😃", "tokens_predicted": 3},
        {"content": "", "stop": True, "stop_type": "limit", "tokens_evaluated": 24, "tokens_predicted": 4},
    )

    assert tokens == [Token("😃", 0)]
    assert answer.end() == End(24, 4, "length")


@pytest.mark.parametrize(
    ("said", "meant"), [("limit", "length"), ("eos", "stop"), ("word", "stop"), ("none", "stop"), ("", "stop")]
)
def test_stop_types(said: str, meant: str):
    """Only the limit is a length."""
    assert native({"stop": True, "stop_type": said})[1].end().finish_reason == meant


def test_text_may_come_with_the_stop():
    """The last event's own text is a token."""
    assert native({"content": "a"}, {"content": "b", "stop": True})[0] == [Token("a", 0), Token("b", 1)]


def test_the_logprob_is_the_chosen_tokens():
    """Alternatives stand beside it, and may be likelier."""
    chosen = {"id": 2, "token": "go", "logprob": -5.25, "top_logprobs": [{"id": 1, "token": "be", "logprob": -3.5}]}

    assert native({"content": "go", "completion_probabilities": [chosen]})[0] == [Token("go", 0, "content", -5.25)]
    assert native({"content": "go", "completion_probabilities": [{"prob": 0.5}]})[0] == [Token("go", 0)]


@pytest.mark.parametrize(
    ("timings", "cached", "decode_ms", "kept"),
    [
        ({}, None, None, {}),
        ({"cache_n": 3, "predicted_ms": 2.5}, 3, 2.5, {"cache_n": 3.0, "predicted_ms": 2.5}),
        ({"cache_n": None, "predicted_ms": None}, None, None, {}),
        ({"cache_n": 1e300}, None, None, {"cache_n": 1e300}),
        ({"cache_n": -1}, None, None, {"cache_n": -1.0}),
    ],
    ids=str,
)
def test_timings(timings: dict[str, Any], cached: int | None, decode_ms: float | None, kept: dict[str, float]):
    """Figures are kept under the engine's names; a null is left out, and no count is made of nonsense."""
    end = native({"stop": True, "timings": timings})[1].end()

    assert (end.cached_tokens, end.decode_time_ms, end.timings) == (cached, decode_ms, kept)


@pytest.mark.parametrize(
    ("error", "kind", "detail"),
    [
        ({"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}, InternalError, "engine"),
        ({"code": 400, "message": "too long", "type": "exceed_context_size_error"}, AdapterError, "context_length"),
        ("words", InternalError, "engine"),
    ],
    ids=str,
)
def test_an_error_in_the_stream_is_raised(error: object, kind: type[WorkerError], detail: str):
    """An overflow of the KV cache ends a running stream with an error object."""
    with pytest.raises(kind) as caught:
        native({"content": "a"}, {"error": error})

    assert caught.value.detail == detail
    assert WHERE in caught.value.message


@pytest.mark.parametrize(
    ("decoder", "body"),
    [
        (PROPS, {"total_slots": -1, "build_info": "b1"}),
        (PROPS, {"total_slots": 2}),
        (PROPS, {"total_slots": 2**60, "build_info": "b1"}),
        (SLOTS, [{"is_processing": "no", "n_ctx": 1}]),
        (SLOTS, {}),
        (EVENT, {"tokens_predicted": -1}),
        (EVENT, {"tokens_evaluated": 10**30}),
        (EVENT, {"content": 1}),
        (EVENT, []),
    ],
    ids=str,
)
def test_nonsense_is_refused(decoder: msgspec.json.Decoder[object], body: object):
    """Counts are bounded whole numbers, and every field has its type."""
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(json.dumps(body))
