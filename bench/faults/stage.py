"""The systems that faults are done to: one on three servers, one on a hub and a leaf, one whose clocks can jump."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from bench.faults.load import MODEL
from sollol_agents.children import Child
from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.processes import Emulator, ProcessFleet
from sollol_agents.lab.testing.servers import NatsServer, deployed, routes_of
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.jetstream.api import api
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas import stores
from sollol_schemas.telemetry import NodeState

DEPLOY = Path(__file__).parents[2] / "deploy"
FAKE_CLOCKS = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
TPS = "20"
SLOTS = "40"
_START_WITHIN_S = 60.0
_HEALTHY_WITHIN_S = 45.0
_ENGINE = ("--preset", "steady", "--decode-tps", TPS, "--model", f"{MODEL}=1", "--preload", MODEL, "--parallel", SLOTS)


class Actor:
    """One `sollol` command that dies and comes back."""

    def __init__(self, role: str, argv: tuple[str, ...], environ: dict[str, str]) -> None:
        self.role = role
        self.argv = argv
        self.environ = environ
        self.child: Child | None = None
        self.starts = 0


class Stage:
    """Servers, the links between them, actors and engines, each by its name.

    Attributes:
        places: A gateway's address and the servers' addresses, by site; one unnamed place where there are no sites.
    """

    def __init__(self, fleet: ProcessFleet) -> None:
        self.servers: dict[str, NatsServer] = {}
        self.links: dict[tuple[str, str], Link] = {}
        """The line over which one server reaches another."""
        self.actors: dict[str, Actor] = {}
        self.engines: list[Emulator] = []
        self.places: dict[str, tuple[str, str]] = {}
        self.clocks: dict[str, Path] = {}
        """The file that says how wrong an actor's clock is."""
        self._fleet = fleet

    @property
    def nats_url(self) -> str:
        """The servers where everything can be asked."""
        return next(iter(self.places.values()))[1]

    def client(self) -> Client:
        """A client of ours at the first place."""
        return Client(BusConfig(url=self.nats_url, name="bench"))

    async def add(self, name: str, nats_url: str, *argv: str, has_clock: bool = False, **environ: str) -> Child:
        """Starts an actor; its role is its name up to the first hyphen."""
        role = name.partition("-")[0]
        if has_clock:
            file = self.clocks[name] = self._fleet.folder / f"{name}.clock"
            await asyncio.to_thread(file.write_text, "+0s\n")
            environ |= {
                "LD_PRELOAD": str(FAKE_CLOCKS[0]),
                "FAKETIME_TIMESTAMP_FILE": str(file),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        self.actors[name] = Actor(role, ("--nats", nats_url, *argv), environ)
        return await self.revive(name)

    async def revive(self, name: str) -> Child:
        """Starts an actor, again and again until it stays, as a service manager does."""
        actor = self.actors[name]
        said: list[str] = []

        async def is_started() -> bool:
            actor.starts += 1
            start_name = f"{name}-{actor.starts}"
            try:
                actor.child = await self._fleet.sollol(actor.role, *actor.argv, name=start_name, **actor.environ)
            except ConfigError as error:  # the servers are choosing their leaders
                said[:] = [str(error)]
                return False
            return True

        def complaint() -> str:
            ended = [one for one in self.servers.values() if one.exit_code is not None]
            of_servers = [f"{one.name} ended with {one.exit_code}: {one.last_words()}" for one in ended]
            return "; ".join([f"{name}, started {actor.starts} times", *said, *of_servers])

        await eventually(is_started, within_s=_START_WITHIN_S, complaint=complaint)
        assert actor.child is not None
        return actor.child

    def child(self, name: str) -> Child:
        """The process of an actor."""
        child = self.actors[name].child
        assert child is not None
        return child

    async def node(self, node_id: str, nats_url: str, *argv: str, has_clock: bool = False) -> None:
        """A node with an engine of its own."""
        engine = await self._fleet.emulator(node_id, *_ENGINE, module="bench.faults.engine")
        self.engines.append(engine)
        where = ("--id", node_id, "--engine", "ollama", "--url", engine.url, "--slots", SLOTS)
        await self.add(f"node-{node_id}", nats_url, *where, *argv, has_clock=has_clock)

    async def gateway(self, name: str, nats_url: str, *, place: str = "") -> None:
        """A gateway on a port that stays its own; callers of that place use it."""
        port = free_port()
        await self.add(name, nats_url, "--port", str(port), "--host", "127.0.0.1")
        self.places[place] = (f"http://127.0.0.1:{port}", nats_url)

    async def finished(self, case: str) -> dict[str, int]:
        """How often the engines answered each prompt of a case to its end."""
        found: dict[str, int] = {}
        for engine in self.engines:
            for prompt, count in (await engine.state())["finished"].items():
                if prompt.startswith((f"{case} ", f"{case}-")):
                    found[prompt] = found.get(prompt, 0) + count
        return found

    async def scorer_in_office(self) -> str:
        """The name of the scorer that holds office."""
        async with self.client() as client:
            instance = (await client.nodes()).scorer
        return next(
            n for n, a in self.actors.items() if a.child and a.child.served.get("scorer", "").endswith(instance)
        )

    async def leader(self) -> str:
        """The name of the server that leads the stream of jobs."""
        if len(self.servers) == 1 or len(self.places) > 1:
            return next(iter(self.servers))
        async with self.client() as client:
            info = msgspec.json.decode(await api(client.bus, f"STREAM.INFO.{stores.JOBS_STREAM}"))
        return str(info["cluster"]["leader"])

    async def healthy(self) -> bool:
        """Whether every node is up again and answers come, within a while."""
        nodes = {name.removeprefix("node-") for name in self.actors if name.startswith("node-")}

        async def is_well() -> bool:
            try:
                views = (await client.nodes()).nodes
                await asyncio.wait_for(client.generate(MODEL, "count 1"), 5)
            except (SollolError, TimeoutError):
                return False
            return nodes <= {view.node_id for view in views if view.state is NodeState.UP}

        async with self.client() as client:
            with contextlib.suppress(AssertionError):
                await eventually(is_well, within_s=_HEALTHY_WITHIN_S)
                return True
        return False


@asynccontextmanager
async def three_servers(folder: Path) -> AsyncIterator[Stage]:
    """Two of each control actor, three nodes and a gateway on a cluster of three servers."""
    async with AsyncExitStack() as floor:
        fleet = await floor.enter_async_context(ProcessFleet(folder))
        stage = Stage(fleet)
        names = ("nats-1", "nats-2", "nats-3")
        clients, routes = ({name: free_port() for name in names} for _ in range(2))
        for one, other in itertools.permutations(names, 2):
            stage.links[one, other] = await floor.enter_async_context(Link(f"nats://127.0.0.1:{routes[other]}"))
        for name in names:
            listens = {"port: 4222": clients[name], "port: 6222": routes[name]}
            own = await deployed(DEPLOY, "nats-cluster.conf", listens)
            ways = [
                stage.links[name, other].url if other != name else f"nats://127.0.0.1:{routes[name]}" for other in names
            ]
            # what a server tells others of its routes must lead nowhere, or they would go round the lines
            own = own.replace("name: sollol\n", 'name: sollol\n  cluster_advertise: "127.0.0.1:1"\n', 1)
            server = NatsServer(folder, name, own, routes_of(ways, "of-the-bench"))
            stage.servers[name] = await floor.enter_async_context(server)
        url = ",".join(f"nats://127.0.0.1:{port}" for port in clients.values())
        control = _control(stage, url, folder, SOLLOL_NATS_STREAM_REPLICAS="3")
        nodes = [stage.node(node_id, url) for node_id in ("attic", "cellar", "desk")]
        await asyncio.gather(*control, stage.gateway("gateway-1", url), *nodes)
        yield stage


@asynccontextmanager
async def hub_and_leaf(folder: Path) -> AsyncIterator[Stage]:
    """Two sites: what is kept lies at the hub, and the leaf's server has no JetStream; each has its callers."""
    async with AsyncExitStack() as floor:
        fleet = await floor.enter_async_context(ProcessFleet(folder))
        stage = Stage(fleet)
        hub, leaf, door = free_port(), free_port(), free_port()
        link = stage.links["leaf", "hub"] = await floor.enter_async_context(Link(f"nats://127.0.0.1:{door}"))
        listens = {"port: 4222": hub, "port: 7422": door}
        at_hub = await deployed(DEPLOY, "hub.conf", listens)
        at_leaf = await deployed(DEPLOY, "leaf.conf", {"port: 4222": leaf})
        at_leaf = at_leaf.replace("nats-leaf://hub:7422", link.url.replace("nats:", "nats-leaf:"))
        stage.servers["hub"] = await floor.enter_async_context(NatsServer(folder, "hub", at_hub))
        stage.servers["leaf"] = await floor.enter_async_context(NatsServer(folder, "leaf", at_leaf))
        urls = {"hub": f"nats://127.0.0.1:{hub}", "leaf": f"nats://127.0.0.1:{leaf}"}
        await stage.add("scorer-hub", urls["hub"])  # first, so that it is in office
        await asyncio.gather(
            stage.add("recorder-1", urls["hub"], "--database", str(folder / "recorder.sqlite3")),
            stage.add("scorer-leaf", urls["leaf"]),
            *(stage.add(f"dispatcher-{place}", url) for place, url in urls.items()),
            *(stage.gateway(f"gateway-{place}", url, place=place) for place, url in urls.items()),
            *(
                stage.node(f"{place}{n}", url, "--label", f"site={place}")
                for place, url in urls.items()
                for n in (1, 2)
            ),
        )
        yield stage


@asynccontextmanager
async def fake_clocks(folder: Path) -> AsyncIterator[Stage]:
    """One server, and actors whose clocks can be moved."""
    async with AsyncExitStack() as floor:
        fleet = await floor.enter_async_context(ProcessFleet(folder))
        stage = Stage(fleet)
        port = free_port()
        text = await deployed(DEPLOY, "nats.conf", {"port: 4222": port})
        stage.servers["nats-1"] = await floor.enter_async_context(NatsServer(folder, "nats-1", text))
        url = f"nats://127.0.0.1:{port}"
        control = _control(stage, url, folder, has_clock=True)
        nodes = [stage.node(node_id, url, has_clock=True) for node_id in ("attic", "cellar")]
        await asyncio.gather(*control, stage.gateway("gateway-1", url), *nodes)
        yield stage


def _control(
    stage: Stage, url: str, folder: Path, *, has_clock: bool = False, **environ: str
) -> Iterator[Awaitable[Child]]:
    """Starts two of each control actor."""
    for number in (1, 2):
        database = str(folder / f"recorder-{number}.sqlite3")
        for role, flags in (("recorder", ("--database", database)), ("scorer", ()), ("dispatcher", ())):
            yield stage.add(f"{role}-{number}", url, *flags, has_clock=has_clock, **environ)


STAGES = {"three": three_servers, "sites": hub_and_leaf, "clocks": fake_clocks}
