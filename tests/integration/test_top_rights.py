"""An observer's credentials suffice to look at the fleet in a terminal."""

from __future__ import annotations

from pathlib import Path

from sollol_agents.cli.commands.top import followed
from sollol_agents.fleet_view.view import FleetView
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.messages import telemetry
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.recorder.actor import Recorder
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.subjects import Role


async def test_an_observer_sees_nodes_and_the_scorer_though_not_its_settings(tmp_path: Path) -> None:
    members = Members(tmp_path, {"n1": Role.NODE, "control": Role.CONTROL, "observer": Role.OBSERVER})
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    async with EmbeddedServer(config) as server:
        control = members.bus_config("control", server.url)
        recorder = Recorder(RecorderConfig(database=str(tmp_path / "r.sqlite3")), control)
        async with recorder, Scorer(ScorerConfig(), control) as scorer:
            await eventually(lambda: scorer.is_leader)
            node = await Bus.connect(members.bus_config("n1", server.url))
            view = FleetView()
            async with Client(members.bus_config("observer", server.url)) as client, followed(client, view):
                await client.bus.flush()
                for seq in range(1, 3):
                    node.publish(subjects.TELEMETRY.of("n1"), encode(telemetry("n1", seq=seq)))
                await eventually(lambda: view.scorer == scorer.instance and "n1" in rows(view))
                await eventually(lambda: client.bus.close_reason != "")  # the question about the strategy was refused
                assert view.scorer == scorer.instance
            await node.close()


def rows(view: FleetView) -> set[str]:
    view.tick(0.0, 0.0)
    return {row.id for row in view.nodes.changes(0)[0]}
