"""nats-servers from configuration files, as containers and machines run them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

from sollol_bus.parts import Part
from sollol_bus.server.config import find_binary
from sollol_bus.server.guard import guarded

_STOP_WITHIN_S = 20.0


class NatsServer(Part):
    """One nats-server that runs a configuration; it may end and start again, on the same files.

    Args:
        folder: Where its configuration, its log and its store lie.
        name: Its name among the servers.
        config: Text of the configuration; `$NATS_NAME` and `$NATS_STORE_DIR` are set for it.
        environ: What else is set for it.
    """

    def __init__(self, folder: Path, name: str, config: str, environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._folder = folder
        self._config = config
        self._environ = environ or {}
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<NatsServer {self.name}>"

    async def start(self) -> None:
        """Starts it; returns before it serves."""
        path = self._folder / f"{self.name}.conf"
        await asyncio.to_thread(path.write_text, self._config, encoding="utf-8")
        own = {"NATS_NAME": self.name, "NATS_STORE_DIR": str(self._folder / self.name)}
        environ = os.environ | own | dict(self._environ)
        binary = await asyncio.to_thread(find_binary)
        command = guarded([str(binary), "-a", "127.0.0.1", "-c", str(path)], parent_pid=os.getpid())
        with await asyncio.to_thread((self._folder / f"{self.name}.log").open, "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, env=environ, stdin=asyncio.subprocess.PIPE, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal; one that has ended gets none."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: by that signal), or None while it runs or before it starts."""
        return self._process.returncode if self._process is not None else None

    def last_words(self) -> str:
        """The last line of its log."""
        lines = (self._folder / f"{self.name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else ""

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.signal(signal.SIGKILL)

    async def wait(self) -> None:
        """Returns once it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def close(self) -> None:
        """Asks it to end and waits; kills it when that takes too long. Safe to call twice."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()


def routes_of(urls: Iterable[str], password: str) -> dict[str, str]:
    """What a deployed server of a cluster finds in its environment.

    Args:
        urls: Where its routes lead.
        password: What they show.
    """
    routes = ", ".join(f"'{url.replace('nats://', f'nats://route:{password}@')}'" for url in urls)
    return {"NATS_ROUTE_PASSWORD": password, "NATS_ROUTES": f"[{routes}]"}


async def deployed(folder: Path, name: str, listens: dict[str, int]) -> str:
    """A configuration that is deployed, on the loopback.

    Args:
        folder: Where such configurations lie.
        name: The file.
        listens: Ports in place of its own, by the line that names one, such as `port: 4222`.
    """
    text = await asyncio.to_thread((folder / name).read_text, encoding="utf-8")
    included = await asyncio.to_thread((folder / "nats.conf").read_text, encoding="utf-8")
    text = text.replace("include ./nats.conf", included)
    for line, port in listens.items():
        text = text.replace(line, f'listen: "127.0.0.1:{port}"')
    return text
