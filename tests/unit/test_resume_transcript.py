"""What is kept of an answer: little that is unread, and its text up to a bound."""

from __future__ import annotations

import gc
import random
import tracemalloc
import weakref

from sollol_bus.sdk.resume.resuming import Resuming
from sollol_bus.sdk.resume.transcript import Transcript
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind

_PIECE = b'{"model":"m","created_at":"2026-01-01T00:00:00Z","response":"word ","done":false}'


def _transcript(limit_bytes: int = 1 << 20, body: bytes = b'{"prompt":"a"}') -> Transcript:
    return Transcript(RequestKind.GENERATE, "", body, limit_bytes=limit_bytes)


def test_little_is_kept_of_a_long_answer_while_nothing_breaks() -> None:
    transcript = _transcript()
    most = 0
    for _ in range(10_000):
        transcript.add(_PIECE)
        most = max(most, transcript.kept_bytes)
    assert most < 256 << 10
    said = transcript.said()
    assert (said.text, said.pieces) == ("word " * 10_000, 10_000)


def test_a_text_over_the_bound_is_dropped() -> None:
    transcript = _transcript(limit_bytes=10_000)
    rng = random.Random(3)
    most = 0
    for _ in range(20_000):
        transcript.add(b'{"response":"%016x","done":false}' % rng.getrandbits(64))
        most = max(most, transcript.kept_bytes)
    assert not transcript.keeps
    assert transcript.kept_bytes == 0
    assert most < 256 << 10
    said = transcript.said()
    assert "10000 bytes" in said.refusal
    assert not said.text


def test_a_text_that_packs_well_is_measured_when_it_is_read() -> None:
    transcript = _transcript(limit_bytes=10_000)
    for _ in range(20_000):
        transcript.add(_PIECE)
    assert "10000 bytes" in transcript.said().refusal
    assert transcript.kept_bytes == 0


def test_nothing_is_kept_of_what_cannot_go_on() -> None:
    transcript = _transcript(body=b'{"prompt":"a","format":"json"}')
    assert not transcript.said().refusal, "nothing was handed out, so it may begin anew"
    transcript.add(_PIECE)
    assert not transcript.keeps
    assert transcript.said().refusal


def test_the_memory_that_ten_megabytes_of_an_answer_take_is_bounded() -> None:
    rng = random.Random(5)
    words = [rng.randbytes(150).hex() for _ in range(1024)]
    transcript = _transcript()
    most = 0
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(34_000):
            transcript.add(b'{"response":"%s","done":false}' % words[number * 7919 % 1024].encode())
            if number % 500 == 0:
                most = max(most, tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert most < 3 << 20
    assert transcript.messages == 34_000


def test_what_was_kept_is_free_when_its_call_is_without_a_search_for_garbage() -> None:
    answer = Resuming(subjects.GENERATE, "", b'{"prompt":"a"}', limit_bytes=1 << 20)
    kept = weakref.ref(answer)
    gc.disable()
    try:
        del answer
        assert kept() is None
    finally:
        gc.enable()
