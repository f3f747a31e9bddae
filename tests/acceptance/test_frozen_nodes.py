"""A node that is stopped before, at and after its answer is moved, and woken later, adds no byte to it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import msgspec
import pytest

from sollol_agents.children import Child
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.results import AnswerStream
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas import subjects
from sollol_schemas.control import ControlCut
from sollol_schemas.decision import Decision
from sollol_schemas.events import Outcome

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL, "--decode-tps", "40")
WORDS = 160
WOKEN_AFTER = 20
"""So many words of the rest are there when the node is woken."""


class Inboxes:
    """Hears every message to any inbox of a caller, whoever listens there."""

    def __init__(self, client: Client) -> None:
        self.heard: list[tuple[str, str, bytes]] = []
        """Inbox, node, and what it said."""
        client.bus.subscribe("_INBOX.>", self._on_message)

    def _on_message(self, msg: Msg) -> None:
        if msg.reply.startswith("_INBOX_node."):
            self.heard.append((msg.subject, msg.reply.split(".")[1], msg.data))

    def speakers(self) -> dict[str, set[str]]:
        """Who spoke into each inbox."""
        told: dict[str, set[str]] = {}
        for inbox, node, _ in self.heard:
            told.setdefault(inbox, set()).add(node)
        return told


async def cut(client: Client, decision: Decision) -> None:
    """The scorer's word to the node; one that is frozen reads it when it wakes."""
    asked = ControlCut(attempt_id=decision.attempt_id, term=decision.term, reason="moved", cause="drain")
    client.bus.publish(subjects.NODE_CONTROL.of(decision.node_id), encode(asked), reply=client.bus.new_inbox())
    await client.bus.flush()


async def said_before_the_freeze(stream: AnswerStream, words: int) -> list[str]:
    said: list[str] = []
    async for chunk in stream:
        said.append(chunk.text)
        if len(said) == words:
            break
    return said


@pytest.mark.timeout(120)
@pytest.mark.parametrize("when", ["before", "at", "after"])
async def test_a_node_that_is_frozen_around_its_cut_and_woken_later_adds_no_byte(
    fleet: ProcessFleet, figure: Callable[[str], None], when: str
) -> None:
    await fleet.up()
    nodes: dict[str, Child] = {}
    for name in ("attic", "desk"):
        engine = await fleet.emulator(name, *FLAGS)
        nodes[name] = await fleet.node(name, engine.url)
    loop = asyncio.get_running_loop()
    async with fleet.client() as client, fleet.client() as listener:
        inboxes = Inboxes(listener)
        outcomes: list[Outcome] = []
        listener.bus.subscribe(
            subjects.OUTCOME_EVENT.all, lambda msg: outcomes.append(msgspec.json.decode(msg.data, type=Outcome))
        )
        await listener.bus.flush()
        async with client.generate_stream(MODEL, f"count down from {WORDS}") as stream:
            said = await said_before_the_freeze(stream, 20)
            decision = stream.decision
            assert decision is not None
            frozen = nodes[decision.node_id]
            if when == "after":
                await cut(client, decision)
                async for chunk in stream:
                    said.append(chunk.text)
                    if stream.call.resumed:
                        break
            frozen.signal(signal.SIGSTOP)
            stopped_at = loop.time()
            if when == "at":
                await cut(client, decision)
            noticed_s, rest = 0.0, 0
            async for chunk in stream:
                said.append(chunk.text)
                rest += bool(stream.call.resumed)
                noticed_s = noticed_s or (loop.time() - stopped_at if rest else 0.0)
                if rest == WOKEN_AFTER:
                    frozen.signal(signal.SIGCONT)
            nodes_said = [one.node_id for one in stream.call.decisions]
        other = next(name for name in nodes if name != decision.node_id)
        assert nodes_said == [decision.node_id, other]
        assert "".join(said).split() == [str(number) for number in range(WORDS - 1, -1, -1)]
        await eventually(
            lambda: any(one.decision.attempt_id == decision.attempt_id for one in outcomes),
            complaint="the woken node has told how its attempt ended",
            within_s=30.0,
        )
        await client.bus.flush()
        assert all(len(speakers) == 1 for speakers in inboxes.speakers().values())
    if when != "after":
        figure(f"frozen {when} the cut: the answer went on {noticed_s:.2f} s after its node was stopped")
