"""`sollol watch` shows every kind of event that is asked for, as lines or as JSON."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE

import msgspec

from sollol_agents.lab.testing.messages import outcome
from sollol_agents.lab.testing.processes import clean_environ
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.decision import Decision, DecisionEvent
from sollol_schemas.events import (
    BreakerEvent,
    BreakerState,
    NodeEvent,
    OfficeEvent,
    PreloadEvent,
)
from sollol_schemas.jobs import JobEvent, JobNews, JobState
from sollol_schemas.steering import StrategyEvent
from sollol_schemas.telemetry import NodeState

EVENTS: list[tuple[str, msgspec.Struct]] = [
    (
        subjects.ROUTING_EVENT.of("fast"),
        DecisionEvent(decision=Decision(request_id="r", attempt_id="r-1", node_id="attic", model="m")),
    ),
    (
        subjects.OUTCOME_EVENT.of("attic"),
        outcome("r-1", "attic"),
    ),
    (subjects.NODE_EVENT.of("attic", NodeState.DOWN), NodeEvent(node_id="attic", state=NodeState.DOWN)),
    (subjects.PRELOAD_EVENT.of("attic"), PreloadEvent(node_id="attic", model="m")),
    (subjects.BREAKER_EVENT.of("attic", BreakerState.OPEN), BreakerEvent(node_id="attic", state=BreakerState.OPEN)),
    (subjects.OFFICE_EVENT.of("abc"), OfficeEvent(instance="abc", term=1, is_leader=True)),
    (subjects.STRATEGY_EVENT, StrategyEvent(strategy="random", previous="plan")),
    (
        subjects.JOB_EVENT.of("j", "done"),
        JobEvent(job_id="j", news=JobNews.DONE, state=JobState.DONE, node_id="attic"),
    ),
]
ALL = [
    "decision.event.v1",
    "outcome.v1",
    "node.event.v1",
    "preload.event.v1",
    "breaker.event.v1",
    "scorer.office.v1",
    "strategy.event.v1",
    "job.event.v1",
]


async def watched(bus: Bus, *flags: str) -> list[str]:
    """What the command prints about one event of each kind."""
    clean = clean_environ()
    watch = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sollol_agents.cli",
        "watch",
        "--nats",
        bus.config.url,
        *flags,
        stdout=PIPE,
        stderr=PIPE,
        env=clean,
    )
    assert watch.stdout is not None
    assert watch.stderr is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(30):
            assert b"watching" in await watch.stderr.readline()
            for subject, event in EVENTS:
                bus.publish(subject, encode(event))
            bus.publish(subjects.ROUTING_EVENT.of("fast"), b"not a decision")
            while len(lines) < (len(EVENTS) if "--all" in flags else 2):
                lines.append((await watch.stdout.readline()).decode().rstrip())
    finally:
        watch.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(watch.wait(), 10) == 130
    return lines


async def test_watch_shows_decisions_and_nodes_and_passes_over_what_is_no_event(bus: Bus) -> None:
    lines = await watched(bus)
    assert sorted(line.split(maxsplit=1)[1] for line in lines) == [
        "[fast] r m runs on attic, waited 0 ms, predicted 0 ms:",
        "node attic is down",
    ]


async def test_watch_shows_everything_as_the_messages_themselves(bus: Bus) -> None:
    lines = await watched(bus, "--all", "--json")
    assert sorted(msgspec.json.decode(line)["type"] for line in lines) == sorted(ALL)
