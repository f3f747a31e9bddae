"""What operators want of nodes: how requests add up, and what a node is told."""

from __future__ import annotations

import random
import time
from collections.abc import Coroutine
from typing import Any, cast

from sollol_agents.dispatcher.intents import wanted
from sollol_agents.lab.testing.messages import telemetry
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.office.intents import OperatorsIntents, untold
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode
from sollol_schemas import subjects
from sollol_schemas.control import ControlDrain, ControlSet
from sollol_schemas.prices import NodePrice
from sollol_schemas.steering import Intent
from sollol_schemas.telemetry import NodeState


def test_requests_add_up() -> None:
    intent = wanted(Intent(), ControlDrain())
    intent = wanted(intent, ControlSet(weight=2.0, labels={"a": "1"}))
    intent = wanted(intent, ControlSet(labels={"b": ""}))
    assert intent == Intent(is_draining=True, weight=2.0, labels={"a": "1", "b": ""})
    assert not wanted(intent, ControlDrain(is_draining=False)).is_draining


def test_a_node_is_told_only_what_it_does_not_show() -> None:
    told = telemetry("n1", weight=2.0, labels={"a": "1"})
    assert untold(Intent(weight=2.0, labels={"a": "1", "gone": ""}), told) == []
    assert untold(Intent(), told) == []
    assert untold(Intent(is_draining=True, weight=3.0, labels={"a": "2"}), told) == [
        ControlDrain(is_draining=True),
        ControlSet(weight=3.0, labels={"a": "2"}),
    ]


def test_a_price_is_kept_as_a_whole_and_told_until_the_node_shows_it() -> None:
    eur, none = NodePrice(per_hour=0.8, currency="EUR"), NodePrice()
    intent = wanted(wanted(Intent(), ControlSet(price=eur)), ControlSet(weight=2.0))
    assert intent == Intent(weight=2.0, price=eur)
    assert untold(intent, telemetry("n1", weight=2.0)) == [ControlSet(price=eur)]
    assert untold(intent, telemetry("n1", weight=2.0, price=eur)) == []
    gone = wanted(intent, ControlSet(price=none))
    assert gone.price == none, "taken away, whatever the node is configured with"
    assert untold(gone, telemetry("n1", weight=2.0, price=eur)) == [ControlSet(price=none)]


def unfollowed(coroutine: Coroutine[Any, Any, Any], *, name: str) -> Any:
    coroutine.close()


class Wire:
    """A bus that notes what is said to nodes."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ControlDrain]] = []

    def publish(self, subject: str, payload: bytes) -> None:
        self.said.append((subject, decode(payload, ControlDrain)))


def test_a_node_that_was_drained_by_an_intent_that_was_over_is_let_in_again() -> None:
    wire, core = Wire(), SchedulerCore(ScorerConfig(), random.Random(1), time.monotonic())
    intents = OperatorsIntents(cast("Bus", wire), core, unfollowed, lambda _: None)
    core.on_telemetry(telemetry("n1"), time.monotonic())
    core.fleet.adopt_intents({"n1": Intent(is_draining=True)})
    intents.look()
    intents.adopt({"n1": Intent(is_draining=True)})
    assert [said.is_draining for _, said in wire.said] == [True]
    intents.look()
    intents.adopt({})
    intents.adopt({})
    assert [said.is_draining for _, said in wire.said] == [True, True, False]
    assert {subject for subject, _ in wire.said} == {subjects.NODE_CONTROL.of("n1")}


def test_a_node_that_operators_let_in_again_is_in_service_at_once() -> None:
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0), random.Random(1), time.monotonic())
    intents = OperatorsIntents(cast("Bus", Wire()), core, unfollowed, lambda _: None)
    core.on_telemetry(telemetry("n1"), time.monotonic())
    states = []
    for kept in ({"n1": Intent(is_draining=True)}, {}):
        intents.adopt(kept)
        states.append(core.fleet.nodes["n1"].state)
    assert states == [NodeState.DRAINING, NodeState.UP]
