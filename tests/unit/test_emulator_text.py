"""The emulated model says what the generated countdown model says, and counts tokens as it does."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.emulator import codes, schema, text


def spoken(prompt: str, **wanted: object) -> str:
    answer = text.answer(text.tokenize(prompt), text.Wanted(is_parsed=True, **wanted))  # type: ignore[arg-type]
    return "".join(piece.text for piece in answer.pieces if piece.channel == "content")


@given(st.integers(min_value=0, max_value=999))
def test_a_number_is_counted_down_to_zero(number: int) -> None:
    answer = text.answer(text.tokenize(f"count {number}"), text.Wanted())
    assert spoken(f"count {number}").split() == [str(n) for n in range(number - 1, -1, -1)]
    assert answer.tokens == number + 1
    assert answer.done_reason == "stop"


@pytest.mark.parametrize("prompt", ["hello", "count 1234", "count 05", "x250", ""])
def test_any_other_ending_is_answered_as_thirty_two(prompt: str) -> None:
    assert spoken(prompt).split()[0] == "31"


def test_the_answer_ends_at_the_token_limit() -> None:
    answer = text.answer(text.tokenize("count 20"), text.Wanted(limit_tokens=3, is_parsed=True))
    assert [piece.text for piece in answer.pieces] == ["19", " 18", " 17"]
    assert (answer.tokens, answer.done_reason) == (3, "length")


def test_the_answer_ends_before_a_stop_text() -> None:
    assert spoken("count 5", stop=("3",)) == "4 "
    assert text.answer(text.tokenize("count 5"), text.Wanted(stop=("3",))).done_reason == "stop"


@pytest.mark.parametrize(
    ("stop", "chunks", "tokens"),
    [
        (("6 5",), [" 8", " 7", " "], 4),
        ((" 6",), [" 8", " 7"], 3),
        (("7", "5"), [" 8", " "], 2),
        (("",), [], 1),
    ],
    ids=["over-two-tokens", "with-its-blank", "the-first-of-two", "empty"],
)
def test_a_stop_text_is_counted_but_not_told(stop: tuple[str, ...], chunks: list[str], tokens: int) -> None:
    answer = text.answer(text.tokenize("count 9"), text.Wanted(stop=stop))
    assert [piece.text for piece in answer.pieces if piece.channel == "content"] == chunks
    assert answer.tokens == tokens


def test_an_answer_goes_on_where_its_sent_part_ends() -> None:
    answer = text.answer(text.tokenize("x5 4"), text.Wanted(is_parsed=True, partial="5 4"))
    assert [piece.text for piece in answer.pieces] == ["5 4 3", " 2", " 1", " 0"]


def test_a_stop_text_that_never_occurs_changes_nothing() -> None:
    assert text.answer(text.tokenize("count 5"), text.Wanted(stop=("x",))).tokens == 6


def test_reasoning_goes_to_its_own_channel() -> None:
    pieces = text.answer(text.tokenize("please think"), text.Wanted(is_parsed=True)).pieces
    assert [piece.text for piece in pieces if piece.channel == "thinking"] == [" hmm"]
    assert pieces[0].channel == "hidden"


def test_a_call_names_the_first_tool_with_minimal_arguments() -> None:
    wanted = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}, "required": ["n"]}
    answer = text.answer(text.tokenize("please call"), text.Wanted(tools=(("get", wanted),), is_parsed=True))
    assert answer.tool_calls == (text.ToolCall("get", {"n": 31}),)
    assert all(piece.channel == "hidden" for piece in answer.pieces)


@pytest.mark.parametrize("wanted", [{"type": "string", "minLength": 10**9}, {"type": "array", "minItems": 10**9}])
def test_a_schema_of_enormous_length_does_not_stop_the_machine(wanted: dict[str, Any]) -> None:
    assert len(schema.minimal_instance(wanted)) <= 2000


def test_structured_output_satisfies_its_schema() -> None:
    wanted = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "list": {"type": "array", "minItems": 2, "items": {"type": "null"}},
        },
        "required": ["kind", "list"],
    }
    assert schema.minimal_instance(wanted) == {"kind": "a", "list": [None, None]}


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("<|user|>count 5", 8), ("count 900", 7), (" theory", 5), ("é", 3), (" 1234", 3), ("a b\n", 5)],
    ids=["chat", "completion", "longest-word", "bytes", "longest-number", "blanks"],
)
def test_tokens_are_counted_as_the_model_counts_them(prompt: str, count: int) -> None:
    assert len(text.tokenize(prompt)) == count


def test_embeddings_are_those_of_the_generated_model() -> None:
    vector = codes.embedding(text.tokenize("hello"), 256)
    assert [round(value, 6) for value in vector[:4]] == [-0.081081, -0.081081, 0.081081, -0.081081]


def test_the_runner_up_of_a_token_is_that_of_the_generated_model() -> None:
    ((token, logprob),) = codes.runners_up(" 1", 1)
    assert (token, round(logprob, 5)) == (" 346", -100.33449)


def test_texts_that_share_words_have_a_higher_cosine() -> None:
    def vector(words: str) -> list[float]:
        return codes.embedding(text.tokenize(words), 256)

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    near = cosine(vector(" hello world node"), vector(" hello world request"))
    far = cosine(vector(" hello world node"), vector(" slow story data"))
    assert near > far
    assert math.isclose(cosine(vector(" hello"), vector(" hello")), 1.0)


def test_an_opened_quote_ends_at_a_bound() -> None:
    assert text.answer(text.tokenize('say "'), text.Wanted()).tokens == text.MAX_ANSWER_TOKENS
