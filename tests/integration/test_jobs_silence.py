"""A job whose node ended without being heard: the dispatcher asks, and the job runs again."""

from __future__ import annotations

import json

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BusError
from sollol_bus.jetstream.api import publish_acked
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import AttemptState, ControlReply
from sollol_schemas.decision import Decision
from sollol_schemas.execution import AttemptAccepted, AttemptDone, AttemptFirstToken, Exec, Figures
from sollol_schemas.grant import Granted, GrantRequest
from sollol_schemas.jobs import JobResult, JobState


class Fleet:
    """Doubles of a scorer that grants at once, and of a node whose first end goes unheard."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.attempts: list[str] = []
        self.jobs: set[str] = set()
        bus.subscribe(subjects.GRANT, self._on_grant)
        bus.subscribe(subjects.NODE_EXEC.of("n1"), self._on_exec)
        ended = ControlReply(node_id="n1", instance="i1", attempt_state=AttemptState.ENDED_SPOKEN)
        bus.subscribe(subjects.NODE_CONTROL.of("n1"), lambda msg: bus.respond(msg, ended))

    def _on_grant(self, msg: Msg) -> None:
        asked = decode(msg.data, GrantRequest)
        self.jobs.add(asked.context.job_id)
        decision = Decision(
            request_id=asked.request_id,
            attempt_id=f"{asked.request_id}-{asked.number}",
            node_id="n1",
            instance="i1",
            model="m",
            attempt=asked.number,
        )
        self.bus.respond(msg, Granted(decision=decision))

    def _on_exec(self, msg: Msg) -> None:
        assert msg.headers is not None
        made = decode(msg.headers[h.EXEC].encode(), Exec).decision
        attempt = made.attempt_id
        self.attempts.append(attempt)
        self._report(attempt, AttemptAccepted(attempt_id=attempt, instance="i1"))
        self._report(attempt, AttemptFirstToken(attempt_id=attempt))
        told = {h.DECISION: encode(made).decode()}
        is_whole = len(self.attempts) > 1
        said = (
            b'{"model":"m","response":"hi","done":true}' if is_whole else b'{"model":"m","response":"hi","done":false}'
        )
        self.bus.publish(msg.headers[h.REPLY_TO], said, headers=told)
        if is_whole:
            self.bus.publish(msg.headers[h.REPLY_TO], b"", headers={h.CHUNKS: "1"})
            self._report(attempt, AttemptDone(attempt_id=attempt, figures=Figures()))

    def _report(self, attempt: str, report: object) -> None:
        self.bus.publish(subjects.ATTEMPT.of("n1", attempt), encode(report))


async def test_a_job_whose_end_went_unheard_is_run_again(nats_server: EmbeddedServer, bus: Bus) -> None:
    results: list[JobResult] = []
    bus.subscribe(subjects.JOB_RESULT.of("mine"), lambda msg: results.append(decode(msg.data, JobResult)))
    fleet = Fleet(bus)
    async with Dispatcher(DispatcherConfig(), BusConfig(url=nats_server.url, inbox_prefix="_INBOX_ctl")):
        payload = json.dumps({"body": {"model": "m", "prompt": "hello"}}).encode()

        async def is_stored() -> bool:
            try:
                await publish_acked(bus, subjects.JOB_SUBMIT.of(5, "mine"), payload, headers={"Nats-Msg-Id": "mine"})
            except BusError:
                return False  # the dispatcher makes the stream at its start
            return True

        await eventually(is_stored)
        await eventually(lambda: bool(results))
    assert [result.state for result in results] == [JobState.DONE]
    assert len(set(fleet.attempts)) == 2, "no two tries share an attempt id"
    assert fleet.jobs == {"mine"}
