"""Where an answer that was drawn by chance went on, and whether the model might have said that."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from bench.resume.questions import Heard, Question
from bench.resume.seams import Seam, is_likely, seams_of

CHAT = Question("/v1/chat/completions", True, "m", "count", 9, 0.8)
EVENTS = "text/event-stream"


def delta(text: str) -> bytes:
    return b'data: {"id":"x","choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode()


def test_an_event_stream_tells_its_seams() -> None:
    data = delta("") + delta("one ") + delta("two ") + b": resumed on a\n\n" + delta("three ") + delta("four ")
    data += b": resumed on b\n\n" + delta("five") + b"data: [DONE]\n\n"
    seams = seams_of(CHAT, Heard(data=data, content_type=EVENTS))
    assert [(one.said, one.piece) for one in seams] == [("one two ", "three "), ("one two three four ", "five")]


def test_the_whole_text_that_ends_a_part_is_not_said_twice() -> None:
    data = (
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"one "}\n\n'
        b": resumed on a\n\n"
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"two"}\n\n'
        b'event: response.output_text.done\ndata: {"type":"response.output_text.done","text":"one two"}\n\n'
    )
    (seam,) = seams_of(CHAT, Heard(data=data, content_type=EVENTS))
    assert (seam.said, seam.piece) == ("one ", "two")


def test_the_client_library_tells_its_seams_and_what_did_not_go_on_has_none() -> None:
    assert seams_of(CHAT, Heard(seams=[("a", "b")])) == [Seam(CHAT, "a", "b")]
    assert not seams_of(CHAT, Heard(data=delta("one"), content_type=EVENTS))


@pytest.fixture
async def engine() -> AsyncIterator[httpx.AsyncClient]:
    """Says that 'two' or 'too' may come."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/apply-template":
            return httpx.Response(200, json={"prompt": "<count>"})
        assert msgspec.json.decode(request.content)["prompt"] == "<count>one "
        likely = [{"token": "two"}, {"token": "too"}, {"token": ""}]
        return httpx.Response(200, json={"completion_probabilities": [{"top_logprobs": likely}]})

    async with httpx.AsyncClient(base_url="http://engine", transport=httpx.MockTransport(answer)) as http:
        yield http


@pytest.mark.parametrize(("piece", "likely"), [("two", True), ("too", True), ("one ", False), (" two", False)])
async def test_a_repeated_or_missing_piece_is_not_likely(
    engine: httpx.AsyncClient, piece: str, *, likely: bool
) -> None:
    assert await is_likely(engine, Seam(CHAT, "one ", piece)) is likely
