"""The dispatcher on a real server, between a scripted scorer and scripted nodes."""

from __future__ import annotations

import asyncio

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.administration import Administration
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.testing.scripted import ScriptedNode, ScriptedScorer, ask, serve
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BadRequest, ConfigError
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import AdminRequest
from sollol_schemas.execution import AttemptDone, Figures


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


async def test_what_is_read_only_once_the_connection_broke_is_kept_for_those_alone_who_do_not_send_it_again(
    nats_server: EmbeddedServer, dispatcher: Dispatcher, bus: Bus
) -> None:
    await nats_server.kill()
    await eventually(lambda: not dispatcher.bus.is_connected)
    take = dispatcher._requests.subjects[subjects.GENERATE]
    body = b'{"model":"m","prompt":"hi"}'
    for name, more in (("plain", {}), ("watched", {h.CONTROL_INBOX: "_INBOX.control"})):
        take(Msg(bus.nats, reply="_INBOX.answer", data=body, headers={h.REQUEST_ID: name, **more}))
    assert list(dispatcher._requests.in_flight()) == ["plain"]
    await nats_server.start()
    await eventually(lambda: dispatcher.bus.is_connected)


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
