"""Answers that go on, between a caller, a dispatcher and scripted nodes."""

from __future__ import annotations

import json

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.lab.testing.scripted import BODY, ScriptedNode, ScriptedScorer, ask, serve
from sollol_bus.errors import NoEligibleNode
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.many import request_many
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.continuation import Continuation, ContinueFrom, packed, unpacked
from sollol_schemas.errors import ErrorCode

SAID = ContinueFrom(text="one two", pieces=2, fingerprint="ollama:1", excluded=("n1",))


async def test_what_was_said_goes_to_a_node_behind_the_body(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    scorer = ScriptedScorer(actors_bus, ["n1", "n2"])
    nodes = [ScriptedNode(actors_bus, name, serve) for name in ("n1", "n2")]
    await actors_bus.flush()
    payload, headers = packed(BODY, SAID)
    sent = {**headers, h.REQUEST_ID: "r", h.RESEND: "1", h.RESUME: "1"}
    assert [m.data async for m in request_many(bus, subjects.GENERATE, payload, headers=sent)] == [b'{"response":"a"}']
    (exec_,) = nodes[1].execs
    assert not nodes[0].execs, "the node that broke off is kept out"
    assert (exec_.attempt_id, exec_.is_resumable, exec_.body_bytes) == ("r-11", True, len(BODY))
    assert unpacked(nodes[1].payloads["r-11"], {h.CONTINUE: str(exec_.body_bytes)}) == (BODY, SAID)
    (asked,) = scorer.asked
    assert (asked.is_resumable, asked.excluded) == (True, ("n1",))
    assert asked.continuation == Continuation(fingerprint="ollama:1", said_tokens=2)


async def test_a_plain_caller_says_it_in_the_body(dispatcher: Dispatcher, actors_bus: Bus, bus: Bus) -> None:
    ScriptedScorer(actors_bus, ["n1", "n2"])
    node = ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    body = json.loads(BODY) | {"continue_from": {"text": "one two", "excluded": ["n1"]}}
    await ask(bus, json.dumps(body).encode())
    (exec_,) = node.execs
    assert not exec_.is_resumable
    payload = node.payloads[exec_.attempt_id]
    plain, said = unpacked(payload, {h.CONTINUE: str(exec_.body_bytes)})
    assert json.loads(plain) == json.loads(BODY)
    assert said == ContinueFrom(text="one two", excluded=("n1",))


async def test_of_what_nothing_was_said_the_node_gets_a_body_like_any_other(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1", "n2"])
    node = ScriptedNode(actors_bus, "n2", serve)
    await actors_bus.flush()
    payload, headers = packed(BODY, ContinueFrom(excluded=("n1",)))
    assert [m.data async for m in request_many(bus, subjects.GENERATE, payload, headers=headers)]
    (exec_,) = node.execs
    assert exec_.body_bytes is None
    assert node.payloads[exec_.attempt_id] == BODY


async def test_nobody_left_to_go_on_is_said_as_of_any_request(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    ScriptedScorer(actors_bus, ["n1"])
    await actors_bus.flush()
    payload, headers = packed(BODY, SAID)
    with pytest.raises(NoEligibleNode):
        [m.data async for m in request_many(bus, subjects.GENERATE, payload, headers=headers)]


async def test_an_attempt_that_is_moved_before_it_spoke_is_tried_again_free_of_charge(
    dispatcher: Dispatcher, actors_bus: Bus, bus: Bus
) -> None:
    def moved_four_times(node: ScriptedNode, attempt: str) -> None:
        if len(node.execs) <= 4:
            node.accept(attempt)
            node.fail(attempt, ErrorCode.MOVED)
        else:
            serve(node, attempt)

    scorer = ScriptedScorer(actors_bus, ["n1"])
    node = ScriptedNode(actors_bus, "n1", moved_four_times)
    await actors_bus.flush()
    assert await ask(bus, Sollol_Resume="1") == [b'{"response":"a"}']
    assert len(node.execs) == 5
    assert scorer.asked[-1].busy[-1] == "n1"
    assert scorer.asked[-1].continuation == Continuation(resumed=0, cuts=4)
