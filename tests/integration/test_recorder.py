"""The recorder on a real bus: what it records survives, and it answers while it records."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sollol_agents.lab.testing import messages
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.recorder.actor import Recorder
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.recorder.queries import MAX_QUERIES
from sollol_bus.errors import ConfigError, NoResponders, SollolError, error_from
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode, encode, error_of
from sollol_bus.trust.standings import StandingStore
from sollol_schemas import subjects
from sollol_schemas.callers import Standing, Standings, word_of
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent, Decisions
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import NodeEvent, Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.headers import CALLER
from sollol_schemas.instants import parse_instant
from sollol_schemas.queries import (
    NodesReply,
    RecentReply,
    RecentRequest,
    ReliabilityReply,
    ReliabilityRequest,
    StatsReply,
    StatsRequest,
    UsageReply,
    WhyReply,
)
from sollol_schemas.telemetry import NodeState

Start = Callable[..., Awaitable[Recorder]]


@pytest.fixture
async def start(nats_server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Start]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(**changes: Any) -> Recorder:
            config = RecorderConfig(**{"database": str(tmp_path / "recorder.sqlite3"), **changes})
            bus_config = BusConfig(url=nats_server.url, name="recorder", inbox_prefix="_INBOX_ctl")
            return await stack.enter_async_context(Recorder(config, bus_config))

        yield make


def outcome(request_id: str, node_id: str = "n1", **changes: Any) -> Outcome:
    figures = None if "status" in changes else Figures(actual_s=1.0, output_tokens=10, decode_s=0.5)
    usual: dict[str, Any] = {"model": "m", "predicted_s": 1.0, "figures": figures}
    return messages.outcome(f"{request_id}-1", node_id, **(usual | changes))


async def record(bus: Bus, *outcomes: Outcome) -> None:
    await asyncio.gather(*(publish_acked(bus, subjects.OUTCOME_EVENT.of(o.node_id), encode(o)) for o in outcomes))


async def stats(bus: Bus, window_s: float = 0.0) -> StatsReply:
    msg = await bus.request(subjects.STATS, encode(StatsRequest(window_s=window_s)))
    if (failure := error_of(msg)) is not None:
        raise error_from(failure)
    return decode(msg.data, StatsReply)


async def why(bus: Bus, request_id: str) -> WhyReply:
    return decode((await bus.request(subjects.WHY.of(request_id))).data, WhyReply)


def has_recorded(bus: Bus, count: int) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        try:
            return (await stats(bus)).total.requests == count
        except SollolError:  # it is not in office yet, or its database is still locked
            return False

    return is_so


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Keeps the recorder from writing to its database meanwhile."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:

        def is_ours() -> bool:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # the recorder writes, and needs this loop to come to its end
                return False
            return True

        await eventually(is_ours)
        yield


async def test_outcomes_and_decisions_are_recorded_and_why_shows_both(start: Start, bus: Bus) -> None:
    await start()
    decision = Decision(request_id="r", attempt_id="r-1", node_id="n1", model="m", reason="soonest")
    event = DecisionEvent(decision=decision, candidates=(CandidateCost(node_id="n1", total_s=1.0),))
    await publish_acked(bus, subjects.DECISIONS_EVENT, encode(Decisions(decisions=(event,))))
    await record(bus, outcome("r"))
    reply = await why(bus, "r")
    (told,) = reply.decisions
    assert told == msgspec.structs.replace(event, decided_at=told.decided_at)
    assert abs(parse_instant(told.decided_at) - wall_s()) < 60, "when it was stored"
    assert [o.attempt_id for o in reply.outcomes] in ([], ["r-1"])


async def test_questions_without_a_body_mean_everything(start: Start, bus: Bus) -> None:
    await start()
    await record(bus, outcome("a"), outcome("b", node_id="n2", code=ErrorCode.STALLED))
    await publish_acked(
        bus, subjects.NODE_EVENT.of("n2", "suspect"), encode(NodeEvent(node_id="n2", state=NodeState.SUSPECT))
    )
    await eventually(has_recorded(bus, 2))
    everything = decode((await bus.request(subjects.STATS)).data, StatsReply)
    assert (everything.total.successes, everything.total.failures) == (1, 1)
    assert everything.fleet is None
    reliability = decode((await bus.request(subjects.RELIABILITY)).data, ReliabilityReply)
    assert {(e.node_id, e.model) for e in reliability.entries} == {("n1", ""), ("n1", "m"), ("n2", ""), ("n2", "m")}
    one = await bus.request(subjects.RELIABILITY, encode(ReliabilityRequest(node_id="n2")))
    assert {e.failures_by_code["stalled"] for e in decode(one.data, ReliabilityReply).entries} == {1}
    recent = decode((await bus.request(subjects.RECENT, encode(RecentRequest(limit=1)))).data, RecentReply)
    assert len(recent.outcomes) == 1
    assert [e.node_id for e in recent.node_events] == ["n2"]


async def test_statistics_tell_of_the_fleet_when_a_scorer_answers(start: Start, bus: Bus) -> None:
    await start()
    bus.subscribe(subjects.NODES, lambda m: bus.respond(m, NodesReply(nodes=(), queued=4)))
    fleet = (await stats(bus)).fleet
    assert fleet is not None
    assert fleet.queued == 4


async def test_a_node_s_late_report_replaces_the_presumed_loss(start: Start, bus: Bus) -> None:
    await start()
    lost = outcome("r", status=OutcomeStatus.PRESUMED_LOST, by=ReportedBy.SCORER)
    await record(bus, lost)
    await eventually(has_recorded(bus, 1))
    assert (await stats(bus)).total.failures == 1
    await record(bus, outcome("r"))

    async def is_success() -> bool:
        return (await stats(bus)).total.successes == 1

    await eventually(is_success)
    await record(bus, lost)
    await record(bus, outcome("later"))
    await eventually(has_recorded(bus, 2))
    assert (await stats(bus)).total.failures == 0


async def test_an_unknown_request_and_an_unreadable_question_are_refused(start: Start, bus: Bus) -> None:
    await start()
    unknown = error_of(await bus.request(subjects.WHY.of("never-seen")))
    assert unknown is not None
    assert unknown.code is ErrorCode.UNKNOWN_REQUEST
    unreadable = error_of(await bus.request(subjects.STATS, b"{"))
    assert unreadable is not None
    assert unreadable.code is ErrorCode.BAD_REQUEST


async def test_nobody_can_make_the_recorder_publish_outside_of_inboxes(start: Start, bus: Bus) -> None:
    await start()
    overheard: list[bytes] = []
    bus.subscribe("sollol.v1.scorer.grant", lambda m: overheard.append(m.data))
    bus.publish(subjects.STATS, b"", reply="sollol.v1.scorer.grant")
    bus.publish(subjects.RECENT, b"", reply="sollol.v1.scorer.grant")
    await stats(bus)
    await bus.flush()
    assert overheard == []


async def test_more_queries_than_permitted_are_refused_not_queued(start: Start, bus: Bus) -> None:
    await start()
    replies = await asyncio.gather(*(bus.request(subjects.WHY.of(f"unknown{n}")) for n in range(MAX_QUERIES + 2)))
    codes = [str(body.code) for body in map(error_of, replies) if body is not None]
    assert sorted(codes) == ["queue_full"] * 2 + ["unknown_request"] * MAX_QUERIES


async def test_a_reset_forgets_and_new_outcomes_count_again(start: Start, bus: Bus) -> None:
    await start()
    await record(bus, outcome("a"), outcome("b", node_id="n2"))
    await eventually(has_recorded(bus, 2))
    reply = await bus.request(subjects.ADMIN_METRICS_RESET, encode(ReliabilityRequest(node_id="n1")))
    assert decode(reply.data, ReliabilityReply).entries == ()
    assert (await stats(bus)).total.requests == 1
    await record(bus, outcome("c"))
    await eventually(has_recorded(bus, 2))


async def test_an_event_that_breaks_its_contract_does_not_stop_the_others(start: Start, bus: Bus) -> None:
    await start()
    await publish_acked(bus, subjects.OUTCOME_EVENT.of("n1"), b"not an outcome")
    await record(bus, outcome("a"))
    await eventually(has_recorded(bus, 1))


async def test_what_happened_while_no_recorder_ran_is_recorded_later_and_once(
    nats_server: EmbeddedServer, bus: Bus, tmp_path: Path
) -> None:
    config = RecorderConfig(database=str(tmp_path / "r.sqlite3"))
    bus_config = BusConfig(url=nats_server.url, inbox_prefix="_INBOX_ctl")
    async with Recorder(config, bus_config):
        await record(bus, *(outcome(f"a{n}") for n in range(20)))
    await record(bus, *(outcome(f"b{n}") for n in range(20)))
    async with Recorder(config, bus_config):
        await eventually(has_recorded(bus, 40))


@pytest.mark.shutdown
async def test_a_recorder_that_stops_writes_what_it_received_and_leaves_nothing_unacked(
    nats_server: EmbeddedServer, bus: Bus, tmp_path: Path
) -> None:
    path = tmp_path / "r.sqlite3"
    config = RecorderConfig(database=str(path))
    control = BusConfig(url=nats_server.url, inbox_prefix="_INBOX_ctl")
    async with Recorder(config, control) as recorder, locked(path):
        await record(bus, *(outcome(f"a{n}") for n in range(20)))
        await eventually(lambda: recorder.statistics().waiting == 20)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (20,)
    connection.close()
    with pytest.raises(NoResponders):
        await stats(bus)


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    nats_server: EmbeddedServer, start: Start, bus: Bus, tmp_path: Path
) -> None:
    recorder = await start()
    async with locked(tmp_path / "recorder.sqlite3"):
        await record(bus, *(outcome(f"a{n}") for n in range(100)))
        await eventually(lambda: recorder.statistics().waiting == 100)
        await nats_server.kill()
        await nats_server.start()
        await eventually(lambda: bus.is_connected)
    await record(bus, *(outcome(f"b{n}") for n in range(100)))
    await eventually(has_recorded(bus, 200))


async def test_a_standby_takes_over_and_catches_up_into_a_database_of_its_own(
    nats_server: EmbeddedServer, start: Start, bus: Bus, tmp_path: Path
) -> None:
    config = RecorderConfig(database=str(tmp_path / "first.sqlite3"))
    async with Recorder(config, BusConfig(url=nats_server.url, inbox_prefix="_INBOX_ctl")) as first:
        standby = await start(database=str(tmp_path / "second.sqlite3"))
        assert first.is_in_office
        assert not standby.is_in_office
        await record(bus, *(outcome(f"a{n}") for n in range(30)))
        await eventually(has_recorded(bus, 30))
    await eventually(lambda: standby.is_in_office)
    await eventually(has_recorded(bus, 30))


async def test_a_database_deleted_while_running_is_filled_again_from_the_stream(
    start: Start, bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await start()
    await record(bus, *(outcome(f"a{n}") for n in range(30)))
    await eventually(has_recorded(bus, 30))
    (tmp_path / "recorder.sqlite3").unlink()
    await record(bus, outcome("b"))
    await eventually(has_recorded(bus, 31))
    assert any("begun anew" in r.message and "deleted" in r.message for r in caplog.records)


async def test_a_locked_database_delays_writing_and_loses_nothing_while_questions_are_answered(
    start: Start, bus: Bus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = await start()
    await record(bus, outcome("before"))
    await eventually(has_recorded(bus, 1))
    async with locked(tmp_path / "recorder.sqlite3"):
        await record(bus, *(outcome(f"a{n}") for n in range(10)))
        await eventually(lambda: recorder.statistics().waiting == 10)
        assert (await stats(bus)).total.requests == 1
        await eventually(lambda: any("cannot write" in r.message for r in caplog.records))
    await eventually(has_recorded(bus, 11))
    assert any("works again" in r.message for r in caplog.records)


async def test_a_database_that_cannot_be_used_stops_the_recorder_with_the_reason(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder = await start(database=str(tmp_path / "file" / "r.sqlite3"))
    with pytest.raises(ConfigError, match="database="):
        await asyncio.wait_for(recorder.run_until_stopped(), 10)


async def test_it_can_be_discovered_with_its_counters(start: Start, bus: Bus) -> None:
    recorder = await start()
    await stats(bus)
    await bus.request(subjects.WHY.of("unknown"))
    msg = await bus.request(f"$SRV.STATS.sollol-recorder.{recorder.instance}")
    told = {e["name"]: e for e in decode(msg.data, dict[str, Any])["endpoints"]}
    assert told["stats"]["num_requests"] == 1
    assert (told["why"]["num_errors"], told["why"]["last_error"]) == (1, "unknown_request")


async def test_a_caller_is_told_of_its_teams_requests_and_of_others_that_there_are_none(start: Start, bus: Bus) -> None:
    recorder = await start()
    table = Standings(callers={"a": Standing(team="t"), "b": Standing(team="t"), "eye": Standing(sees_all=True)})
    await StandingStore(bus).change(lambda _: table)
    await eventually(lambda: recorder._roster.standings == table)
    of_a = outcome("of-a")
    of_a = msgspec.structs.replace(of_a, decision=msgspec.structs.replace(of_a.decision, caller=word_of("a")))
    of_a = msgspec.structs.replace(of_a, decision=msgspec.structs.replace(of_a.decision, job_id="a=story"))
    await publish_acked(bus, subjects.OUTCOME_EVENT.of("n1"), encode(of_a))
    await publish_acked(bus, subjects.OUTCOME_EVENT.of("n1"), encode(outcome("of-nobody")))

    async def ask(name: str, subject: str, kind: type[Any], asked: object = None) -> Any:
        body = b"" if asked is None else encode(asked)
        reply = await bus.request(subject, body, headers={CALLER: name} if name else None, timeout_s=5.0)
        error = error_of(reply)
        if error is not None:
            raise error_from(error)
        return decode(reply.data, kind)

    async def requests_of(name: str) -> set[str]:
        return {one.request_id for one in (await ask(name, subjects.RECENT, RecentReply)).outcomes}

    async def is_written() -> bool:
        return await requests_of("") == {"of-a", "of-nobody"}

    await eventually(is_written)
    assert await requests_of("b") == {"of-a"}
    assert await requests_of("stranger") == set()
    assert await requests_of("eye") == {"of-a", "of-nobody"}
    assert len((await ask("b", subjects.WHY.of("of-a"), WhyReply)).outcomes) == 1
    for name, job in (("a", "story"), ("b", "a=story"), ("", "a=story")):
        assert len((await ask(name, subjects.WHY.of(job), WhyReply)).outcomes) == 1
    with pytest.raises(SollolError, match="nothing is recorded about request of-a"):
        await ask("stranger", subjects.WHY.of("of-a"), WhyReply)
    used = (await ask("", subjects.USAGE, UsageReply)).entries
    assert [(one.team, one.caller, one.requests) for one in used] == [("", "", 1), ("t", "a", 1)]
    assert [one.caller for one in (await ask("b", subjects.USAGE, UsageReply)).entries] == ["a"]
