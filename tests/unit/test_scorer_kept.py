"""What the scorer keeps because every decision asks for it is what it would work out anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL
from sollol_agents.lab.testing.scorer_stage import Fleet
from sollol_agents.scorer.choice.contexts import most_room, wanted_room
from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.knowledge.reliability import Record, lower_bound
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.grant import GrantRequest
from sollol_schemas.learned import LearnedRecord
from sollol_schemas.routing import Routing


@given(st.lists(st.booleans(), max_size=40))
def test_the_bound_of_a_record_follows_its_counts(ends: list[bool]) -> None:
    record = Record()
    for is_success in ends:
        record.count(is_success=is_success)
        assert record.bound == lower_bound(record.successes, record.attempts)
    record.forget()
    assert record.bound == 0.0
    record.restore(LearnedRecord(attempts=20.0, successes=18.0, deviation=0.1))
    assert record.bound == lower_bound(18.0, 20.0)


@given(st.integers(0, 200_000), st.none() | st.integers(1, 200_000), st.none() | st.integers(1, 200_000))
def test_most_room_is_the_first_of_what_is_wanted(prompt: int, output: int | None, num_ctx: int | None) -> None:
    context = TaskContext(
        kind=RequestKind.CHAT, model="m", prompt_tokens=prompt, max_output_tokens=output, num_ctx=num_ctx
    )
    assert most_room(context) == wanted_room(context)[0]


def test_a_verdict_that_a_request_has_at_hand_is_judged_anew_when_the_fleet_changes() -> None:
    fleet = Fleet()
    fleet.node("attic")
    verdicts = Verdicts(fleet.core.fleet, 0.9)
    request = GrantRequest(
        request_id="r1", number=1, context=TaskContext(kind=RequestKind.CHAT, model=MODEL), routing=Routing()
    )
    waiting = Waiting(request, fleet.now, 1)

    def nodes() -> set[str]:
        return {node.node_id for node in verdicts.of(waiting, fleet.now).nodes}

    assert nodes() == {"attic"}
    fleet.node("cellar")
    assert nodes() == {"attic", "cellar"}
    fleet.node("attic", is_draining=True)
    assert nodes() == {"cellar"}
    verdicts.trim(is_stale=True)
    assert nodes() == {"cellar"}
    assert not verdicts.is_blocked(waiting)
    fleet.node("cellar", is_draining=True)
    assert nodes() == set()
    assert verdicts.is_blocked(waiting)


def test_a_verdict_at_hand_is_that_of_the_settings_that_count_now() -> None:
    fleet = Fleet()
    fleet.node("attic")
    request = GrantRequest(
        request_id="r1", number=1, context=TaskContext(kind=RequestKind.CHAT, model=MODEL), routing=Routing()
    )
    waiting = Waiting(request, fleet.now, 1)
    first, second = Verdicts(fleet.core.fleet, 0.9), Verdicts(fleet.core.fleet, 0.5)
    assert first.of(waiting, fleet.now) is first.of(waiting, fleet.now)
    assert second.of(waiting, fleet.now) is not first.of(waiting, fleet.now)


@pytest.mark.parametrize("change", ["cpu", "room"])
def test_a_verdict_at_hand_goes_with_the_class_of_its_request(change: str) -> None:
    fleet = Fleet()
    fleet.node("attic")
    verdicts = Verdicts(fleet.core.fleet, 0.9)
    request = GrantRequest(
        request_id="r1", number=1, context=TaskContext(kind=RequestKind.CHAT, model=MODEL), routing=Routing()
    )
    waiting = Waiting(request, fleet.now, 1)
    before = verdicts.of(waiting, fleet.now)
    if change == "cpu":
        waiting.insist_on_cpu()
    else:
        waiting.look_for_room((4096,))
    assert verdicts.of(waiting, fleet.now) is not before
