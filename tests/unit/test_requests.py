"""What can be known about a request by itself: names of models, bodies, paths, joined answers. All pure."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.requests.names import canonical
from sollol_agents.requests.paths import CLOSED_PATHS, MANAGEMENT_PATHS, is_closed
from sollol_bus.errors import BackendBrokeProtocol
from sollol_bus.sdk.answers import joined
from sollol_schemas.context import RequestKind


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("llama3", "llama3:latest"),
        ("LLaMA3:8B", "llama3:8b"),
        (" x ", "x:latest"),
        ("a/b", "a/b:latest"),
        ("library/x", "x"),
        ("registry.ollama.ai/library/x:7b", "x:7b"),
        ("Registry.Ollama.ai/someone/x", "someone/x:latest"),
    ],
)
def test_spellings_of_one_model_compare_equal(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("llama3:8b", "llama3:70b"), ("someone/x", "x"), ("hf.co/library/x", "x"), ("host:5000/x", "x:5000")],
)
def test_names_of_different_models_differ(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_the_chunks_of_a_chat_become_the_answer_that_does_not_stream() -> None:
    chunks = [
        b'{"model":"m","message":{"role":"assistant","content":"","thinking":"h"},"done":false}',
        b'{"model":"m","message":{"role":"assistant","content":"a"},"logprobs":[{"t":1}],"done":false}',
        b'{"model":"m","message":{"role":"assistant","content":"b","tool_calls":[{"f":1}]},"done":false}',
        b'{"model":"m","message":{"role":"assistant","content":"","tool_calls":[{"f":2}]},"logprobs":[{"t":2}],"done":false}',
        b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"eval_count":3}',
    ]
    assert json.loads(joined(RequestKind.CHAT, chunks)) == {
        "model": "m",
        "message": {"role": "assistant", "content": "ab", "thinking": "h", "tool_calls": [{"f": 1}, {"f": 2}]},
        "logprobs": [{"t": 1}, {"t": 2}],
        "done": True,
        "eval_count": 3,
    }


def test_the_chunks_of_a_generate_keep_calls_log_probabilities_and_context() -> None:
    chunks = [
        b'{"response":"a","logprobs":[{"token":"a"}],"tool_calls":[{"f":1}],"done":false}',
        b'{"response":"b","thinking":"t","logprobs":[{"token":"b"}],"done":false}',
        b'{"response":"","done":true,"context":[1,2]}',
    ]
    assert json.loads(joined(RequestKind.GENERATE, chunks)) == {
        "response": "ab",
        "thinking": "t",
        "tool_calls": [{"f": 1}],
        "logprobs": [{"token": "a"}, {"token": "b"}],
        "done": True,
        "context": [1, 2],
    }


def test_thoughts_stand_where_the_engine_has_them_and_numbers_stay_as_they_are() -> None:
    chunks = [b'{"response":"","thinking":"t","done":false}', b'{"response":"a","done":true,"n":1.50}']
    assert joined(RequestKind.GENERATE, chunks) == b'{"response":"a","thinking":"t","done":true,"n":1.50}'


def test_an_answer_put_together_has_the_engines_escapes_and_order() -> None:
    chunks = [
        b'{"model":"m","response":"\\u003ca","done":false,"logprobs":[1]}',
        b'{"model":"m","response":"\\u00e9\\"","done":false,"logprobs":[2]}',
        b'{"model":"m","response":"","done":true,"eval_count":2}',
    ]
    assert joined(RequestKind.GENERATE, chunks) == (
        b'{"model":"m","response":"\\u003ca\\u00e9\\"","done":true,"eval_count":2,"logprobs":[1,2]}'
    )


def test_a_rendered_prompt_is_whole_although_nothing_is_done() -> None:
    rendered = b'{"model":"m","done":false,"_debug_info":{"rendered_template":"x"}}'
    assert joined(RequestKind.CHAT, [rendered]) == rendered


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_survives_the_joining(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    chunks = [msgspec.json.encode({"response": text, "done": False}) for text in texts]
    chunks.append(b'{"response":"","done":true}')
    assert json.loads(joined(RequestKind.GENERATE, chunks))["response"] == "".join(texts)


def test_an_event_stream_becomes_a_json_string() -> None:
    assert joined(RequestKind.PASSTHROUGH, [b"data: 1\n\n", b"data: 2\n\n"]) == b'"data: 1\\n\\ndata: 2\\n\\n"'


@pytest.mark.parametrize(
    ("kind", "chunks"),
    [
        (RequestKind.GENERATE, []),
        (RequestKind.GENERATE, [b'{"response":"a","done":false}']),
        (RequestKind.GENERATE, [b"{", b'{"done":true}']),
        (RequestKind.CHAT, [b'{"message":7}', b'{"done":true}']),
        (RequestKind.GENERATE, [b'{"response":7}', b'{"done":true}']),
        (RequestKind.EMBED, [b'{"embeddings":[[1']),
    ],
)
def test_an_answer_that_is_not_whole_is_none(kind: RequestKind, chunks: list[bytes]) -> None:
    with pytest.raises(BackendBrokeProtocol):
        joined(kind, chunks)


def test_an_operator_opens_paths_of_engines_but_none_that_manages_models() -> None:
    assert is_closed("/slots/0?action=save")
    assert not is_closed("/slots/0?action=save", ("/slots",))
    assert all(is_closed(path, (*MANAGEMENT_PATHS, *CLOSED_PATHS)) for path in MANAGEMENT_PATHS)
    assert not is_closed("/v1/completions")
