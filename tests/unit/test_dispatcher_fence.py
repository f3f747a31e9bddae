"""The dispatcher's side of the fence: one speaker at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.dispatcher.requests.fence import AttemptFence, Phase

GO_S = 2.0


def test_an_attempt_that_never_accepted_may_be_given_up_at_once() -> None:
    fence = AttemptFence(GO_S)
    assert fence.may_abandon_at(10.0) == 10.0


def test_a_lease_is_honoured_until_it_runs_out() -> None:
    fence = AttemptFence(GO_S)
    assert fence.on_accepted(10.0)
    assert fence.may_abandon_at(11.0) == 12.0
    assert fence.may_abandon_at(12.5) == 12.5


def test_a_streaming_attempt_is_never_given_up() -> None:
    fence = AttemptFence(GO_S)
    fence.on_accepted(10.0)
    fence.on_first_token()
    assert fence.may_abandon_at(100.0) is None


def test_start_answered_yes_counts_as_streaming() -> None:
    fence = AttemptFence(GO_S)
    fence.on_accepted(10.0)
    assert fence.on_start_asked()
    assert fence.phase is Phase.STREAMING


def test_an_abandoned_attempt_is_told_no_for_ever() -> None:
    fence = AttemptFence(GO_S)
    fence.on_accepted(10.0)
    fence.abandon()
    assert not fence.on_start_asked()
    assert not fence.on_accepted(11.0)
    fence.on_first_token()
    assert fence.phase is Phase.ABANDONED


EVENTS = st.lists(st.sampled_from(["accepted", "start", "first", "abandon"]), max_size=12)


@given(EVENTS, st.lists(st.floats(0.0, 5.0), min_size=12, max_size=12))
def test_no_attempt_may_speak_after_it_was_given_up(events: list[str], gaps: list[float]) -> None:
    """The node's lease, counted from its question, always ends before the dispatcher may abandon."""
    fence = AttemptFence(GO_S)
    now = 0.0
    node_may_speak_until = -1.0
    for event, gap in zip(events, gaps, strict=False):
        asked_at, now = now, now + gap  # the question may travel for `gap` seconds
        if event == "accepted" and fence.on_accepted(now):
            node_may_speak_until = max(node_may_speak_until, asked_at + GO_S)
        elif event == "start" and fence.on_start_asked():
            node_may_speak_until = float("inf")
        elif event == "first":
            fence.on_first_token()
        elif event == "abandon":
            may_at = fence.may_abandon_at(now)
            if may_at is not None and may_at <= now:
                assert fence.may_move(now)
                fence.abandon()
                assert node_may_speak_until <= now
            else:
                assert not fence.may_move(now)
