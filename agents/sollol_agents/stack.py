"""The whole system inside one program: a nats-server of its own and every control actor, on one event loop.

    async with LocalStack() as stack, stack.client() as client:
        answer = await client.generate("llama3.2", "Why is the sky blue?")

`sollol up`, the tests and programs that want no other process use it. The actors are the same as in production and
meet on the bus alone; they merely share a process. They start at the same time and stop one after another, from the
one that works to the one that writes it down: gateway, nodes, dispatcher, scorer, recorder, server.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.metering.config import MetricsConfig
from sollol_agents.node.config import NodeConfig, node_id_of
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.registrar.config import NODE_CREDENTIALS, RegistrarConfig
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.actor import Actor, ActorState
from sollol_bus.errors import BusError, NoResponders, RequestTimedOut
from sollol_bus.observe.tracing import Tracer
from sollol_bus.parts import Part
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas import inboxes, subjects

if TYPE_CHECKING:
    from sollol_agents.metering.server import MetricsServer

log = logging.getLogger(__name__)

_IN_OFFICE_WITHIN_S = 10.0
_RETRY_S = 0.01
_STREAMS: Final = 4
"""Each stream of bounded size gets this part of the store: there are two, beside those that only hold what waits."""
_ACTORS: Final = {
    "gateway": ("sollol_agents.gateway.actor", "Gateway"),
    "node": ("sollol_agents.node.actor", "NodeMonitor"),
    "dispatcher": ("sollol_agents.dispatcher.actor", "Dispatcher"),
    "scorer": ("sollol_agents.scorer.actor", "Scorer"),
    "recorder": ("sollol_agents.recorder.actor", "Recorder"),
    "registrar": ("sollol_agents.registrar.actor", "Registrar"),
}
"""In the order of stopping. Imported beside the server's own start, which takes as long."""


class LocalStack(Part):
    """NATS server, control actors, gateway and any number of nodes, for as long as the `async with` block lasts.

    Args:
        port: Port of the embedded server; 0 picks a free one.
        store_dir: Where JetStream and the recorder keep their files; None: a temporary directory.
        bus: A running server to use instead of an embedded one, and its credentials; without a URL, the
            credentials for the embedded one.
        server: Further settings of the embedded server.
        scorer: Settings of the scorer.
        dispatcher: Settings of the dispatcher.
        recorder: Settings of the recorder.
        gateway: Settings of an HTTP gateway; None: no gateway.
        registrar: Who belongs to the fleet; without a folder, whoever reaches the server.
        nodes: Settings of the nodes to start with.
        metrics: Whether and where to serve metrics of everything in here.
        tracer: Who traces requests; it is not closed with the stack. None: nobody.
        before_start: Called with each actor before it starts.
        certificate: Files of a certificate and its key, with which the gateway speaks HTTPS.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        store_dir: Path | str | None = None,
        bus: BusConfig | None = None,
        server: EmbeddedServerConfig | None = None,
        scorer: ScorerConfig | None = None,
        dispatcher: DispatcherConfig | None = None,
        recorder: RecorderConfig | None = None,
        gateway: GatewayConfig | None = None,
        registrar: RegistrarConfig | None = None,
        nodes: tuple[NodeConfig, ...] = (),
        metrics: MetricsConfig | None = None,
        tracer: Tracer | None = None,
        before_start: Callable[[Actor[Any]], None] = lambda _: None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self._port = port
        self._store_dir = Path(store_dir) if store_dir is not None else None
        self._bus_config = bus
        self._server_config = server or EmbeddedServerConfig()
        self._scorer_config = scorer or ScorerConfig()
        self._dispatcher_config = dispatcher or DispatcherConfig()
        self._recorder_config = recorder or RecorderConfig()
        self._gateway_config = gateway
        self._registrar_config = registrar or RegistrarConfig()
        self._node_configs = nodes
        self._metrics_config = metrics or MetricsConfig()
        self._metrics: MetricsServer | None = None
        self._tracer = tracer
        self._before_start = before_start
        self._certificate = certificate
        self._actors: list[Actor[Any]] = []
        self._floor = AsyncExitStack()
        self._failure: asyncio.Future[BaseException] | None = None
        self._watchers: list[asyncio.Task[None]] = []
        self.server: EmbeddedServer | None = None
        """The embedded server; None when another one is used."""

    @property
    def nats_url(self) -> str:
        """Where clients connect."""
        return self._require_bus().url

    @property
    def http_url(self) -> str:
        """Where HTTP clients connect; empty without a gateway."""
        return next((str(getattr(actor, "url", "")) for actor in self._actors if actor.name == "gateway"), "")

    @property
    def metrics_url(self) -> str:
        """Where the metrics are; empty when they are off."""
        return self._metrics.url if self._metrics is not None else ""

    @property
    def takes_nodes(self) -> bool:
        """Whether a node may run in here: where the NATS server tells roles apart it needs credentials of its own."""
        return self._require_bus().user is None or self._registrar_config.folder != ""

    @property
    def is_one_member(self) -> bool:
        """Whether the credentials of this machine are those of one node."""
        return self._registrar_config.folder != ""

    @property
    def bus_config(self) -> BusConfig:
        """How a further actor of this machine connects."""
        return self._require_bus()

    @property
    def actors(self) -> tuple[Actor[Any], ...]:
        """Everything that runs on the bus."""
        return tuple(self._actors)

    def client(self) -> Client:
        """A client of this fleet, to be entered with `async with`."""
        return Client(self._named("client", inboxes.CLIENT_INBOX_PREFIXES[0].rstrip(".")))

    async def add_node(self, config: NodeConfig) -> Actor[Any]:
        """Starts one more node monitor in this process.

        Raises:
            SollolError: It cannot start; the others go on.
        """
        node = await self._start("node", config)
        self._watch(node)
        return node

    async def add_engine(self, url: str, **settings: object) -> Actor[Any]:
        """Starts a node monitor beside the engine at `url`; `settings` are fields of `NodeConfig`.

        Raises:
            SollolError: It cannot start; the others go on.
        """
        return await self.add_node(msgspec.convert({"url": url, **settings}, NodeConfig))

    async def wait_failed(self) -> BaseException:
        """Returns what went wrong when an actor fails or the server is given up; waits for ever otherwise."""
        assert self._failure is not None
        return await asyncio.shield(self._failure)

    def hurry(self) -> None:
        """Ends the wait of every draining actor for its work in flight."""
        for actor in self._actors:
            actor.hurry()

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when everything is in office.

        Raises:
            SollolError: Something cannot start; what had started is stopped.
        """
        self._failure = asyncio.get_running_loop().create_future()
        try:
            await self._start_all()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Drains and stops everything, one actor after another; stopping twice does nothing.

        What goes wrong at one is raised when the others, and the server below them, have stopped too.
        """
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers.clear()
        order = list(_ACTORS)
        for actor in self._actors:
            actor.is_last = self.server is not None  # the bus goes with it
        for actor in sorted(self._actors, key=lambda a: order.index(a.name), reverse=True):
            self._floor.push_async_callback(actor.close)
        try:
            await self._floor.aclose()
        finally:
            self._actors.clear()

    async def _start_all(self) -> None:
        await self._start_metrics()
        kinds = asyncio.to_thread(self._import_actors)
        if self._bus_config is None or not self._bus_config.url:
            _, server = await asyncio.gather(kinds, self._start_server())
            self._bus_config = msgspec.structs.replace(
                self._bus_config or BusConfig(), url=server.url, stream_bytes=max(1, server.store_bytes // _STREAMS)
            )
        else:
            await kinds
        if self._registrar_config.folder:  # whoever is connected is cut when it tells the server of changed rights
            await self._start("registrar", self._registrar_config)
        started = await asyncio.gather(
            self._start("recorder", self._place_database(self._recorder_config)),
            self._start("scorer", self._scorer_config),
            self._start("dispatcher", self._dispatcher_config),
            *(self._start("gateway", config) for config in (self._gateway_config,) if config is not None),
            *(self._start("node", config) for config in self._node_configs),
            return_exceptions=True,
        )
        for failure in started:
            if isinstance(failure, BaseException):
                raise failure
        for actor in self._actors:
            self._watch(actor)
        await self._wait_in_office_or_failure()

    async def _start_metrics(self) -> None:
        if self._metrics_config.port is None:
            return
        from sollol_agents.metering.server import MetricsServer  # noqa: PLC0415 what is off need not be loaded

        server = MetricsServer(self._metrics_config, lambda: self._actors)
        self._metrics = await self._floor.enter_async_context(server)

    async def _start_server(self) -> EmbeddedServer:
        if self._store_dir is None:
            folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="sollol-")
            self._floor.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, ignore_errors=True)
            self._store_dir = Path(folder)
        config = msgspec.structs.replace(self._server_config, port=self._port, store_dir=str(self._store_dir / "nats"))
        self.server = EmbeddedServer(config)
        return await self._floor.enter_async_context(self.server)

    def _place_database(self, config: RecorderConfig) -> RecorderConfig:
        if config.database or self._store_dir is None:
            return config
        return msgspec.structs.replace(config, database=str(self._store_dir / "recorder.sqlite3"))

    def _import_actors(self) -> None:
        for name, (module, _) in _ACTORS.items():
            wanted = {
                "node": bool(self._node_configs),
                "gateway": self._gateway_config is not None,
                "registrar": self._registrar_config.folder != "",
            }
            if wanted.get(name, True):
                importlib.import_module(module)

    async def _start(self, name: str, config: msgspec.Struct) -> Actor[Any]:
        module, kind = _ACTORS[name]
        prefix = inboxes.CLIENT_INBOX_PREFIX if name == "gateway" else inboxes.CONTROL_INBOX_PREFIX
        bus = self._named(name, prefix)
        if isinstance(config, NodeConfig):
            bus = self._of_node(node_id_of(config))
        more = {"certificate": self._certificate} if name == "gateway" else {}
        actor: Actor[Any] = getattr(importlib.import_module(module), kind)(config, bus, **more)
        actor.meter = self._metrics.meter if self._metrics is not None else None
        actor.tracer = self._tracer
        self._before_start(actor)
        await actor.start()
        self._actors.append(actor)
        return actor

    def _named(self, name: str, inbox_prefix: str) -> BusConfig:
        return msgspec.structs.replace(self._require_bus(), name=name, inbox_prefix=inbox_prefix)

    def _of_node(self, node_id: str) -> BusConfig:
        bus = self._named("node", inboxes.node_inbox_prefix(node_id))
        if not self._registrar_config.folder:
            return bus
        creds = str(self._registrar_config.file(NODE_CREDENTIALS))
        return msgspec.structs.replace(bus, user=node_id, creds_file=creds)

    def _require_bus(self) -> BusConfig:
        if self._bus_config is None:
            raise RuntimeError("the stack has not started")
        return self._bus_config

    def _watch(self, actor: Actor[Any]) -> None:
        # These tasks belong to this object: `close` cancels and awaits them.
        loop = asyncio.get_running_loop()
        self._watchers.append(loop.create_task(self._watch_one(actor), name=f"stack watches {actor.name}"))
        if self.server is not None and len(self._watchers) == 1:
            self._watchers.append(loop.create_task(self._watch_server(self.server), name="stack watches the server"))

    async def _watch_one(self, actor: Actor[Any]) -> None:
        try:
            await actor.run_until_stopped()
        except Exception as error:  # noqa: BLE001 whatever ended the actor is handed to whoever waits for failures
            self._fail(error)
        else:
            if actor.state is ActorState.RUNNING:
                self._fail(RuntimeError(f"{actor.name} stopped by itself"))

    async def _watch_server(self, server: EmbeddedServer) -> None:
        await server.wait_given_up()
        self._fail(BusError("nats-server died too often and is not started again; see its log"))

    def _fail(self, error: BaseException) -> None:
        assert self._failure is not None
        if not self._failure.done():
            self._failure.set_result(error)

    async def _wait_in_office_or_failure(self) -> None:
        """Returns when all is in office; raises what an actor failed of before that."""
        loop = asyncio.get_running_loop()
        office = loop.create_task(self._wait_in_office(), name="stack waits for offices")
        failed = loop.create_task(self.wait_failed(), name="stack waits for failures")
        try:
            await asyncio.wait((office, failed), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                raise failed.result()
            office.result()
        finally:
            office.cancel()
            failed.cancel()
            await asyncio.gather(office, failed, return_exceptions=True)

    async def _wait_in_office(self) -> None:
        """Returns when scorer and recorder answer, so that the first request and the first question succeed."""
        bus = await Bus.connect(self._named("stack", inboxes.CONTROL_INBOX_PREFIX))
        try:
            await asyncio.gather(*(_answers(bus, subject) for subject in (subjects.NODES, subjects.STATS)))
        finally:
            await bus.close()


async def _answers(bus: Bus, subject: str) -> None:
    deadline = asyncio.get_running_loop().time() + _IN_OFFICE_WITHIN_S
    while True:
        try:
            await bus.request(subject, b"{}", timeout_s=1.0)
        except (NoResponders, RequestTimedOut):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_RETRY_S)
        else:
            return
