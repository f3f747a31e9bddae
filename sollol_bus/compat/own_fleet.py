"""A whole fleet inside this program, with a node before each engine that was named or that runs on this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sollol_agents.cli.commands.engine_places import usual_urls
from sollol_agents.cli.commands.lazy_dashboard import LazyDashboard
from sollol_agents.cli.open_doors import is_loopback
from sollol_agents.dashboard.config import DashboardConfig
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.metering.config import MetricsConfig
from sollol_agents.node.config import NodeConfig, engine_url
from sollol_agents.node.engines.probing import probe
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.stack import LocalStack
from sollol_bus.compat.config import SOLLOLConfig
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.parts import Part
from sollol_bus.sdk.client import Client

log = logging.getLogger(__name__)

_OLLAMA_PORT: Final = 11434
_PROBE_S: Final = 2.0
_ID_MAX: Final = 48


def node_id_for(url: str) -> str:
    """The id of the node before an engine: its host, and its port where that is not Ollama's."""
    place = urlsplit(engine_url(url))
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", place.hostname or "").strip("-")[:_ID_MAX] or "engine"
    port = place.port or _OLLAMA_PORT
    return host if port == _OLLAMA_PORT else f"{host}-{port}"


def node_configs(hosts: Iterable[str], *, reads_gpus: bool = True) -> list[NodeConfig]:
    """Settings of one node per engine, the first of them ranked best; an engine that is named twice has one.

    Raises:
        ConfigError: A host is no address.
    """
    by_id: dict[str, NodeConfig] = {}
    for rank, host in enumerate(hosts):
        url = engine_url(host)
        try:
            place = urlsplit(url)
            is_address = bool(place.hostname) and (place.port is None or place.port > 0)
        except ValueError:
            is_address = False
        if not is_address:
            raise ConfigError(f"hosts: {host!r} is no address; write 'gpu-node-1:11434' or 'http://10.0.0.2:11434'")
        if place.port is None:
            url = f"{url}:{_OLLAMA_PORT}" if place.scheme == "http" else url
        node_id = node_id_for(url)
        node = NodeConfig(node_id=node_id, url=url, host_priority=rank, machine="auto" if reads_gpus else "remote")
        by_id.setdefault(node_id, node)
    return list(by_id.values())


class OwnFleet(Part):
    """The fleet, for as long as it is open.

    Args:
        config: What to start.
        has_gateway: Whether to serve HTTP too.
    """

    def __init__(self, config: SOLLOLConfig, *, has_gateway: bool) -> None:
        self._config = config
        self._dashboard: LazyDashboard | None = None
        self._dashboard_log = Path()
        self._adding: list[asyncio.Task[object]] = []
        if has_gateway and not config.auth_enabled and not is_loopback(config.gateway_host):
            raise ConfigError(
                f"gateway_host={config.gateway_host!r} lets whoever reaches this machine in: set auth_enabled=True "
                "and make keys with `sollol keys create`, or leave it at 127.0.0.1"
            )
        gateway = GatewayConfig(host=config.gateway_host, port=config.gateway_port, require_key=config.auth_enabled)
        self.stack = LocalStack(
            store_dir=config.store_dir or None,
            scorer=ScorerConfig(strategy=config.strategy),
            gateway=gateway if has_gateway else None,
            metrics=MetricsConfig(port=config.metrics_port if config.metrics_enabled else None),
        )

    @property
    def http_url(self) -> str:
        """Where the gateway listens; empty without one."""
        return self.stack.http_url

    @property
    def metrics_url(self) -> str:
        """Where the metrics are; empty when they are off."""
        return self.stack.metrics_url

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard listens; empty without one."""
        return self._dashboard.url if self._dashboard is not None else ""

    def client(self) -> Client:
        """A client of the fleet, to be started."""
        return self.stack.client()

    async def start(self) -> None:
        """Returns when everything is in office and the engines that answer have their nodes.

        Raises:
            SollolError: Something cannot start; what had started is stopped.
        """
        configs = node_configs(self._config.hosts, reads_gpus=self._config.enable_vram_monitoring)
        await self.stack.start()
        try:
            if not configs and self._config.discovery_enabled:
                configs = node_configs(await self._found_here(), reads_gpus=self._config.enable_vram_monitoring)
            await self._add_nodes(configs)
            await self._open_dashboard()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stops everything, the nodes' work in flight first."""
        for task in self._adding:
            task.cancel()
        await asyncio.gather(*self._adding, return_exceptions=True)
        if self._dashboard is not None:
            await self._dashboard.close()
            if not self._config.store_dir:
                await asyncio.to_thread(self._dashboard_log.unlink, missing_ok=True)
        await self.stack.close()

    async def _found_here(self) -> list[str]:
        """Where an engine answers on this machine."""
        urls = [url for url in usual_urls(os.environ) if url != self.stack.http_url]
        found = await asyncio.gather(*(probe(NodeConfig(url=url), timeout_s=_PROBE_S) for url in urls))
        # The documents' programs look for this word in `node_url`.
        engines = [
            url.replace("//127.0.0.1:", "//localhost:")
            for url, there in zip(urls, found, strict=True)
            if there.kind is not None
        ]
        if not engines:
            log.warning(
                "no engine runs on this machine, and no hosts are named: hosts=['gpu-node-1:11434']",
                extra={"action": "no_engines"},
            )
        return engines

    async def _add_nodes(self, configs: list[NodeConfig]) -> None:
        if not configs:
            return
        # These tasks belong to this object: `close` cancels and awaits them.
        loop = asyncio.get_running_loop()
        self._adding = [loop.create_task(self._add_node(config), name=f"adds {config.node_id}") for config in configs]
        _, late = await asyncio.wait(self._adding, timeout=self._config.discovery_timeout)
        for task in late:
            log.warning(
                "%s: not done within %g s",
                task.get_name(),
                self._config.discovery_timeout,
                extra={"action": "host_late"},
            )

    async def _add_node(self, config: NodeConfig) -> None:
        try:
            await self.stack.add_node(config)
        except SollolError as error:
            log.warning("no node before %s: %s", config.url, error, extra={"action": "host_skipped"})

    async def _open_dashboard(self) -> None:
        if not self._config.enable_dashboard:
            return
        folder = Path(self._config.store_dir or tempfile.gettempdir())
        self._dashboard_log = folder / f"sollol-dashboard-{os.getpid()}-{self._config.dashboard_port}.log"
        page = LazyDashboard(DashboardConfig(), self._config.dashboard_port, self._dashboard_log)
        if page.listen(self.stack.bus_config):
            await page.start()
            self._dashboard = page
        else:
            log.warning(
                "no dashboard at port %d: it wants pip install 'sollol-bus[dashboard]' and the port",
                self._config.dashboard_port,
                extra={"action": "no_dashboard"},
            )
