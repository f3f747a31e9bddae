"""What operators want of nodes: how requests add up, and what a node is told."""

from __future__ import annotations

from sollol_agents.dispatcher.intents import wanted
from sollol_agents.lab.testing.messages import telemetry
from sollol_agents.scorer.office.intents import untold
from sollol_schemas.control import ControlDrain, ControlSet
from sollol_schemas.prices import NodePrice
from sollol_schemas.steering import Intent


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
