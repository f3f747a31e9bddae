"""The dispatcher on a real server, between a scripted scorer and scripted nodes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.administration import Administration
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import (
    ActorStopped,
    BackendRefused,
    BackendUnavailable,
    BadRequest,
    Cancelled,
    ConfigError,
    Conflict,
    DeadlineExceeded,
    NoEligibleNode,
    SollolError,
)
from sollol_bus.jetstream.streams import provision
from sollol_bus.sdk.call import Call
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_bus.transport.streaming import request_many
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import AdminRequest, ControlReply
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import NodeEvent, OfficeEvent, Outcome, OutcomeStatus
from sollol_schemas.execution import (
    GO_S,
    AttemptAccepted,
    AttemptDone,
    AttemptFailed,
    AttemptFirstToken,
    AttemptStart,
    CancelAttempt,
    CancelRequest,
    Exec,
    Figures,
    RequestGranted,
    RequestNews,
    RequestWaiting,
    StartAnswer,
    Taken,
)
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantRelease, GrantRequest
from sollol_schemas.telemetry import NodeState

BODY = b'{"model":"m","prompt":"hi","stream":true}'


class ScriptedScorer:
    """A double that grants the first node that is not excluded, in the order given."""

    def __init__(self, bus: Bus, nodes: list[str]) -> None:
        self.bus = bus
        self.nodes = nodes
        self.asked: list[GrantRequest] = []
        self.released: list[str] = []
        self.holds_back = False
        bus.subscribe(subjects.GRANT, self._on_grant)
        bus.subscribe(subjects.RELEASE, lambda m: self.released.append(decode(m.data, GrantRelease).request_id))

    def repeat(self) -> None:
        """Says again that what was asked for last has to wait."""
        self.bus.respond(self._last, GrantQueued(request_id=self.asked[-1].request_id, position=1))

    def let_go(self) -> None:
        """Grants what was held back last."""
        self.holds_back = False
        self._on_grant(self._last)

    def _on_grant(self, msg: Msg) -> None:
        asked = decode(msg.data, GrantRequest)
        self.asked.append(asked)
        self._last = msg
        if self.holds_back:
            self.bus.respond(msg, GrantQueued(request_id=asked.request_id, position=1))
            return
        free = [n for n in self.nodes if n not in asked.excluded]
        if not free:
            error = ErrorBody(code=ErrorCode.NO_ELIGIBLE_NODE, message="every node is excluded")
            self.bus.respond(msg, GrantRefused(request_id=asked.request_id, error=error))
            return
        decision = Decision(
            request_id=asked.request_id,
            attempt_id=f"{asked.request_id}-{asked.number}",
            node_id=free[0],
            instance="i1",
            model="m",
            attempt=asked.number,
        )
        self.bus.respond(msg, Granted(decision=decision))


class ScriptedNode:
    """A double of a node: records execs; the test says what it does with each."""

    def __init__(self, bus: Bus, node_id: str, script: Callable[[ScriptedNode, str], None] | None = None) -> None:
        self.bus = bus
        self.node_id = node_id
        self.script = script
        self.execs: list[Exec] = []
        self.reply_to: dict[str, str] = {}
        self.answers: list[bool] = []
        self.cancelled: list[str] = []
        self.probes = 0
        self.is_mute = False
        """Whether it leaves probes unanswered."""
        self._subscriptions = [
            bus.subscribe(subjects.NODE_EXEC.of(node_id), self._on_exec),
            bus.subscribe(subjects.NODE_CONTROL.of(node_id), self._on_control),
            bus.subscribe(
                subjects.NODE_CANCEL.of(node_id),
                lambda m: self.cancelled.append(decode(m.data, CancelAttempt).attempt_id),
            ),
        ]
        self._answers = bus.new_inbox()
        bus.subscribe(self._answers, self._on_answer)

    def _on_control(self, msg: Msg) -> None:
        self.probes += 1
        if not self.is_mute:
            self.bus.respond(msg, ControlReply(node_id=self.node_id, instance="i1"))

    def _on_answer(self, msg: Msg) -> None:
        if msg.data:
            self.answers.append(decode(msg.data, StartAnswer).go)

    def _on_exec(self, msg: Msg) -> None:
        assert msg.headers is not None
        envelope = decode(msg.headers[h.EXEC].encode(), Exec)
        self.execs.append(envelope)
        self.reply_to[envelope.attempt_id] = msg.headers[h.REPLY_TO]
        if self.script is not None:
            self.script(self, envelope.attempt_id)

    def die(self) -> None:
        for subscription in self._subscriptions:
            subscription.unsubscribe()

    def report(self, attempt: str, report: object) -> None:
        self.bus.publish(subjects.ATTEMPT.of(self.node_id, attempt), encode(report), reply=self._answers)

    def accept(self, attempt: str) -> None:
        self.report(attempt, AttemptAccepted(attempt_id=attempt, instance="i1"))

    def first(self, attempt: str) -> None:
        self.report(attempt, AttemptFirstToken(attempt_id=attempt))
        self.bus.publish(self.reply_to[attempt], b'{"response":"a"}')

    def say(self, attempt: str, chunk: bytes) -> None:
        self.bus.publish(self.reply_to[attempt], chunk)

    def finish(self, attempt: str) -> None:
        self.bus.publish(self.reply_to[attempt], b"", headers={h.CHUNKS: "1"})
        self.report(attempt, AttemptDone(attempt_id=attempt, figures=Figures()))

    def fail(self, attempt: str, code: ErrorCode, *, status: int = 0) -> None:
        error = ErrorBody(code=code, message="scripted failure", status=status)
        self.report(attempt, AttemptFailed(attempt_id=attempt, error=error))


def begin(node: ScriptedNode, attempt: str) -> None:
    node.accept(attempt)
    node.first(attempt)


def serve(node: ScriptedNode, attempt: str) -> None:
    begin(node, attempt)
    node.finish(attempt)


@pytest.fixture
async def actors_bus(nats_server: EmbeddedServer) -> AsyncIterator[Bus]:
    connected = await Bus.connect(BusConfig(url=nats_server.url, name="doubles"))
    await provision(connected)
    yield connected
    await connected.close()


@pytest.fixture
async def dispatcher(nats_server: EmbeddedServer, actors_bus: Bus) -> AsyncIterator[Dispatcher]:
    async with quick(Dispatcher(DispatcherConfig(drain_timeout_s=0.3), control(nats_server))) as actor:
        yield actor
    assert actor.statistics().in_flight == 0


def control(server: EmbeddedServer) -> BusConfig:
    return BusConfig(url=server.url, inbox_prefix="_INBOX_ctl")


def quick(dispatcher: Dispatcher) -> Dispatcher:
    dispatcher.pace = Pace(
        accept_s=0.8, probe_interval_s=0.05, node_silence_s=0.3, scorer_absence_s=0.3, grant_silence_s=0.3
    )
    return dispatcher


async def ask(bus: Bus, body: bytes = BODY, **headers: str) -> list[bytes]:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return [m.data async for m in request_many(bus, subjects.GENERATE, body, headers=named or None, total_s=20)]


async def test_an_unknown_detector_is_named_instead_of_a_traceback(nats_server: EmbeddedServer) -> None:
    actor = Dispatcher(DispatcherConfig(detector="nope"), BusConfig(url=nats_server.url))
    with pytest.raises(ConfigError, match=r"setting `detector`: .*nope"):
        async with actor:
            pass


async def test_chunks_go_from_the_node_to_the_caller(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    assert scorer.asked[0].context.model == "m"
    assert node.execs[0].stream
    assert dispatcher.statistics().taken == 1


async def test_a_missing_node_is_replaced_and_reported_as_lost(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["gone", "n2"])
    ScriptedNode(actors_bus, "n2", serve)
    outcomes: list[Outcome] = []
    actors_bus.subscribe(subjects.OUTCOME_EVENT.all, lambda m: outcomes.append(decode(m.data, Outcome)))
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    await eventually(lambda: [(o.node_id, o.status) for o in outcomes] == [("gone", OutcomeStatus.PRESUMED_LOST)])


async def test_a_node_that_comes_back_to_the_bus_after_its_dispatcher_is_waited_for(
    nats_server: EmbeddedServer, dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    await nats_server.kill()
    await eventually(lambda: not any(b.is_connected for b in (bus, actors_bus, dispatcher.bus)))
    await nats_server.start()
    await eventually(lambda: all(b.is_connected for b in (bus, actors_bus, dispatcher.bus)))
    scorer = ScriptedScorer(actors_bus, ["n1"])
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: len(scorer.asked) >= 2)
        ScriptedNode(actors_bus, "n1", serve)
        assert [m.data async for m in call] == [b'{"response":"a"}']
    assert scorer.asked[-1].excluded == ()


async def test_a_failure_before_the_first_chunk_stays_unseen(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", lambda n, a: n.fail(a, ErrorCode.ENGINE_FAILED))
    ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    assert scorer.asked[-1].excluded == ("n1",)
    assert scorer.asked[-1].number == 2


async def test_three_failures_end_the_request(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1", "n2", "n3", "n4"])
    for name in ("n1", "n2", "n3", "n4"):
        ScriptedNode(actors_bus, name, lambda n, a: n.fail(a, ErrorCode.STALLED))
    await actors_bus.flush()
    with pytest.raises(BackendUnavailable, match="3 of 3 attempts failed"):
        await ask(bus)


async def test_an_engines_refusal_is_passed_on_and_not_retried(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", lambda n, a: n.fail(a, ErrorCode.ENGINE_REJECTED, status=422))
    await actors_bus.flush()
    with pytest.raises(BackendRefused) as caught:
        await ask(bus)
    assert caught.value.body.http_status == 422
    assert len(scorer.asked) == 1


async def test_busy_costs_no_attempt(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    def busy_then_serve(node: ScriptedNode, attempt: str) -> None:
        if len(node.execs) < 6:
            node.fail(attempt, ErrorCode.BUSY)
        else:
            serve(node, attempt)

    scorer = ScriptedScorer(actors_bus, ["n1"])
    ScriptedNode(actors_bus, "n1", busy_then_serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    assert scorer.asked[-1].excluded == ()
    assert "n1" in scorer.asked[-1].busy


async def test_a_node_that_dies_before_its_first_chunk_is_replaced(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    def accept_and_die(node: ScriptedNode, attempt: str) -> None:
        node.accept(attempt)
        node.die()

    ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", accept_and_die)
    ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']


async def test_a_node_that_dies_in_mid_stream_ends_in_an_error_and_no_restart(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    def begin_and_die(node: ScriptedNode, attempt: str) -> None:
        node.accept(attempt)
        node.first(attempt)
        node.die()

    ScriptedScorer(actors_bus, ["n1", "n2"])
    ScriptedNode(actors_bus, "n1", begin_and_die)
    other = ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    with pytest.raises(BackendUnavailable, match="process is gone"):
        await ask(bus)
    assert other.execs == []


async def test_a_stream_goes_on_although_its_node_answers_no_probes_until_its_heartbeats_stop_too(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", begin)
    node.is_mute = True
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        chunks = aiter(call)
        assert (await anext(chunks)).data == b'{"response":"a"}'
        silent = dispatcher.pace.node_silence_s / dispatcher.pace.probe_interval_s
        await eventually(lambda: node.probes > 2 * silent)
        node.say(f"{call.request_id}-1", b'{"response":"b"}')
        assert (await anext(chunks)).data == b'{"response":"b"}'
        down = NodeEvent(node_id="n1", state=NodeState.DOWN)
        actors_bus.publish(subjects.NODE_EVENT.of("n1", "down"), encode(down))
        with pytest.raises(BackendUnavailable, match="heartbeats"):
            await anext(chunks)


async def test_a_node_that_reports_lives_although_it_answers_no_probes(
    nats_server: EmbeddedServer, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", lambda n, a: n.accept(a) if "patient" in a else serve(n, a))
    node.is_mute = True
    await actors_bus.flush()
    dispatcher = Dispatcher(DispatcherConfig(), control(nats_server))
    silence_s = 1.0
    dispatcher.pace = Pace(node_silence_s=silence_s, accept_s=20.0)
    async with dispatcher, Call(bus, subjects.GENERATE, BODY, request_id="patient") as call:
        await eventually(lambda: node.answers == [True])
        leased = time.monotonic()
        while time.monotonic() < leased + GO_S + silence_s:
            assert await ask(bus) == [b'{"response":"a"}']
        serve(node, "patient-1")
        assert [m.data async for m in call] == [b'{"response":"a"}']
    assert [a.number for a in scorer.asked if a.request_id == "patient"] == [1], "it was never given up"


async def test_an_attempt_that_is_not_accepted_in_time_is_given_up_and_told_no(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["slow", "n2"])
    slow = ScriptedNode(actors_bus, "slow")
    ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    assert await ask(bus) == [b'{"response":"a"}']
    late = slow.execs[0].attempt_id
    slow.accept(late)
    slow.report(late, AttemptStart(attempt_id=late))
    await eventually(lambda: slow.answers == [False, False])
    slow.fail(late, ErrorCode.CANCELLED)
    await eventually(lambda: dispatcher.statistics().abandoned == 0)


async def test_without_a_scorer_the_caller_is_told_what_to_start(dispatcher: Dispatcher, bus: Bus) -> None:
    with pytest.raises(NoEligibleNode, match="sollol scorer"):
        await ask(bus)


async def test_an_absent_scorer_is_asked_by_one_request_for_all_and_then_by_each_once(
    nats_server: EmbeddedServer, actors_bus: Bus, bus: Bus
) -> None:
    dispatcher = quick(Dispatcher(DispatcherConfig(), control(nats_server)))
    dispatcher.pace = msgspec.structs.replace(dispatcher.pace, scorer_absence_s=60.0)
    many = 200
    async with dispatcher:
        replies: list[Msg] = []
        inbox = bus.new_inbox()
        bus.subscribe(inbox, replies.append)
        for _ in range(many):
            bus.publish(subjects.GENERATE, BODY, reply=inbox)
        await eventually(lambda: dispatcher.statistics().in_flight == many)
        sent = dispatcher.bus.nats.stats["out_msgs"]
        absent_until = time.monotonic() + 1.0
        while time.monotonic() < absent_until:
            await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
            sent += 1  # the answer to this probe
        assert dispatcher.bus.nats.stats["out_msgs"] - sent < many, "two thousand, if each asked ten times a second"
        scorer = ScriptedScorer(actors_bus, ["n1"])
        ScriptedNode(actors_bus, "n1", serve)
        await actors_bus.flush()
        actors_bus.publish(subjects.OFFICE_EVENT.of("s2"), encode(OfficeEvent(instance="s2", term=2, is_leader=True)))
        await eventually(lambda: len(replies) == 2 * many)
        assert set(Counter(asked.request_id for asked in scorer.asked).values()) <= {1, 2}, "the scout may ask twice"
        assert len(scorer.asked) <= many + 1


async def test_a_new_scorer_in_office_is_asked_at_once_with_the_age_kept(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    scorer.holds_back = True
    ScriptedNode(actors_bus, "n1", serve)
    await actors_bus.flush()
    call = Call(bus, subjects.GENERATE, BODY)
    async with call:
        await eventually(lambda: len(scorer.asked) == 1)
        scorer.holds_back = False
        office = OfficeEvent(instance="s2", term=2, is_leader=True)
        actors_bus.publish(subjects.OFFICE_EVENT.of("s2"), encode(office))
        assert [m.data async for m in call] == [b'{"response":"a"}']
    assert scorer.asked[1].waited_s > scorer.asked[0].waited_s


async def test_a_waiting_request_can_be_cancelled(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    call = Call(bus, subjects.GENERATE, BODY)
    async with call:
        await eventually(lambda: len(scorer.asked) == 1)
        call.cancel()
        with pytest.raises(Cancelled):
            await anext(aiter(call))
    await eventually(lambda: scorer.released == [call.request_id])


async def test_a_caller_that_leaves_frees_the_node(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", lambda n, a: n.accept(a))
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY) as call:
        await eventually(lambda: node.answers == [True])
    await eventually(lambda: node.cancelled == [f"{call.request_id}-1"])


async def test_a_caller_that_died_is_missed_while_its_request_waits(
    nats_server: EmbeddedServer, dispatcher: Dispatcher, actors_bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    mortal = await Bus.connect(BusConfig(url=nats_server.url, name="mortal"))
    heard: list[RequestNews] = []
    async with Call(mortal, subjects.GENERATE, BODY, on_news=heard.append):
        await eventually(lambda: RequestWaiting in map(type, heard))
        assert [type(news) for news in heard[:2]] == [Taken, RequestWaiting]
        await mortal.nats.close()  # without a word, as a killed process
        scorer.repeat()
        await eventually(lambda: dispatcher.statistics().in_flight == 0)
    await eventually(lambda: len(scorer.released) == 1)
    await mortal.close()


@pytest.mark.parametrize(
    ("headers", "told"), [({}, [Taken]), ({h.JOB: "j1"}, [Taken, RequestGranted])], ids=["any", "job"]
)
async def test_of_a_request_that_never_waited_only_the_runner_of_a_job_hears_where_it_runs(
    headers: dict[str, str], told: list[type], dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", lambda n, a: n.accept(a))
    await actors_bus.flush()
    heard: list[type] = []
    async with Call(
        bus, subjects.GENERATE, BODY, headers=headers, on_news=lambda news: heard.append(type(news))
    ) as call:
        await eventually(lambda: Taken in heard)
        node.first(f"{call.request_id}-1")
        node.finish(f"{call.request_id}-1")
        assert [msg.data async for msg in call] == [b'{"response":"a"}']
    assert heard == told


async def test_a_caller_who_heard_that_its_request_waits_hears_when_it_runs(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    scorer.holds_back = True
    ScriptedNode(actors_bus, "n1", serve)
    await actors_bus.flush()
    heard: list[type] = []
    async with Call(bus, subjects.GENERATE, BODY, on_news=lambda news: heard.append(type(news))) as call:
        await eventually(lambda: RequestWaiting in heard)
        scorer.let_go()
        assert [msg.data async for msg in call] == [b'{"response":"a"}']
    assert heard == [Taken, RequestWaiting, RequestGranted]


async def test_nobody_cancels_without_the_secret(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY, request_id="mine"):
        await eventually(lambda: len(scorer.asked) == 1)
        bus.publish(subjects.CANCEL, b'{"request_id":"mine","secret":"guess"}')
        bus.publish(subjects.CANCEL, b'{"request_id":"mine","secret":""}')
        await bus.flush()
        await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
        assert dispatcher.statistics().in_flight == 1


async def test_the_cancel_of_an_earlier_sending_does_not_reach_a_later_one(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    """Subscriptions of one connection take turns: the cancel may be handled after the request sent behind it."""
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    headers = {h.REQUEST_ID: "mine", h.CANCEL_SECRET: "secret", h.RESEND: "2", h.STREAM: "1"}
    bus.publish(subjects.GENERATE, BODY, reply=bus.new_inbox(), headers=headers)
    await eventually(lambda: len(scorer.asked) == 1)
    bus.publish(subjects.CANCEL, encode(CancelRequest(request_id="mine", secret="secret", resend=1)))
    await bus.flush()
    await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
    assert dispatcher.statistics().in_flight == 1
    bus.publish(subjects.CANCEL, encode(CancelRequest(request_id="mine", secret="secret", resend=2)))
    await eventually(lambda: dispatcher.statistics().in_flight == 0)


async def test_the_deadline_ends_a_waiting_request(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    with pytest.raises(DeadlineExceeded):
        await ask(bus, b'{"model":"m","prompt":"hi","stream":true,"deadline_s":0.1}')


async def test_a_request_id_in_use_is_a_conflict(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    async with Call(bus, subjects.GENERATE, BODY, request_id="r1"):
        await eventually(lambda: len(scorer.asked) == 1)
        with pytest.raises(Conflict):
            await ask(bus, Sollol_Request_Id="r1")


async def test_a_plain_request_gets_exactly_one_reply(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    def serve_whole(node: ScriptedNode, attempt: str) -> None:
        node.accept(attempt)
        node.bus.publish(node.reply_to[attempt], b'{"response":"all"}')
        node.report(attempt, AttemptDone(attempt_id=attempt, figures=Figures()))

    ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", serve_whole)
    await actors_bus.flush()
    reply = await bus.request(subjects.GENERATE, b'{"model":"m","prompt":"hi"}')
    assert reply.data == b'{"response":"all"}'
    assert not node.execs[0].stream


async def test_a_bad_body_is_refused_at_once(dispatcher: Dispatcher, bus: Bus) -> None:
    with pytest.raises(BadRequest, match="invalid character"):
        await ask(bus, b"nonsense")


async def test_a_reply_subject_outside_the_inboxes_is_never_answered(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    heard: list[Msg] = []
    actors_bus.subscribe("sollol.v1.telemetry.n1", heard.append)
    await actors_bus.flush()
    bus.publish(subjects.GENERATE, b"nonsense", reply="sollol.v1.telemetry.n1")
    await eventually(lambda: dispatcher.statistics().rejected == 1)
    await bus.request(subjects.DISPATCHER_PROBE.of(dispatcher.instance))
    assert heard == []


async def test_what_cannot_be_read_is_ignored_with_a_line_in_the_log(
    dispatcher: Dispatcher, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    strange = [subjects.CANCEL, subjects.OFFICE_EVENT.of("s1"), subjects.NODE_EVENT.of("n1", "down")]
    for subject in strange:
        bus.publish(subject, b"nonsense")
    await eventually(lambda: sum("ignored a message on" in line for line in caplog.messages) == len(strange))
    assert not any("failed" in line for line in caplog.messages), "no handler broke over them"


async def test_an_operators_request_ends_with_the_connection_that_it_went_over(
    nats_server: EmbeddedServer, bus: Bus
) -> None:
    administration = Administration(bus, lambda coroutine, **_: asyncio.get_running_loop().create_task(coroutine))
    bus.subscribe(subjects.ADMIN_NODE.all, administration.on_request)
    pulls: list[Msg] = []
    bus.subscribe(subjects.NODE_CONTROL.of("n1"), pulls.append)
    asked = encode(AdminRequest(node_id="n1", model="m"))
    bus.publish(subjects.ADMIN_NODE.of("pull"), asked, reply=bus.new_inbox())
    await eventually(lambda: len(pulls) == 1)
    assert administration.in_flight == 1
    await nats_server.kill()
    await eventually(lambda: not bus.is_connected)
    await eventually(lambda: administration.in_flight == 0)
    administration.on_request(Msg(bus.nats, subject=subjects.ADMIN_NODE.of("load"), reply=bus.new_inbox(), data=asked))
    assert administration.in_flight == 0, "what cannot be sent is not waited for"


@pytest.mark.shutdown
async def test_a_waiting_try_of_a_job_goes_elsewhere_at_once_when_its_dispatcher_drains(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1"])
    ScriptedNode(actors_bus, "n1", lambda n, a: n.accept(a))
    await actors_bus.flush()
    of_job = {h.JOB: "mine"}
    async with Call(bus, subjects.GENERATE, BODY, request_id="running", headers=of_job) as running:
        await eventually(lambda: len(scorer.asked) == 1)
        scorer.holds_back = True
        async with (
            Call(bus, subjects.GENERATE, BODY, request_id="patient", headers=of_job) as patient,
            Call(bus, subjects.GENERATE, BODY, request_id="plain"),
        ):
            await eventually(lambda: {asked.request_id for asked in scorer.asked} >= {"patient", "plain"})
            assert next(a for a in scorer.asked if a.request_id == "patient").context.job_id == "mine"
            dispatcher.stop_intake()
            with pytest.raises(ActorStopped):
                await anext(aiter(patient))
            assert set(dispatcher.in_flight()) == {"running", "plain"}, "what runs goes on, others have no runner"
        running.cancel()


@pytest.mark.shutdown
async def test_what_cannot_finish_in_time_is_answered_at_shutdown(
    nats_server: EmbeddedServer, actors_bus: Bus, bus: Bus
) -> None:
    scorer = ScriptedScorer(actors_bus, [])
    scorer.holds_back = True
    await actors_bus.flush()
    replies: list[Msg] = []
    inbox = bus.new_inbox()
    bus.subscribe(inbox, replies.append)
    config = DispatcherConfig(drain_timeout_s=0.1)
    async with Dispatcher(config, control(nats_server)):
        bus.publish(subjects.GENERATE, BODY, reply=inbox)
        await eventually(lambda: len(scorer.asked) == 1)
    await eventually(lambda: len(replies) == 2)
    error = error_of(replies[0])
    assert error is not None
    assert error.code is ErrorCode.ACTOR_STOPPED
    assert replies[1].data == b""
    with pytest.raises(SollolError):
        await ask(bus)
