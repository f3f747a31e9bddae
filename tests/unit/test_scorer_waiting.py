"""The order of the queue: exact ageing, bounds, and priority 0."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.queue.queue import Queue, merged
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.grant import GrantRequest
from sollol_schemas.routing import Routing


def waiting(
    name: str, *, priority: int = 5, at: float = 0.0, sequence: int = 0, model: str = "m", **more: Any
) -> Waiting:
    request = GrantRequest(
        request_id=name,
        number=1,
        context=TaskContext(kind=RequestKind.CHAT, model=model),
        routing=Routing(priority=priority),
        **more,
    )
    return Waiting(request, at, sequence)


def order(room: Queue, window: int = 1000) -> list[str]:
    return [w.request_id for w in merged(room.lines(), window)]


def test_a_priority_2_request_overtakes_a_fresh_priority_9_one_after_420_seconds() -> None:
    room = Queue()
    room.add(waiting("old", priority=2, at=0.0, sequence=1))
    room.add(waiting("before", priority=9, at=419.9, sequence=2))
    room.add(waiting("after", priority=9, at=420.1, sequence=3))
    assert order(room) == ["before", "old", "after"]


def test_equal_ranks_go_to_the_older() -> None:
    room = Queue()
    room.add(waiting("younger", priority=6, at=60.0, sequence=1))
    room.add(waiting("older", priority=5, at=0.0, sequence=2))
    assert order(room) == ["older", "younger"]


def test_equal_requests_keep_their_sequence() -> None:
    room = Queue()
    for i in (3, 1, 2):
        room.add(waiting(f"r{i}", sequence=i))
    assert order(room) == ["r1", "r2", "r3"]


def test_the_age_of_a_request_counts_from_its_first_arrival() -> None:
    room = Queue()
    room.add(waiting("here", at=100.0, sequence=1))
    room.add(waiting("retried", at=130.0, waited_s=60.0, sequence=2))
    assert order(room) == ["retried", "here"]


def test_priority_0_comes_only_when_nothing_else_waits_and_does_not_age() -> None:
    room = Queue()
    idle = waiting("idle", priority=0, at=-1e6, sequence=1)
    room.add(idle)
    room.add(waiting("batch", priority=1, at=0.0, sequence=2))
    assert order(room) == ["batch"]
    assert room.position(idle) == 1
    room.remove("batch")
    assert order(room) == ["idle"]


def test_every_class_has_its_own_window() -> None:
    room = Queue()
    for i in range(10):
        room.add(waiting(f"a{i}", model="a", sequence=i))
    room.add(waiting("b", model="b", sequence=99))
    assert order(room, window=3) == ["a0", "a1", "a2", "b"]


def test_each_priority_level_is_bounded() -> None:
    room = Queue(limit=2)
    for i in range(2):
        room.add(waiting(f"r{i}", priority=5, sequence=i))
    assert room.is_full(5)
    assert not room.is_full(6)
    room.remove("r0")
    assert not room.is_full(5)


def test_overdue_requests_are_named_once() -> None:
    room = Queue()
    room.add(waiting("soon", at=0.0, deadline_s=5.0, sequence=1))
    room.add(waiting("late", at=0.0, deadline_s=50.0, sequence=2))
    room.add(waiting("gone", at=0.0, deadline_s=1.0, sequence=3))
    room.remove("gone")
    assert [w.request_id for w in room.overdue(10.0)] == ["soon"]
    assert room.overdue(10.0) == []


items = st.lists(
    st.tuples(st.integers(1, 10), st.floats(0, 5000), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=40
)


@given(items)
def test_the_order_of_any_two_is_that_of_their_ranks_at_every_later_instant(
    specs: list[tuple[int, float, str]],
) -> None:
    room = Queue()
    members = [waiting(f"r{i}", priority=p, at=t, model=m, sequence=i) for i, (p, t, m) in enumerate(specs)]
    for member in members:
        room.add(member)
    ordered = merged(room.lines(), 1000)
    assert {w.request_id for w in ordered} == {w.request_id for w in members}
    for now in (5000.0, 9000.0):
        ranks = [w.priority + (now - w.enqueued_at) / 60.0 for w in ordered]
        assert all(a >= b - 1e-9 for a, b in pairwise(ranks))


@given(items, st.data())
def test_positions_and_removals_agree_with_the_order(specs: list[tuple[int, float, str]], data: st.DataObject) -> None:
    room = Queue()
    for i, (p, t, m) in enumerate(specs):
        room.add(waiting(f"r{i}", priority=p, at=t, model=m, sequence=i))
    for name in data.draw(st.lists(st.sampled_from([f"r{i}" for i in range(len(specs))]), unique=True)):
        assert room.remove(name) is not None
        assert room.remove(name) is None
    ordered = merged(room.lines(), 1000)
    assert [room.position(w) for w in ordered] == list(range(len(ordered)))
    assert len(room) == len(ordered)
    assert {w.class_key for w in ordered} == {w.class_key for w in room.one_of_each_class()}


@pytest.mark.parametrize(("priority", "size", "rank"), [(5, 0.0, 5.0), (5, 1.0, 4.0), (9, -1.0, 10.0)])
def test_the_size_of_a_request_moves_its_rank(priority: int, size: float, rank: float) -> None:
    one = waiting("r", priority=priority)
    one.size_levels = size
    Queue().place(one)
    assert one.arrival_rank() == rank
    Queue().add(one)
    assert one.rank(120.0, 60.0) == pytest.approx(rank + 2.0)
