"""The emulated model says what the generated countdown model says, and counts tokens as it does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.emulator import text


def spoken(prompt: str, **wanted: object) -> str:
    answer = text.answer(text.tokenize(prompt), text.Wanted(**wanted))  # type: ignore[arg-type]
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
    answer = text.answer(text.tokenize("count 20"), text.Wanted(limit_tokens=3))
    assert [piece.text for piece in answer.pieces] == ["19", " 18", " 17"]
    assert (answer.tokens, answer.done_reason) == (3, "length")


def test_the_answer_ends_before_a_stop_text() -> None:
    assert spoken("count 5", stop=("3",)) == "4 "
    assert text.answer(text.tokenize("count 5"), text.Wanted(stop=("3",))).done_reason == "stop"


def test_a_stop_text_that_never_occurs_changes_nothing() -> None:
    assert text.answer(text.tokenize("count 5"), text.Wanted(stop=("x",))).tokens == 6


def test_reasoning_goes_to_its_own_channel() -> None:
    pieces = text.answer(text.tokenize("please think"), text.Wanted()).pieces
    assert [piece.text for piece in pieces if piece.channel == "thinking"] == [" hmm"]
    assert pieces[0].channel == "hidden"


def test_a_call_names_the_first_tool_with_minimal_arguments() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}, "required": ["n"]}
    answer = text.answer(text.tokenize("please call"), text.Wanted(tools=(("get", schema),)))
    assert answer.tool_calls == (text.ToolCall("get", {"n": 0}),)
    assert all(piece.channel == "hidden" for piece in answer.pieces)


def test_structured_output_satisfies_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "list": {"type": "array", "minItems": 2, "items": {"type": "null"}},
        },
        "required": ["kind", "list"],
    }
    assert text.minimal_instance(schema) == {"kind": "a", "list": [None, None]}


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("<|user|>count 5", 8), ("count 900", 7), (" theory", 5), ("é", 3), (" 1234", 3), ("a b\n", 5)],
    ids=["chat", "completion", "longest-word", "bytes", "longest-number", "blanks"],
)
def test_tokens_are_counted_as_the_model_counts_them(prompt: str, count: int) -> None:
    assert len(text.tokenize(prompt)) == count


def test_texts_that_share_words_have_a_higher_cosine() -> None:
    def vector(words: str) -> list[float]:
        return text.embedding(text.tokenize(words), 256)

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    near = cosine(vector(" hello world node"), vector(" hello world request"))
    far = cosine(vector(" hello world node"), vector(" slow story data"))
    assert near > far
    assert math.isclose(cosine(vector(" hello"), vector(" hello")), 1.0)


def test_an_opened_quote_ends_at_a_bound() -> None:
    assert text.answer(text.tokenize('say "'), text.Wanted()).tokens == text.MAX_ANSWER_TOKENS
