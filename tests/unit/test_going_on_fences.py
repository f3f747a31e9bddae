"""Whatever is delayed, lost, said twice, killed or put to sleep: what a caller hands out is one answer.

It has each piece once and in order, of one attempt at a time; the caller listens in one inbox; and it ends.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sollol_agents.lab.testing.going_on.caller import DEADLINE_S
from sollol_agents.lab.testing.going_on.parts import PIECES, PlayedAttempt, PlayedNode, said_in
from sollol_agents.lab.testing.going_on.world import World
from sollol_agents.node.attempts.fence import Verdict
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import GO_S

WHICH = st.integers(0, 7)
FAILURES = st.sampled_from([ErrorCode.MOVED, ErrorCode.ENGINE_FAILED, ErrorCode.CONNECTION_LOST])


class GoingOn(RuleBasedStateMachine):
    """Every order of events of which one answer may be made."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.caller = self.world.caller

    @initialize()
    def ask(self) -> None:
        self.caller.send()

    @property
    def running(self) -> list[PlayedAttempt]:
        """Attempts on which nodes work, awake or not."""
        return [one for node in self.world.nodes for one in node.attempts if one.is_running]

    @property
    def awake(self) -> list[PlayedAttempt]:
        """Those that are awake."""
        return [one for one in self.running if not self.world.nodes[one.node].is_frozen]

    # -- the ordinary course ------------------------------------------------------------------------------

    @precondition(lambda self: self.world.wires.busy)
    @rule(which=WHICH, times=st.integers(1, 4))
    def things_arrive(self, which: int, times: int) -> None:
        for _ in range(times):
            busy = self.world.wires.busy
            if busy:
                self.world.wires.deliver(busy[which % len(busy)])

    @precondition(lambda self: self.awake)
    @rule(which=WHICH, times=st.integers(1, 4))
    def an_engine_works(self, which: int, times: int) -> None:
        attempt = self.awake[which % len(self.awake)]
        for _ in range(times):
            self.world.work(attempt)

    @rule(rounds=st.integers(1, 3))
    def all_goes_well_for_a_while(self, rounds: int) -> None:
        for _ in range(rounds):
            self.settle()

    @rule(by_s=st.sampled_from([0.5, 2.0, 5.0]))
    def time_passes(self, by_s: float) -> None:
        self.world.now += by_s

    # -- what goes wrong ----------------------------------------------------------------------------------

    @precondition(lambda self: self.world.wires.busy)
    @rule(which=WHICH, is_twice=st.booleans())
    def a_message_is_lost_or_comes_twice(self, which: int, is_twice: bool) -> None:
        busy = self.world.wires.busy
        wire = busy[which % len(busy)]
        if is_twice and wire.startswith("n"):
            self.world.wires.double(wire)
        else:
            self.world.wires.lose(wire)

    @precondition(lambda self: self.awake)
    @rule(which=WHICH, after=st.integers(0, 2))
    def a_piece_is_lost_on_its_way_to_the_caller(self, which: int, after: int) -> None:
        attempt = self.awake[which % len(self.awake)]
        wire = f"n{attempt.node}>{attempt.sending.inbox}"
        for number in range(after + 2):
            self.world.work(attempt)
            if wire in self.world.wires.busy:
                act = self.world.wires.lose if number == after else self.world.wires.deliver
                act(wire)

    @precondition(lambda self: self.awake)
    @rule(which=WHICH, code=FAILURES)
    def it_is_cut_or_its_engine_fails(self, which: int, code: ErrorCode) -> None:
        attempt = self.awake[which % len(self.awake)]
        self.world.to_node(attempt, lambda: self.world.stop(attempt, code))

    @precondition(lambda self: self.awake)
    @rule(which=WHICH, act=st.sampled_from(["", "a word", "a cut"]), is_long=st.booleans())
    def a_node_is_frozen(self, which: int, act: str, is_long: bool) -> None:
        """With something in its hand or not; and perhaps until its dispatcher gives up what has not spoken."""
        attempt = self.awake[which % len(self.awake)]
        node = self.world.nodes[attempt.node]
        if act == "a word" and attempt.node_side.verdict(self.world.now) is Verdict.SPEAK:
            self.world.fall_asleep(node, lambda: self.world.utter(attempt))
        elif act == "a cut":
            self.world.fall_asleep(node, lambda: self.world.stop(attempt, ErrorCode.MOVED))
        else:
            self.world.fall_asleep(node)
        if is_long:
            self.world.now += GO_S
            self.world.lose(attempt, is_dead=False)

    @precondition(lambda self: any(node.is_frozen for node in self.world.nodes))
    @rule(which=WHICH, notices=st.booleans())
    def a_node_wakes(self, which: int, notices: bool) -> None:
        asleep = [node for node in self.world.nodes if node.is_frozen]
        self.world.wake(asleep[which % len(asleep)], notices=notices)

    @rule(which=st.integers(0, 2))
    def a_node_dies_or_comes_back(self, which: int) -> None:
        node = self.world.nodes[which]
        if node.is_alive:
            self.world.kill(node)
        else:
            self.world.start(node)

    @precondition(lambda self: self.world.held)
    @rule(which=WHICH)
    def a_dispatcher_holds_a_node_for_gone(self, which: int) -> None:
        """Rightly so, or because nothing of it came through."""
        attempt = self.world.held[which % len(self.world.held)]
        self.world.lose(attempt, is_dead=self.world.is_gone(attempt))

    @rule(which=st.integers(0, 1))
    def a_dispatcher_dies_or_comes_back(self, which: int) -> None:
        self.world.toggle_dispatcher(which)

    @rule()
    def the_callers_connection_breaks_or_is_back(self) -> None:
        if self.caller.is_connected:
            self.caller.lose_connection()
        else:
            self.caller.reconnect()

    @rule()
    def questions_get_no_answer(self) -> None:
        for attempt in self.awake:
            attempt.node_side.unanswered()

    @rule()
    def the_caller_asks_why_it_is_silent(self) -> None:
        self.caller.asks()

    # -- what is always so --------------------------------------------------------------------------------

    @invariant()
    def what_was_handed_out_has_each_piece_once_and_in_order(self) -> None:
        numbers = [number for number, _ in said_in(self.caller.handed_out)]
        assert numbers == list(range(len(numbers)))
        assert self.caller.ended != "whole" or len(numbers) == PIECES
        assert self.caller.ends_told == (self.caller.ended == "whole") or not self.caller.ended

    @invariant()
    def one_attempt_is_heard_in_each_inbox_and_one_inbox_at_a_time(self) -> None:
        assert len(self.caller.speakers) <= 1
        assert self.caller.inboxes <= {self.caller.stream.inbox}

    def settle(self) -> None:
        self.world.settle()

    def teardown(self) -> None:
        """Calm at last: the answer becomes whole, unless time or patience had run out; and it ends in any case."""
        world, caller = self.world, self.caller
        world.calm()
        for _ in range(200):
            if caller.ended:
                break
            for _ in range(8):
                world.settle()
                self.one_attempt_is_heard_in_each_inbox_and_one_inbox_at_a_time()
                self.what_was_handed_out_has_each_piece_once_and_in_order()
            world.pass_time()
        assert caller.ended, "a caller always ends"
        is_hopeless = not caller.handed_out or caller.not_resumed.startswith("it went on")
        assert caller.ended == "whole" or world.now >= DEADLINE_S or is_hopeless
        assert not caller.inboxes


TestGoingOn = GoingOn.TestCase
TestGoingOn.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def begun(pieces: int) -> tuple[World, PlayedAttempt]:
    """An answer of which so many pieces were handed out."""
    world = World()
    world.caller.send()
    while len(said_in(world.caller.handed_out)) < pieces:
        world.settle()
    while not world.held or world.held[0].node_side.verdict(world.now) is not Verdict.SPEAK:
        world.deliver_all()
    return world, world.held[0]


def ended(world: World) -> list[tuple[int, str]]:
    """The whole answer, once everything has come to rest."""
    for _ in range(10):
        for _ in range(8):
            world.settle()
        world.pass_time()
    assert world.caller.ended == "whole"
    return said_in(world.caller.handed_out)


def node_of(world: World, attempt: PlayedAttempt) -> PlayedNode:
    return world.nodes[attempt.node]


def test_a_word_that_a_sleeping_node_had_in_its_hand_is_not_heard_behind_its_successors() -> None:
    world, first = begun(0)
    world.fall_asleep(node_of(world, first), lambda: world.utter(first))
    world.now += GO_S
    world.lose(first, is_dead=False)
    while not world.caller.handed_out:
        world.settle()
    world.wake(node_of(world, first), notices=True)
    assert {attempt for _, attempt in ended(world)} == {"r.0.2"}


def test_one_that_is_heard_before_its_successors_is_gone_on_from_in_a_new_inbox() -> None:
    world, first = begun(0)
    world.fall_asleep(node_of(world, first), lambda: world.utter(first))
    world.now += GO_S
    world.lose(first, is_dead=False)
    world.wake(node_of(world, first), notices=False)
    said = ended(world)
    assert [number for number, _ in said] == list(range(PIECES))
    assert said[0] == (0, "r.0.1")
    assert world.caller.resumed == 1


@pytest.mark.parametrize("when", ["before", "at", "after"])
@pytest.mark.parametrize("wakes", ["at once", "while the rest is said", "when all is over"])
def test_a_node_that_is_frozen_around_its_cut_adds_nothing_when_it_wakes(when: str, wakes: str) -> None:
    world, first = begun(2)
    node = node_of(world, first)
    match when:
        case "before":
            world.fall_asleep(node, lambda: world.utter(first))
            world.stop_by_word(first)
        case "at":
            world.fall_asleep(node, lambda: world.stop(first, ErrorCode.MOVED))
        case _:
            world.stop_by_word(first)
            world.deliver_all()
            world.fall_asleep(node)
    world.settle()
    if wakes != "at once":
        world.lose(first, is_dead=False)  # its heartbeats have stopped
        while len(said_in(world.caller.handed_out)) < (PIECES if wakes == "when all is over" else 4):
            world.settle()
    before = said_in(world.caller.handed_out)
    world.wake(node, notices=False)
    said = ended(world)
    assert [number for number, _ in said] == list(range(PIECES))
    assert wakes == "at once" or said[: len(before)] == before
    speakers = [attempt for _, attempt in said]
    assert speakers == sorted(speakers)
    assert wakes == "at once" or len(set(speakers)) == 2
