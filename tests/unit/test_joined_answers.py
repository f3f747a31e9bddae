"""Answers whose chunks leave together: the same bytes in fewer messages, also where they break off and go on."""

from __future__ import annotations

import itertools
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import decision
from sollol_agents.node.attempts.joining import HELD_BYTES, Joining, between
from sollol_bus.errors import ConnectionLost
from sollol_bus.sdk.answers import joined
from sollol_bus.sdk.resume.resuming import Resuming
from sollol_bus.sdk.silence import SUDDEN_S, Pace
from sollol_bus.transport.joined import chunks_in, objects_in
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.transport.streaming import ReplyStream
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.decision import Decision
from sollol_schemas.execution import HELD_S, Exec

BODY = b'{"model":"m","prompt":"hi"}'
WORDS = ["one", " two", " three\n{", " four", " five", " six"]


def lines_of(words: list[str], *, is_whole: bool) -> list[bytes]:
    """Native objects that say these words."""
    said = [json.dumps({"model": "m", "response": word, "done": False}).encode() for word in words]
    return [*said, b'{"model":"m","response":"","done":true,"eval_count":6}'] if is_whole else said


def cut(lines: list[bytes], ends: list[bool]) -> list[bytes]:
    """Those as messages; each of the marks says whether one ends behind a line."""
    messages: list[list[bytes]] = [[]]
    for line, is_end in zip(lines, [*ends, *[False] * len(lines)], strict=False):
        messages[-1].append(line)
        if is_end:
            messages.append([])
    return [b"\n".join(one) for one in messages if one]


class Played:
    """A stream of which nothing but its first message is asked."""

    def __init__(self, first: Msg) -> None:
        self.first = first
        self.sent_mono_s = self.first_mono_s = 1.0
        self.has_begun = True


def message(data: bytes, *, node: str = "") -> Msg:
    made = Decision(request_id="r", attempt_id=f"a-{node}", node_id=node, fingerprint="ollama:0123")
    return Msg(cast("Any", None), data=data, headers={h.DECISION: encode(made).decode()} if node else None)


def handed_out(before: list[bytes], after: list[bytes]) -> list[bytes]:
    """What a user gets of an answer that breaks off between the two and goes on with other names and counts."""
    answer, out = Resuming(subjects.GENERATE, "", BODY, limit_bytes=1 << 20), []
    for number, data in enumerate(before):
        out.append(answer.hand_out(message(data, node="" if number else "attic")))
    stream = cast("ReplyStream", Played(message(b"", node="attic")))
    step = answer.broke(ConnectionLost("it broke"), stream, now=2.0, left_s=100.0)
    assert step is not None
    assert step.continued.pieces == sum(map(len, map(objects_in, before)))
    for number, data in enumerate(after):
        out.append(answer.hand_out(message(data, node="" if number else "cellar")))
    return [line for msg in out if msg is not None for line in objects_in(msg.data)]


@given(
    st.integers(1, len(WORDS) - 1),
    st.lists(st.booleans(), max_size=6),
    st.lists(st.booleans(), max_size=6),
    st.booleans(),
)
def test_an_answer_that_goes_on_is_the_same_however_its_chunks_leave(
    at: int, ends: list[bool], others: list[bool], is_renamed: bool
) -> None:
    before, after = lines_of(WORDS[:at], is_whole=False), lines_of(WORDS[at:], is_whole=True)
    if is_renamed:  # nodes call a model by its whole name
        after = [line.replace(b'"m"', b'"m:latest"') for line in after]
    assert handed_out(cut(before, ends), cut(after, others)) == handed_out(before, after)


@given(st.lists(st.booleans(), max_size=7))
def test_a_whole_answer_is_the_same_however_its_chunks_leave(ends: list[bool]) -> None:
    lines = lines_of(WORDS, is_whole=True)
    assert joined(RequestKind.GENERATE, cut(lines, ends)) == joined(RequestKind.GENERATE, lines)
    assert sum(map(chunks_in, cut(lines, ends))) == len(lines)


@pytest.mark.parametrize(
    ("data", "chunks"),
    [
        (b'{"response":"data: {"}', 1),
        (b'{"response":"a"}\n{"response":"b"}', 2),
        (b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n', 2),
        (b'event: a\ndata: {"a":1}\n\nevent: b\ndata: {"b":2}\n\n', 2),
        (b": a comment\n\n", 1),
    ],
)
def test_chunks_are_counted_by_their_text(data: bytes, chunks: int) -> None:
    assert chunks_in(data) == chunks


@pytest.mark.parametrize(
    ("kind", "more", "is_rest", "expected"),
    [
        (RequestKind.CHAT, {"is_joined": True}, False, b"\n"),
        (RequestKind.PASSTHROUGH, {"is_joined": True}, False, b""),
        (RequestKind.PASSTHROUGH, {"is_joined": True, "body_bytes": 9}, True, b"\n"),
        (RequestKind.PASSTHROUGH, {"is_joined": True, "body_bytes": 9}, False, b""),
        (RequestKind.CHAT, {}, False, None),
        (RequestKind.CHAT, {"is_joined": True, "stream": False}, False, None),
    ],
    ids=["native", "events", "a-rest-is-native", "what-begins-anew-is-not", "by-chunks", "one-reply"],
)
def test_what_stands_between_two_chunks(
    kind: RequestKind, more: dict[str, Any], is_rest: bool, expected: bytes | None
) -> None:
    exec_ = Exec(**{"decision": decision("r1-1", "n1", kind=kind), "stream": True, **more})
    assert between(exec_, is_rest=is_rest) == expected


async def test_much_is_not_held() -> None:
    due: list[bool] = []
    joining = Joining(b"\n", HELD_BYTES, lambda: due.append(True))
    assert not joining.hold([b"a", b"b"])
    assert joining.hold([b"c" * HELD_BYTES])
    assert joining.take() == [b"a\nb\n" + b"c" * HELD_BYTES]
    assert (joining.take(), due) == ([], [])


@given(st.floats(0.002, 1.0), st.lists(st.floats(0.3, 1.7), min_size=1, max_size=200))
def test_a_steady_stream_that_is_held_is_never_suddenly_silent(gap_s: float, strays: list[float]) -> None:
    said = list(itertools.accumulate(gap_s * stray for stray in strays))
    came: list[tuple[float, int]] = [(0.0, 1)]
    while said:  # a node holds for as long as it may from the first chunk on that it holds
        leaves_at = said[0] + HELD_S
        chunks = sum(1 for at in said if at <= leaves_at)
        came.append((leaves_at, chunks))
        del said[:chunks]
    pace, now = Pace(0.0, HELD_S), 0.3
    while now <= came[-1][0]:
        look = pace.look(sum(chunks for at, chunks in came if at <= now), now)
        assert not look.is_silent
        now += look.again_in_s


def test_a_stream_that_is_held_and_stops_is_asked_about_as_soon_as_its_chunks_say() -> None:
    pace = Pace(0.0, HELD_S)
    for number in range(1, 11):
        pace.look(8 * number, HELD_S * number)
    stopped_at = HELD_S * 10
    assert not pace.look(80, stopped_at + SUDDEN_S).is_silent
    assert pace.look(80, stopped_at + SUDDEN_S + HELD_S).is_silent
