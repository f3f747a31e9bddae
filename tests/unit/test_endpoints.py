"""What is counted of the requests that an actor serves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.scorer.office.node_services import card_of
from sollol_bus.transport.endpoints import Endpoints, row_of
from sollol_bus.transport.messages import Msg
from sollol_schemas import subjects
from sollol_schemas.headers import SERVICE_ERROR, SERVICE_ERROR_CODE
from sollol_schemas.telemetry import Asked, EngineInfo, EngineKind, NodeState, Telemetry


def message(reply: str) -> Msg:
    return Msg(None, subjects.STATS, reply, b"", None, None, False, 1)  # type: ignore[arg-type]


def ignore(_msg: Msg) -> None:
    """A handler."""


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def test_a_request_counts_when_it_comes_and_its_time_when_it_is_answered() -> None:
    clock = Clock()
    endpoints = Endpoints(clock)
    handled: list[Msg] = []
    endpoint, take = endpoints.counting(subjects.STATS, subjects.RECORDERS, handled.append)
    take(message("_INBOX.a"))
    assert (endpoint.requests, endpoint.processing_ns, len(handled)) == (1, 0, 1)
    clock.now_ns = 70
    endpoints.answered("_INBOX.a", None)
    endpoints.answered("_INBOX.a", None)  # a stream goes on: nothing is counted twice
    assert (endpoint.requests, endpoint.errors, endpoint.processing_ns) == (1, 0, 70)


def test_an_error_counts_once_whichever_way_it_is_told() -> None:
    endpoints = Endpoints(Clock())
    endpoint, take = endpoints.counting(subjects.STATS, "", ignore)
    take(message("_INBOX.a"))
    endpoints.over("_INBOX.a", "unknown_request")
    endpoints.answered("_INBOX.a", {SERVICE_ERROR: "again", SERVICE_ERROR_CODE: "404"})
    assert (endpoint.errors, endpoint.last_error) == (1, "unknown_request")
    take(message("_INBOX.b"))
    endpoints.answered("_INBOX.b", {SERVICE_ERROR: "no such", SERVICE_ERROR_CODE: "404"})
    assert (endpoint.errors, endpoint.last_error) == (2, "no such")


def test_a_subject_that_is_served_again_goes_on_counting() -> None:
    endpoints = Endpoints(Clock())
    first, take = endpoints.counting(subjects.NODES, "", ignore)
    take(message(""))
    again, take = endpoints.counting(subjects.NODES, "", ignore)
    take(message(""))
    assert again is first
    assert first.requests == 2
    assert list(endpoints) == [], "nobody takes requests there now"


def test_however_many_are_never_answered_a_bounded_number_is_remembered() -> None:
    endpoints = Endpoints(Clock())
    endpoint, take = endpoints.counting(subjects.CANCEL, "", ignore)
    for reply in range(20_000):
        take(message(str(reply)))
    assert endpoint.requests == 20_000
    assert len(endpoints.open) < 20_000
    endpoints.over("0")
    assert "0" not in endpoints.open, "the oldest went first"
    assert "19999" in endpoints.open


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 9))))
def test_counts_are_never_below_errors_and_times_only_grow(steps: list[tuple[int, bool, int]]) -> None:
    clock = Clock()
    endpoints = Endpoints(clock)
    endpoint, take = endpoints.counting(subjects.STATS, "", ignore)
    for reply, is_request, later_ns in steps:
        before_ns = endpoint.processing_ns
        clock.now_ns += later_ns
        if is_request:
            take(message(f"_INBOX.{reply}"))
        else:
            endpoints.over(f"_INBOX.{reply}", "internal" if reply % 2 else "")
        assert endpoint.errors <= endpoint.requests
        assert endpoint.processing_ns >= before_ns
    assert endpoint.requests == sum(is_request for _, is_request, _ in steps)


@pytest.mark.parametrize(
    ("subject", "name", "is_for_members"),
    [
        (subjects.CHAT, "chat", True),
        (subjects.WHY.all, "why", True),
        (subjects.ADMIN_NODE.all, "admin-node", False),
        (subjects.NODE_EXEC.of("attic"), "node-exec", False),
        (subjects.DISPATCHER_PROBE.of("a1b2"), "dispatcher-probe", True),
        (subjects.by_members(subjects.JOB_SUBMIT.all), "jobs-submit", False),
        ("other.subject", "other-subject", False),
    ],
    ids=["chat", "why", "admin.node", "node.exec", "probe", "under a name", "unknown"],
)
def test_an_endpoint_is_called_after_its_row(subject: str, name: str, is_for_members: bool) -> None:
    endpoint, _ = Endpoints(Clock()).counting(subject, "", ignore)
    assert (endpoint.name, endpoint.is_for_members) == (name, is_for_members)


@pytest.mark.parametrize("row", subjects.SUBJECTS, ids=lambda row: row.address)
def test_every_subject_has_its_own_row(row: subjects.Subject) -> None:
    assert row_of(row.all) is row
    assert row_of(subjects.by_members(row.all)) is row


def test_a_node_is_told_of_with_what_its_heartbeat_counts() -> None:
    asked = (
        Asked(what="node-exec", requests=7, errors=2, last_error="busy", processing_s=0.5),
        Asked(what="something-new", requests=9, processing_s=1e300),
    )
    engine = EngineInfo(kind=EngineKind.OLLAMA, url="")
    told = Telemetry(
        node_id="attic", instance="i1", revision=1, seq=1, engine=engine, slots=1, uptime_s=60, asked=asked
    )
    card = card_of(told, NodeState.UP, 1_800_000_060.0)
    assert (card.name, card.id, card.started) == ("sollol-node", "i1", "2027-01-15T08:00:00.000Z")
    assert card.metadata["node_id"] == "attic"
    counted = {one.subject: (one.requests, one.errors, one.processing_ns) for one in card.endpoints}
    assert counted[subjects.NODE_EXEC.of("attic")] == (7, 2, 500_000_000)
    assert counted[subjects.NODE_CANCEL.of("attic")] == (0, 0, 0)
