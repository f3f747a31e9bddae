"""Who is heard on an inbox: the first node that speaks, each of its messages once, and nothing behind a gap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_bus.transport.voice import Heard, Voice

OURS = "_INBOX_node.attic.t1.7"
OTHERS = "_INBOX_node.cellar.t2.7"


def heard(voice: Voice, reply: str, messages: int, *, is_end: bool = False) -> Heard:
    return voice.hears(reply, messages, is_end=is_end)


def begun() -> Voice:
    voice = Voice()
    assert heard(voice, f"{OURS}.1", 0) is Heard.NEXT
    return voice


def test_messages_in_their_order_are_heard_to_the_end() -> None:
    voice = begun()
    assert heard(voice, f"{OURS}.2", 1) is Heard.NEXT
    assert heard(voice, f"{OURS}.end", 2, is_end=True) is Heard.NEXT


def test_another_speaker_is_not_heard_and_cannot_end_the_stream() -> None:
    voice = begun()
    for reply in (f"{OTHERS}.1", f"{OTHERS}.2", "_INBOX_node.attic.t1.70.2"):
        assert heard(voice, reply, 1) is Heard.OTHER
    assert heard(voice, f"{OTHERS}.end", 1, is_end=True) is Heard.OTHER


def test_a_lost_message_is_noticed_at_the_next_one() -> None:
    assert heard(begun(), f"{OURS}.3", 1) is Heard.GAP


def test_a_stream_whose_first_message_was_lost_is_not_begun() -> None:
    assert heard(Voice(), f"{OURS}.2", 0) is Heard.GAP


def test_a_message_that_comes_again_is_heard_once() -> None:
    assert heard(begun(), f"{OURS}.1", 1) is Heard.AGAIN


@pytest.mark.parametrize("reply", ["_INBOX_node.attic.t.r1-1", "", "probe.x"])
def test_who_does_not_count_is_heard_as_it_comes(reply: str) -> None:
    voice = Voice()
    assert [heard(voice, reply, number) for number in range(3)] == [Heard.NEXT] * 3
    assert heard(voice, "", 3) is Heard.NEXT


def test_an_uncounted_speaker_is_not_mixed_with_another_either() -> None:
    voice = Voice()
    assert heard(voice, "_INBOX_node.attic.t.r1-1", 0) is Heard.NEXT
    assert heard(voice, "_INBOX_node.cellar.t.r1-2", 1) is Heard.OTHER


@given(st.lists(st.tuples(st.sampled_from([OURS, OTHERS]), st.integers(1, 9)), max_size=40))
def test_what_is_heard_is_one_speakers_words_from_the_first_without_gap_or_repetition(
    said: list[tuple[str, int]],
) -> None:
    voice = Voice()
    taken: list[tuple[str, int]] = []
    for speaker, number in said:
        match heard(voice, f"{speaker}.{number}", len(taken)):
            case Heard.NEXT:
                taken.append((speaker, number))
            case Heard.GAP:
                break
    assert [number for _, number in taken] == list(range(1, len(taken) + 1))
    assert len({speaker for speaker, _ in taken}) <= 1
