"""How attempts ended, on a line that freezes and breaks and to callers that come and go, in virtual time."""

from __future__ import annotations

from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st

from sollol_agents.node.attempts.kept_ends import (
    AGAIN_AFTER_S,
    BYTES_MAX,
    COUNT_MAX,
    PROVEN_KEPT_S,
    UNPROVEN_KEPT_S,
    KeptEnds,
)

STEP_S: Final = 0.25
PING_EVERY_S: Final = 5.0
AWAY_MAX_S: Final = 15.0
NOTICED_S: Final = 20.0
"""So long after it stopped the other servers of a cluster give a server up."""


class World:
    """A node, its line to a server, and a caller that listens or not."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ends: KeptEnds[str] = KeptEnds()
        self.heard: dict[str, float] = {}
        self.sayings: dict[str, int] = {}
        self.disturbances = 0
        self._proven_until = 0.0
        self._ping_at = 0.0
        self._in_flight: list[str] = []
        self._is_frozen = False
        self._is_up = True
        self._back_at = -2 * AGAIN_AFTER_S[-1]

    def end(self) -> None:
        key = f"e{len(self.sayings)}"
        self.sayings[key] = 0
        is_said = self._say(key)
        self.ends.keep(key, key, 100, self.now, is_said=is_said)
        if is_said and not self._is_frozen:
            self._arrive()

    def freeze(self) -> None:
        self._is_frozen = True

    def thaw(self) -> None:
        if self._is_frozen and self._is_up:
            self._is_frozen = False
            self._arrive()

    def cut(self) -> None:
        if self._is_up:
            self.disturbances += 1
            self._is_up = False
            self._in_flight.clear()
            self.ends.lost(self._proven_until)

    def connect(self) -> None:
        if not self._is_up:
            self._is_up, self._is_frozen = True, False
            self._ping_at = self.now
            self.ends.connected(self.now)
            self._say_due()

    def lose_a_server(self) -> None:
        """What was on its way through the cluster is lost, and the caller is back after a while."""
        if self._is_up and not self._is_frozen and self._leaves():
            self.disturbances += 1
            for key in [key for key, at in self.heard.items() if at > self.now - NOTICED_S]:
                del self.heard[key]
            self.ends.doubted(self.now)
            self._say_due()

    def leave(self) -> None:
        self._leaves()

    def _leaves(self) -> bool:
        """A caller that comes back stays for longer than the longest pause between two sayings."""
        if self.now < self._back_at + 2 * AGAIN_AFTER_S[-1]:
            return False
        self._back_at = self.now + AWAY_MAX_S
        return True

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            if self._is_up and not self._is_frozen and self.now - self._ping_at >= PING_EVERY_S:
                self._proven_until = self._ping_at = self.now
            self.ends.expire(self.now, self._proven_until)
            self._say_due()

    def _say_due(self) -> None:
        for key, _ in self.ends.due(self.now):
            if self._say(key):
                self.ends.said(key, self.now)
            else:
                self.ends.unsaid(key)
        if not self._is_frozen:
            self._arrive()

    def _say(self, key: str) -> bool:
        if self._is_up:
            self.sayings[key] += 1
            self._in_flight.append(key)
        return self._is_up

    def _arrive(self) -> None:
        arrived, self._in_flight = self._in_flight, []
        for key in arrived:
            if self.now >= self._back_at:
                self.heard[key] = self.now
            else:
                self.ends.refused(key, self.now)


EVENTS: Final = (World.end, World.freeze, World.thaw, World.cut, World.connect, World.lose_a_server, World.leave)


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0.0, 12.0)), max_size=24))
@example([(World.freeze, 0.0), (World.end, 6.0), (World.end, 12.0), (World.leave, 12.0)])
@example([(World.freeze, 0.0), (World.end, 6.0), (World.end, 12.0), (World.thaw, 12.0), (World.lose_a_server, 0.0)])
def test_every_end_is_heard_once_the_line_and_the_caller_are_back(script: list[tuple[object, float]]) -> None:
    world = World()
    for event, pause_s in script:
        event(world)  # type: ignore[operator]
        world.sleep(pause_s)
    world.thaw()
    world.connect()
    world.sleep(AWAY_MAX_S + sum(AGAIN_AFTER_S))
    assert set(world.heard) == set(world.sayings)
    most = (1 + world.disturbances) * (2 + len(AGAIN_AFTER_S))
    assert all(times <= most for times in world.sayings.values()), "nothing is said for ever"


@given(st.lists(st.tuples(st.integers(0, 2 * BYTES_MAX), st.floats(0.0, 100.0)), max_size=60))
def test_what_is_kept_is_bounded_in_bytes_and_time(ends: list[tuple[int, float]]) -> None:
    kept: KeptEnds[int] = KeptEnds()
    now = 0.0
    for number, (size, pause_s) in enumerate(ends):
        kept.keep(str(number), number, size, now, is_said=number % 2 == 0)
        assert kept.bytes <= BYTES_MAX
        assert (kept.get(str(number)) is not None) == (size <= BYTES_MAX)
        now += pause_s
        kept.expire(now, now)
    kept.expire(now + UNPROVEN_KEPT_S + 1.0, now)
    assert (len(kept), kept.bytes, kept.next_at()) == (0, 0, None)


def test_what_is_kept_is_bounded_in_number_and_the_oldest_give_way() -> None:
    kept: KeptEnds[int] = KeptEnds()
    for number in range(COUNT_MAX + 10):
        kept.keep(str(number), number, 1, 0.0, is_said=True)
    assert len(kept) == COUNT_MAX
    assert kept.get("9") is None
    assert kept.get("10") == 10


def test_an_end_that_reaches_nobody_is_due_again_later_and_later_and_not_for_ever() -> None:
    ends: KeptEnds[str] = KeptEnds()
    ends.keep("a", "end", 3, 100.0, is_said=True)
    due = [ends.refused("a", 100.0) for _ in range(len(AGAIN_AFTER_S) + 1)]
    assert due == [*(100.0 + after_s for after_s in AGAIN_AFTER_S), None]
    assert ends.refused("b", 100.0) is None


def test_an_end_that_is_refused_after_a_long_freeze_is_said_again_although_a_pong_proved_that_it_had_left() -> None:
    ends: KeptEnds[str] = KeptEnds()
    ends.keep("a", "end", 3, 0.0, is_said=True)
    due_at = ends.refused("a", PROVEN_KEPT_S)
    assert due_at is not None
    ends.expire(due_at, proven_until=due_at)
    assert ends.due(due_at) == [("a", "end")]
    ends.said("a", due_at)
    ends.expire(due_at + 5.0, proven_until=due_at + 1.0)
    ends.expire(due_at + 5.0 + PROVEN_KEPT_S, proven_until=due_at + PROVEN_KEPT_S)
    assert len(ends) == 0


def test_what_the_server_has_taken_is_not_said_again_on_the_next_connection() -> None:
    kept: KeptEnds[str] = KeptEnds()
    kept.keep("early", "early", 1, 10.0, is_said=True)
    kept.keep("late", "late", 1, 20.0, is_said=True)
    kept.lost(proven_until=15.0)
    kept.connected(30.0)
    assert kept.due(30.0) == [("late", "late")]


def test_a_pong_of_the_next_connection_proves_nothing_of_the_last() -> None:
    kept: KeptEnds[str] = KeptEnds()
    kept.keep("end", "end", 1, 10.0, is_said=True)
    kept.lost(proven_until=5.0)
    kept.expire(10.0 + PROVEN_KEPT_S, proven_until=35.0)
    kept.connected(40.0)
    assert kept.due(40.0) == [("end", "end")]
