"""How answers are compared with undisturbed ones, and what is ended next."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bench.resume.comparing import difference, events_of, normal, text_of
from bench.resume.questions import Heard, questions
from bench.resume.rules import Part, fit_to_hit

EVENTS = (
    b'event: a\ndata: {"id":"x","delta":"one "}\n\n: resumed on desk\n\n'
    b'data: {"id":"x","delta":"two"}\n\ndata: [DONE]\n\n'
)


def heard(data: bytes, content_type: str = "text/event-stream") -> list[object]:
    return normal(events_of(Heard(data=data, content_type=content_type)))


def test_an_event_stream_is_compared_event_by_event_without_its_comments() -> None:
    told = heard(EVENTS)
    assert told == [
        {"event": "a", "data": {"id": "<1>", "delta": "one "}},
        {"data": {"id": "<1>", "delta": "two"}},
        {"data": "[DONE]"},
    ]
    assert text_of(told) == "one two"
    assert not difference(told, heard(EVENTS.replace(b'"x"', b'"another"')))


@pytest.mark.parametrize(
    ("was", "instead"),
    [
        (b'{"id":"x","delta":"two"}', b'{"id":"y","delta":"two"}'),
        (b'{"id":"x","delta":"two"}', b'{"id":"x","delta":"one two"}'),
        (b'{"id":"x","delta":"two"}', b'{"delta":"two","id":"x"}'),
        (b"data: [DONE]\n\n", b""),
        (b"event: a", b"event: b"),
    ],
    ids=["a new id in its middle", "a repetition", "order of fields", "no end", "name of an event"],
)
def test_what_is_not_the_same_is_found(was: bytes, instead: bytes) -> None:
    assert difference(heard(EVENTS.replace(was, instead)), heard(EVENTS))


def test_what_differs_between_any_two_answers_is_left_out() -> None:
    first = b'{"created_at":"a","response":"x"}\n{"done":true,"total_duration":1,"eval_count":2}'
    other = b'{"created_at":"b","response":"x"}\n{"done":true,"total_duration":9,"eval_count":2}'
    kind = "application/x-ndjson"
    assert not difference(heard(first, kind), heard(other, kind))
    assert "eval_count" in difference(heard(first, kind), heard(other.replace(b":2", b":3"), kind))


def test_a_prompt_counts_the_same_whatever_of_it_came_from_a_cache() -> None:
    kind = "application/json"
    usage = [
        b'{"usage":{"input_tokens":7,"cache_read_input_tokens":1}}',
        b'{"usage":{"input_tokens":1,"cache_read_input_tokens":7}}',
    ]
    assert not difference(heard(usage[0], kind), heard(usage[1], kind))


def test_every_way_is_asked_of_every_model() -> None:
    asked = questions({"a": ("x", "y"), "b": ("z",)}, {"a": 1, "b": 1})
    assert Counter(question.model for question in asked) == {"a": 34, "b": 17}
    assert len(set(asked)) == len(asked)


def test_nothing_is_ended_beside_what_is_down() -> None:
    parts = [
        Part("a-1", "a", "node", is_down=True),
        Part("a-2", "a", "node", is_down=False),
        Part("b-1", "b", "node", is_down=False),
        Part("gateway", "gateway", "connection", is_down=False),
    ]
    rng = random.Random(1)
    hit = Counter(chosen.name for _ in range(200) if (chosen := fit_to_hit(parts, rng)))
    assert set(hit) == {"b-1", "gateway"}
    assert 60 < hit["b-1"] < 140
    assert fit_to_hit(parts[:2], rng) is None
