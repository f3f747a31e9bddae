"""Calls of tools, however an engine cuts them into pieces."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.node.engines.translation.calls import MAX_BYTES, MAX_CALLS, Calls, ToolDelta
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode

NAMES = st.sampled_from(["weather", "clock"])
ARGUMENTS = st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=8), st.integers(-9, 9), st.none()))
CALLS = st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=4)


def joined(*deltas: dict[str, Any], finish: str = "tool_calls") -> list[tuple[str, Any]]:
    calls = Calls()
    for delta in deltas:
        calls.add(msgspec.convert(delta, ToolDelta))
    return [(call.name, call.arguments) for call in calls.ended(finish)[0]]


def pieces(data: st.DataObject, text: str) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def fragments(data: st.DataObject, calls: list[tuple[str, Any]]) -> list[list[dict[str, Any]]]:
    """Each call in pieces, with an index and an id of its own."""
    made = []
    for index, (name, arguments) in enumerate(calls):
        first, *rest = pieces(data, json.dumps(arguments))
        begun = {"index": index, "id": f"c{index}", "function": {"name": name, "arguments": first}}
        made.append([begun, *({"index": index, "function": {"arguments": text}} for text in rest)])
    return made


@settings(max_examples=40)  # an example draws every call and every cut
@given(CALLS, st.data())
def test_calls_in_pieces_are_the_calls_in_one_piece(calls: list[tuple[str, Any]], data: st.DataObject) -> None:
    assert joined(*(piece for call in fragments(data, calls) for piece in call)) == calls


@settings(max_examples=40)  # an example draws every call and every cut
@given(CALLS, st.data())
def test_pieces_of_calls_that_come_mixed_find_their_call(calls: list[tuple[str, Any]], data: st.DataObject) -> None:
    left = fragments(data, calls)
    mixed = [call.pop(0) for call in left]
    while any(left):
        mixed.append(data.draw(st.sampled_from([call for call in left if call])).pop(0))
    assert joined(*mixed) == calls


@settings(max_examples=40)  # an example draws every call and every cut
@given(CALLS, st.data())
def test_calls_that_share_an_index_are_told_apart_by_their_ids(
    calls: list[tuple[str, Any]], data: st.DataObject
) -> None:
    told = [piece | {"index": 0} for call in fragments(data, calls) for piece in call]
    assert joined(*told) == calls


@settings(max_examples=40)  # an example draws every call and every cut
@given(CALLS, st.data())
def test_calls_without_an_index_are_told_apart_by_their_ids(calls: list[tuple[str, Any]], data: st.DataObject) -> None:
    told = [piece | {"index": None} for call in fragments(data, calls) for piece in call]
    assert joined(*told) == calls


@given(CALLS)
def test_whole_calls_with_neither_index_nor_id_are_told_apart(calls: list[tuple[str, Any]]) -> None:
    assert joined(*({"function": {"name": name, "arguments": arguments}} for name, arguments in calls)) == calls


@settings(max_examples=40)  # an example draws every call and every cut
@given(CALLS, st.data())
def test_a_call_that_the_limit_cut_is_absent(calls: list[tuple[str, Any]], data: st.DataObject) -> None:
    told = [piece for call in fragments(data, calls) for piece in call]
    kept = told[: data.draw(st.integers(0, len(told)))]
    found = joined(*kept, finish="length")
    assert found == calls[: len(found)]


@pytest.mark.parametrize(("arguments", "whole"), [({"a": 1}, {"a": 1}), ("", {}), (None, {}), ("null", {})])
def test_arguments_may_be_an_object_or_nothing(arguments: object, whole: dict[str, Any]) -> None:
    assert joined({"index": 0, "id": "c", "function": {"name": "f", "arguments": arguments}}) == [("f", whole)]


def test_a_name_and_an_id_may_come_with_every_piece() -> None:
    told = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": text}} for text in ('{"a"', ":1}", "")]
    assert joined(*told) == [("f", {"a": 1})]
    assert joined(*(piece | {"id": None} for piece in told)) == [("f", {"a": 1})]


@pytest.mark.parametrize("arguments", ["{a}", "[1]", "7", '{"a":1} and more'])
def test_arguments_that_are_no_object_are_text(arguments: str) -> None:
    calls = Calls()
    calls.add(msgspec.convert({"index": 0, "function": {"name": "f", "arguments": arguments}}, ToolDelta))
    assert calls.ended("tool_calls") == ([], [f'{{"name": "f", "arguments": {arguments}}}'])


@pytest.mark.parametrize(
    "deltas",
    [
        [{"index": n, "function": {"name": "f"}} for n in range(MAX_CALLS + 1)],
        [{"index": 0, "function": {"name": "f", "arguments": "x" * (MAX_BYTES + 1)}}],
    ],
    ids=["calls", "bytes"],
)
def test_a_model_that_calls_without_end_is_nobodys_fault(deltas: list[dict[str, Any]]) -> None:
    with pytest.raises(SollolError) as caught:
        joined(*deltas)
    assert caught.value.body.code is ErrorCode.REPLY_TOO_LARGE
