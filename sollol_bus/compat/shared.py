"""What `SOLLOL` and `SOLLOLIntegration` have in common: the nodes, seen by plain functions and by coroutines."""

from __future__ import annotations

from collections.abc import Mapping

from sollol_bus.compat.config import SOLLOLConfig
from sollol_bus.compat.fleet import Fleet
from sollol_bus.compat.house import House, is_on_a_loop
from sollol_bus.compat.reliability import NodeReliabilityTracker
from sollol_bus.compat.resources import cluster_of, node_rows
from sollol_bus.compat.results import Figured, Result, Rows
from sollol_schemas.queries import NodesReply


class Shared:
    """A fleet of this program's own, or one that it is a client of.

    Args:
        config: Settings, as an object or as a mapping.
        has_gateway: Whether a fleet of its own serves HTTP too.
        settings: Further settings by name.
    """

    def __init__(
        self, config: SOLLOLConfig | Mapping[str, object] | None, settings: Mapping[str, object], *, has_gateway: bool
    ) -> None:
        self.config = SOLLOLConfig.of(config, settings)
        self._house = House(lambda: self.config, has_gateway=has_gateway)

    @property
    def house(self) -> House:
        """Where its fleet is, for the other parts of this layer."""
        return self._house

    # -- looking ------------------------------------------------------------------------------------------

    def get_node_resources(self) -> Rows:
        """One row per node.

        `id, url, healthy, type` (`gpu` or `cpu`), `vram_available_gb`, `vram_available_mb`, `vram_total_mb`,
        `models_loaded`, `models_loaded_count`, and more. On a running loop the rows are a second old at most; awaited,
        they are fresh.
        """
        return Rows(node_rows(self._nodes()), self._fresh_rows)

    def get_cluster_stats(self) -> Figured:
        """`total_nodes, healthy_nodes, gpu_nodes, cpu_nodes`, and what runs and waits; as old as the rows are."""
        return Figured(cluster_of(self._nodes()), self._fresh_cluster)

    @property
    def hosts(self) -> list[str]:
        """The addresses of the engines."""
        return self._house.fleet.hosts() if self._house.is_open else list(self.config.hosts)

    @property
    def health_status(self) -> dict[str, bool]:
        """Whether each of `hosts` is well."""
        return {row["url"] or row["host"]: row["healthy"] for row in node_rows(self._house.fleet.nodes)}

    @property
    def nodes(self) -> dict[str, Result]:
        """The nodes by their id."""
        return {row["id"]: row for row in node_rows(self._house.fleet.nodes)}

    @property
    def request_counts(self) -> dict[str, int]:
        """Requests of this program by node."""
        return {node_id: seen["total_requests"] for node_id, seen in self.reliability_tracker.node_stats.items()}

    @property
    def reliability_tracker(self) -> NodeReliabilityTracker:
        """What this program saw of each node."""
        return self._house.fleet.reliability

    @property
    def gateway_url(self) -> str:
        """Where HTTP clients connect; empty where this program serves none."""
        return self._of_own("http_url")

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard is; empty where this program serves none."""
        return self._of_own("dashboard_url")

    def _of_own(self, name: str) -> str:
        own = self._house.fleet.own if self._house.is_open else None
        return str(getattr(own, name)) if own is not None else ""

    def _nodes(self) -> NodesReply:
        fleet = self._house.fleet
        return fleet.nodes if is_on_a_loop() else self._house.run(Fleet.look)

    async def _fresh_rows(self) -> list[Result]:
        return node_rows(await self._house.ask(Fleet.look))

    async def _fresh_cluster(self) -> Result:
        return cluster_of(await self._house.ask(Fleet.look))

    def __repr__(self) -> str:
        """Whether it runs, on one line."""
        state = "running" if self._house.is_open else "not running"
        return f"{type(self).__name__}({state}, hosts={self.hosts!r})"
