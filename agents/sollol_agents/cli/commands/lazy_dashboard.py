"""The dashboard of `sollol up`: its port listens from the start, its process starts when somebody opens the page.

The process takes the listening socket over, so that the first page waits for it and none is refused. When it ends,
the next connection starts it anew.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from sollol_agents.children import Child
from sollol_agents.cli.settings.sections import section
from sollol_agents.dashboard.config import DashboardConfig
from sollol_agents.listening import listen, url_of
from sollol_bus.errors import SollolError
from sollol_bus.parts import Part
from sollol_bus.transport.connection import BusConfig

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0
LISTEN_FD: Final = "SOLLOL_LISTEN_FD"
"""Tells the dashboard's process which descriptor is the socket that listens already."""


class LazyDashboard(Part):
    """A port that becomes a dashboard when it is needed.

    Args:
        config: Settings of the dashboard.
        port: Where it listens, in place of the settings' port.
        log_file: Where its process writes its log.
        is_open: Whether whoever reaches its address may look, as `--open` says.
    """

    def __init__(self, config: DashboardConfig, port: int, log_file: Path, *, is_open: bool = False) -> None:
        self._flags = ("--open",) if is_open else ()
        self._config = msgspec.structs.replace(config, port=port)
        self._log_file = log_file
        self._bus = BusConfig()
        self._socket: socket.socket | None = None
        self._running: asyncio.Task[None] | None = None
        self.url = ""
        """Base address, once it listens."""

    def listen(self, bus: BusConfig) -> bool:
        """Takes the port; False when the extra is not installed or the port cannot be had, which ends nothing else."""
        if importlib.util.find_spec("nicegui") is None:
            log.info("no dashboard: pip install 'sollol-bus[dashboard]'", extra={"action": "dashboard_missing"})
            return False
        config = self._config
        try:
            self._socket = listen(config.host, config.port)
        except OSError as error:
            log.warning(
                "no dashboard on %s port %s: %s; choose another with --dashboard-port",
                config.host,
                config.port,
                error.strerror or error,
                extra={"action": "dashboard_port_taken"},
            )
            return False
        self._bus = bus
        self.url = url_of(self._socket)
        return True

    async def start(self) -> None:
        """Starts the dashboard when somebody comes."""
        self._wait_for_somebody()

    async def close(self) -> None:
        """Ends the process and gives the port back; stopping twice does nothing."""
        made, self._socket = self._socket, None
        if made is None:
            return
        asyncio.get_running_loop().remove_reader(made.fileno())
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        made.close()

    def _wait_for_somebody(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._on_somebody)

    def _on_somebody(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        # This task belongs to this object: `stop` cancels and awaits it.
        self._running = loop.create_task(self._run(self._socket.fileno()), name="dashboard")

    async def _run(self, fd: int) -> None:
        """Runs the process until it ends, then waits for the next visitor."""
        settings = section("nats", BusConfig).environ_of(self._bus)
        settings |= section("dashboard", DashboardConfig).environ_of(self._config) | {LISTEN_FD: str(fd)}
        child = Child(
            "the dashboard",
            *("sollol_agents.cli", "dashboard", *self._flags),
            log_file=self._log_file,
            environ={**os.environ, **settings},
            pass_fds=(fd,),
        )
        try:
            async with child:
                code = await child.wait()
            log.warning("the dashboard ended with code %s", code, extra={"action": "dashboard_ended"})
        except SollolError as error:
            log.warning("the dashboard does not start: %s", error, extra={"action": "dashboard_failed"})
        await asyncio.sleep(_RETRY_S)
        self._wait_for_somebody()
