"""The HTTP server of the dashboard, inside the actor's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from sollol_agents.dashboard.config import DashboardConfig
from sollol_agents.dashboard.listening import listen, url_of
from sollol_bus.errors import ConfigError
from sollol_bus.parts import Part, Spawn

log = logging.getLogger(__name__)

_STARTED_WITHIN_S = 30.0
_POLL_S = 0.01
_CLOSE_WITHIN_S = 1
_CLOSED_WITHIN_S = 5.0


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the program: the actor drains on them."""
        yield


class WebServer(Part):
    """Serves an ASGI application.

    Args:
        app: The application.
        config: Where to listen.
        spawn: Runs the server as a task of the dashboard.
    """

    def __init__(self, app: ASGIApp, config: DashboardConfig, spawn: Spawn) -> None:
        self._config = config
        self._spawn = spawn
        self._serving: asyncio.Task[None] | None = None
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=_CLOSE_WITHIN_S,
            )
        )
        self.url = ""
        """Base address, once it listens."""

    async def start(self) -> None:
        """Returns when it serves.

        Raises:
            ConfigError: The address cannot be had, or it does not start.
        """
        serving = self._server.serve(sockets=[self._bound()])
        self._serving = self._spawn(serving, name="web server")
        async with asyncio.timeout(_STARTED_WITHIN_S):
            while not self._server.started:
                if self._server.should_exit:
                    raise ConfigError("the dashboard's web server could not start; the log says why")
                await asyncio.sleep(_POLL_S)

    async def close(self) -> None:
        """Closes every page."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait((self._serving,), timeout=_CLOSED_WITHIN_S)

    def _bound(self) -> socket.socket:
        config = self._config
        try:
            made = socket.socket(fileno=config.listen_fd) if config.listen_fd >= 0 else listen(config.host, config.port)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.host} port {config.port}: {error.strerror or error}. "
                "Choose another with --port (`sollol up`: --dashboard-port); 0 picks a free one."
            ) from error
        made.setblocking(False)
        self.url = url_of(made)
        return made
