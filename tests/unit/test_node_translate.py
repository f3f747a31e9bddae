"""Ollama's requests in OpenAI's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol_agents.node.engines.openai import vllm_slots
from sollol_agents.node.engines.translation.bodies import fields_of
from sollol_agents.node.engines.translation.chat import Translated, translate
from sollol_agents.node.engines.translation.options import Flavour
from sollol_agents.requests.body import with_model
from sollol_bus.errors import BadRequest
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode


def translated(
    kind: RequestKind, body: dict[str, Any], flavour: Flavour = Flavour.LLAMA_CPP, **more: int
) -> Translated:
    return translate(kind, fields_of(json.dumps(body).encode()), "own", flavour=flavour, **more)


def sent(kind: RequestKind, body: dict[str, Any], flavour: Flavour = Flavour.LLAMA_CPP, **more: int) -> dict[str, Any]:
    request = translated(kind, body, flavour, **more)
    decoded: dict[str, Any] = json.loads(request.body)
    return decoded | {"path": request.path}


def test_a_chat_is_streamed_with_usage_and_the_engines_own_model_name() -> None:
    out = sent(RequestKind.CHAT, {"model": "m", "messages": [{"role": "USER", "content": "hi"}], "stream": False})
    assert out["path"] == "/v1/chat/completions"
    assert out["messages"] == [{"role": "user", "content": "hi"}]
    assert (out["model"], out["stream"], out["stream_options"]) == ("own", True, {"include_usage": True})


def test_a_prompt_becomes_a_chat_and_a_raw_one_a_completion() -> None:
    out = sent(RequestKind.GENERATE, {"model": "m", "prompt": "p", "system": "s"})
    assert out["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    raw = sent(RequestKind.GENERATE, {"model": "m", "prompt": "p", "raw": True})
    assert (raw["path"], raw["prompt"]) == ("/v1/completions", "p")


def test_options_become_parameters() -> None:
    options = {"temperature": 0.5, "num_predict": 7, "stop": ["x"], "seed": 3, "top_k": 5, "repeat_penalty": 1.1}
    out = sent(RequestKind.CHAT, {"model": "m", "messages": [], "options": options})
    assert (out["max_tokens"], out["temperature"], out["stop"], out["seed"], out["top_k"]) == (7, 0.5, ["x"], 3, 5)
    vllm = sent(RequestKind.CHAT, {"messages": [], "options": {"repeat_penalty": 1.1}}, Flavour.VLLM)
    assert vllm["repetition_penalty"] == 1.1


@pytest.mark.parametrize(
    "options",
    [
        {"num_predict": -1},
        {"num_predict": -2.0},
        {"seed": -1},
        {"num_ctx": 2048},
        {"num_ctx": 2048.0},
        {"top_k": None},
        {"stop": []},
        {"weather": "fine"},
        {"mirostat": 1, "tfs_z": 0.5, "penalize_newline": True},
    ],
)
@pytest.mark.parametrize("flavour", Flavour)
def test_options_that_ask_for_what_happens_anyway_or_mean_nothing_to_ollama_are_ignored(
    options: dict[str, Any], flavour: Flavour
) -> None:
    asked = translated(RequestKind.CHAT, {"messages": [], "options": options}, flavour, context_length=2048)
    assert json.loads(asked.body).keys() == {"model", "stream", "stream_options", "messages"}
    assert asked.left_out == ()


@pytest.mark.parametrize("flavour", Flavour)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_thread", 4),
        ("num_batch", 512),
        ("num_gpu", 20),
        ("main_gpu", 1),
        ("use_mmap", False),
        ("use_mlock", True),
        ("low_vram", True),
        ("vocab_only", False),
        ("f16_kv", True),
        ("numa", True),
        ("num_ctx", 1_000_000),
        ("draft_num_predict", 2),
    ],
)
def test_options_about_how_a_model_is_run_are_left_out_and_named(option: str, value: object, flavour: Flavour) -> None:
    body = {"messages": [], "options": {option: value, "temperature": 0}}
    asked = translated(RequestKind.CHAT, body, flavour, context_length=2048)
    assert asked.left_out == (f"options.{option}",)
    assert json.loads(asked.body)["temperature"] == 0


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("temperature", "0.7", "type float32"),
        ("temperature", True, "type float32"),
        ("num_predict", "3", "type integer"),
        ("num_ctx", True, "type integer"),
        ("num_thread", [4], "type integer"),
        ("use_mmap", 1, "type boolean"),
        ("stop", "x", "type array"),
        ("stop", [1], "an array of strings"),
    ],
)
@pytest.mark.parametrize("flavour", Flavour)
def test_an_option_of_the_wrong_type_is_refused_in_ollamas_words(
    option: str, value: object, words: str, flavour: Flavour
) -> None:
    with pytest.raises(BadRequest, match=f'^option "{option}" must be of {words}$'):
        sent(RequestKind.CHAT, {"messages": [], "options": {option: value}}, flavour)


@pytest.mark.parametrize(("given", "limit"), [(3.0, 3), (3.7, 3), (5, 5)])
def test_any_number_is_good_for_a_whole_one(given: float, limit: int) -> None:
    options = {"num_predict": given, "seed": given, "top_k": given}
    out = sent(RequestKind.CHAT, {"messages": [], "options": options})
    assert json.dumps([out["max_tokens"], out["seed"], out["top_k"]]) == json.dumps([limit] * 3)


def test_no_tokens_at_all_are_one_of_a_chat_and_no_limit_of_a_prompt() -> None:
    options = {"num_predict": 0}
    assert sent(RequestKind.CHAT, {"messages": [], "options": options})["max_tokens"] == 1
    assert "max_tokens" not in sent(RequestKind.GENERATE, {"prompt": "p", "options": options})


@pytest.mark.parametrize("limit", [2**31, 2**32, 2**40, 1e300])
def test_a_limit_beyond_an_engines_whole_numbers_is_no_limit(limit: float) -> None:
    assert "max_tokens" not in sent(RequestKind.CHAT, {"messages": [], "options": {"num_predict": limit}})


def test_a_penalty_over_the_whole_context_names_its_tokens_to_llama_cpp() -> None:
    out = sent(RequestKind.CHAT, {"messages": [], "options": {"repeat_last_n": -1}})
    assert out["repeat_last_n"] > 0


def test_penalties_over_a_window_are_refused_only_where_they_would_penalise() -> None:
    window = {"repeat_last_n": 64}
    assert "repeat_last_n" not in sent(RequestKind.CHAT, {"messages": [], "options": window}, Flavour.VLLM)
    with pytest.raises(BadRequest, match="repeat_last_n"):
        sent(RequestKind.CHAT, {"messages": [], "options": window | {"repeat_penalty": 1.1}}, Flavour.VLLM)
    whole = {"repeat_last_n": -1, "repeat_penalty": 1.1}
    assert sent(RequestKind.CHAT, {"messages": [], "options": whole}, Flavour.VLLM)["repetition_penalty"] == 1.1


def test_all_candidates_have_another_number_at_vllm() -> None:
    assert sent(RequestKind.CHAT, {"messages": [], "options": {"top_k": 0}}, Flavour.VLLM)["top_k"] == -1


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (RequestKind.GENERATE, {"prompt": "p", "suffix": "s"}, "suffix"),
        (RequestKind.GENERATE, {"prompt": "p", "template": "{{ if .System }}x{{ end }}"}, "template"),
        (RequestKind.GENERATE, {"prompt": "p", "context": [1]}, "context"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "system": "s"}, "system"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "template": "{{ .Prompt }}"}, "template"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "logprobs": True}, "logprobs"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "think": True}, "think"),
        (RequestKind.GENERATE, {"prompt": "p", "raw": True, "images": ["eA=="]}, "images"),
        (RequestKind.GENERATE, {"prompt": "p", "_debug_render_only": True}, "_debug_render_only"),
        (RequestKind.CHAT, {"messages": [], "options": {"min_p": 0.1}}, "options.min_p"),
        (RequestKind.CHAT, {"messages": [], "options": {"top_k": 5}}, "options.top_k"),
        (RequestKind.CHAT, {"messages": [], "options": {"typical_p": 0.5}}, "options.typical_p"),
        (RequestKind.CHAT, {"messages": [], "options": {"repeat_penalty": 1.1}}, "options.repeat_penalty"),
    ],
)
def test_what_changes_the_answer_and_cannot_be_done_is_refused_by_name(
    kind: RequestKind, body: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        sent(kind, body, Flavour.OTHER)
    assert caught.value.body.code is ErrorCode.UNSUPPORTED_FIELD
    assert caught.value.details["field"] == field


def test_a_template_of_places_alone_is_filled_in() -> None:
    body = {"prompt": "p", "system": "s", "template": "{{ .System }}|{{ .Prompt }}>{{ .Response }}<"}
    out = sent(RequestKind.GENERATE, body)
    assert (out["path"], out["prompt"]) == ("/v1/completions", "s|p>")


def test_a_raw_prompt_keeps_its_format_and_has_no_limit_that_nobody_asked_for() -> None:
    schema = {"type": "object"}
    body = {"prompt": "p", "raw": True, "format": schema, "think": False}
    assert sent(RequestKind.GENERATE, body)["json_schema"] == schema
    strict = sent(RequestKind.GENERATE, body, Flavour.VLLM)
    assert (strict["response_format"]["json_schema"]["schema"], strict["max_tokens"]) == (schema, None)


@pytest.mark.parametrize("wanted", ["xml", 5, True, [], "JSON"])
def test_a_format_that_is_none_is_refused_in_ollamas_words(wanted: object) -> None:
    with pytest.raises(BadRequest, match=r'^invalid format: ".*"; expected "json" or a valid JSON Schema object$'):
        sent(RequestKind.CHAT, {"messages": [], "format": wanted})


def test_half_a_surrogate_pair_and_bad_utf_8_are_taken_as_ollama_takes_them() -> None:
    body = rb'{"model":"m","messages":[{"role":"user","content":"\ud83d \ud83d\ude00 ' + b"\xff" + rb' \\ud83d"}]}'
    assert fields_of(body)["messages"][0]["content"] == "\ufffd \U0001f600 \ufffd \\ud83d"


@pytest.mark.parametrize(
    ("option", "value"),
    [("typical_p", 1.0), ("min_p", 0), ("repeat_penalty", 1.0), ("repeat_last_n", 64), ("num_keep", 4)],
)
def test_an_option_that_says_nothing_needs_no_engine_that_knows_it(option: str, value: float) -> None:
    out = sent(RequestKind.CHAT, {"messages": [], "options": {option: value}}, Flavour.OTHER)
    assert set(out) == {"model", "stream", "stream_options", "messages", "path"}


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            "low",
            {
                "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"},
                "reasoning_effort": "low",
            },
        ),
    ],
)
def test_thinking_and_its_effort_are_passed_on(think: bool | str, expected: dict[str, Any]) -> None:
    out = sent(RequestKind.CHAT, {"messages": [], "think": think})
    assert {name: out.get(name) for name in expected} == expected


@pytest.mark.parametrize("fields", [{"think": "a lot"}, {"think": 7}, {"top_logprobs": 21}, {"top_logprobs": "x"}])
def test_values_that_ollama_does_not_know_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        sent(RequestKind.CHAT, {"messages": [], **fields})


def test_thoughts_and_names_of_tools_stay_in_the_conversation() -> None:
    messages = [
        {"role": "assistant", "content": "x", "thinking": "because"},
        {"role": "tool", "tool_name": "f", "tool_call_id": "c1", "content": "42"},
    ]
    first, second = sent(RequestKind.CHAT, {"messages": messages})["messages"]
    assert first == {"role": "assistant", "content": "x", "reasoning_content": "because"}
    assert second == {"role": "tool", "content": "42", "name": "f", "tool_call_id": "c1"}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":1}x'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        fields_of(body)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "x"},
        {"messages": [1]},
        {"messages": [{"content": 5}]},
        {"messages": [], "options": []},
        {"messages": [], "tools": "x"},
    ],
)
def test_fields_of_the_wrong_type_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        sent(RequestKind.CHAT, body)


def test_tool_calls_get_the_ids_that_their_answers_name() -> None:
    messages = [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "tool_name": "f", "content": "42"},
    ]
    out = sent(RequestKind.CHAT, {"messages": messages})["messages"]
    call = out[0]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"a": 1}
    assert out[1]["tool_call_id"] == call["id"]


def test_format_becomes_a_response_format() -> None:
    assert sent(RequestKind.CHAT, {"messages": [], "format": "json"})["response_format"] == {"type": "json_object"}
    schema = {"type": "object"}
    out = sent(RequestKind.CHAT, {"messages": [], "format": schema})["response_format"]
    assert out["json_schema"]["schema"] == schema


def test_an_alias_replaces_the_model_and_nothing_else() -> None:
    assert json.loads(with_model(b'{"model":"a","n":1.0}', "b")) == {"model": "b", "n": 1.0}
    assert with_model(b"nonsense", "b") == b"nonsense"


def test_the_slots_of_vllm_follow_from_its_cache() -> None:
    metrics = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="2048"} 1.0\n'
    assert vllm_slots(metrics) == 8
    assert vllm_slots('vllm:cache_config_info{block_size="16"} 1.0\n') is None
    assert vllm_slots("vllm:num_requests_running 1") is None
