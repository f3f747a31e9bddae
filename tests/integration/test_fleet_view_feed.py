"""What dashboard and top believe of what comes over the bus."""

from __future__ import annotations

from sollol_agents.fleet_view.feed import Feed
from sollol_agents.fleet_view.view import FleetView
from sollol_agents.lab.testing.messages import outcome, telemetry
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects


async def test_a_node_is_heard_under_its_own_id_alone(bus: Bus) -> None:
    view = FleetView()
    Feed(bus, view, lambda: None).start()
    bus.publish(subjects.TELEMETRY.of("n2"), encode(telemetry(node_id="n1")))
    bus.publish(subjects.OUTCOME_EVENT.of("n2"), encode(outcome()))
    bus.publish(subjects.TELEMETRY.of("n3"), encode(telemetry(node_id="n3")))
    await eventually(lambda: view.nodes.detail("n3") is not None)
    assert [view.nodes.detail(node_id) is not None for node_id in ("n1", "n2", "n3")] == [False, False, True]
