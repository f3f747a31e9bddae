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

log = logging.getLogger(__name__)

_STARTED_WITHIN_S = 30.0
_POLL_S = 0.01
_CLOSE_WITHIN_S = 1


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the program: the actor drains on them."""
        yield


class WebServer:
    """Serves an ASGI application.

    Args:
        app: The application.
        config: Where to listen.
    """

    def __init__(self, app: ASGIApp, config: DashboardConfig) -> None:
        self._config = config
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

    async def serve(self, listening: socket.socket) -> None:
        """Serves until it is stopped."""
        await self._server.serve(sockets=[listening])

    async def started(self) -> None:
        """Returns when it serves.

        Raises:
            ConfigError: It does not start.
        """
        async with asyncio.timeout(_STARTED_WITHIN_S):
            while not self._server.started:
                if self._server.should_exit:
                    raise ConfigError("the dashboard's web server could not start; the log says why")
                await asyncio.sleep(_POLL_S)

    def stop(self) -> None:
        """Asks it to end; open pages are closed."""
        self._server.should_exit = True

    def bound(self) -> socket.socket:
        """The socket to serve on.

        Raises:
            ConfigError: The address cannot be had.
        """
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
