"""`sollol up`: the whole system in one process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.commands import up_story
from sollol_agents.cli.commands.engine_places import port_of, usual_urls
from sollol_agents.cli.commands.lazy_dashboard import LazyDashboard
from sollol_agents.cli.commands.local_engines import LocalEngines
from sollol_agents.cli.commands.up_ports import Place, settled
from sollol_agents.cli.commands.up_story import EngineHere, Story
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.open_doors import DASHBOARD_KEYS, KEYS, OpenFlag, certificate_for, refuse_open
from sollol_agents.cli.output import is_terminal, room, say
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.cli.settings.sections import SECTIONS, section
from sollol_agents.dashboard.config import DashboardConfig
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.listening import own_address
from sollol_agents.metering.config import MetricsConfig
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.engines.probing import Probed
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.registrar.config import RegistrarConfig
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.stack import LocalStack
from sollol_bus.observe.tracing import TracingConfig
from sollol_bus.observe.tracing_setup import make_tracer
from sollol_bus.server.config import EmbeddedServerConfig, default_store_dir
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.telemetry import EngineKind

log = logging.getLogger(__name__)

_NATS_ENV = SECTIONS["nats"].envs["url"]

PortNumber = Annotated[int, Meta(ge=0, le=65535)]


class UpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `sollol up` starts, and where."""

    nats_port: Annotated[PortNumber, Meta(description="Port of the embedded NATS server; 0 picks a free one.")] = 4222
    http_port: Annotated[
        PortNumber | None,
        Meta(description="Port of the HTTP gateway; 0 picks a free one; none: that of the gateway, 8000."),
    ] = None
    gateway: Annotated[bool, Meta(description="Start an HTTP gateway too.")] = True
    dashboard: Annotated[
        bool, Meta(description="Serve the dashboard too, when its extra is installed; it starts when it is opened.")
    ] = True
    dashboard_port: Annotated[
        PortNumber | None,
        Meta(description="Port of the dashboard; 0 picks a free one; none: that of the dashboard, 8080."),
    ] = None
    store_dir: Annotated[
        str, Meta(description="Directory of everything that is kept; empty: the per-user state directory.")
    ] = ""
    local_node: Annotated[
        bool,
        Meta(
            description="Start a node beside each engine that runs here, whenever it starts, or beside the one that "
            "SOLLOL_NODE_URL names."
        ),
    ] = True
    look_s: Annotated[
        float, Meta(gt=0, le=600, description="Seconds in which an engine here must answer to be found.")
    ] = 2.0


@with_settings(
    of_commands.KNOWN,
    {("bus", "url"): ("up", "nats_port")},
    up=section("up", UpConfig),
    bus=section("nats", BusConfig, defaults={"url": ""}),
    log=of_commands.LOG,
    metrics=of_commands.METRICS,
    tracing=of_commands.TRACING,
    server=section("server", EmbeddedServerConfig, is_flagged=False),
    scorer=section("scorer", ScorerConfig, is_flagged=False),
    dispatcher=section("dispatcher", DispatcherConfig, is_flagged=False),
    recorder=section("recorder", RecorderConfig, is_flagged=False),
    gateway=section("gateway", GatewayConfig, is_flagged=False),
    dashboard=section("dashboard", DashboardConfig, is_flagged=False),
    node=section("node", NodeConfig, is_flagged=False),
)
def up(
    *,
    open_: OpenFlag = False,
    up: UpConfig,
    bus: BusConfig,
    log: LogConfig,
    metrics: MetricsConfig,
    tracing: TracingConfig,
    server: EmbeddedServerConfig,
    scorer: ScorerConfig,
    dispatcher: DispatcherConfig,
    recorder: RecorderConfig,
    gateway: GatewayConfig,
    dashboard: DashboardConfig,
    node: NodeConfig,
) -> int:
    """Starts NATS, scorer, dispatcher, recorder and HTTP gateway in one process, and a node beside each engine here.

    The dashboard listens too and starts, as a process of its own, when somebody opens it.

    With `--nats` or SOLLOL_NATS it uses a running server; `--nats-port` starts one all the same. On a terminal it
    tells what runs where; elsewhere it prints one line for each address and then `ready`. SIGTERM and Ctrl-C drain:
    dashboard and gateway first, then nodes, dispatcher, scorer, recorder, server; a second signal hurries.
    """
    log_lines.set_up(log)
    registrar = RegistrarConfig.beside(bus.creds_file)
    if registrar.folder and server.extra_config:  # the address is for other commands; here it is this very server
        bus = msgspec.structs.replace(bus, url="")
    _refuse_open(bus, server, gateway if up.gateway else None, dashboard if up.dashboard else None, is_open=open_)
    _say_which_server(bus)
    base = Path(up.store_dir).expanduser() if up.store_dir else default_store_dir().parent
    tracer = make_tracer(tracing, service="sollol-up")

    async def main(signals: asyncio.Queue[int]) -> int:
        if bus.url and not await running.server_there(bus, signals):
            return exit_codes.OK
        http, page = await settle_ports(up, gateway, dashboard)
        stack = LocalStack(
            port=up.nats_port,
            store_dir=base,
            bus=bus if bus.url or bus.user else None,
            server=server,
            scorer=scorer,
            dispatcher=dispatcher,
            recorder=recorder,
            gateway=msgspec.structs.replace(gateway, port=http.port) if up.gateway else None,
            registrar=registrar,
            metrics=metrics,
            tracer=tracer,
            certificate=certificate_for(gateway.host, registrar.certificate, is_open=open_),
        )
        lazy = LazyDashboard(dashboard, page.port, base / "dashboard.log", is_open=open_)
        house = _House(stack, lazy if up.dashboard else None, up, node, (http, page), needs_key=gateway.require_key)
        return await house.serve(signals)

    try:
        return running.run_until_signalled(main)
    finally:
        if tracer is not None:
            tracer.close()


async def settle_ports(up: UpConfig, gateway: GatewayConfig, dashboard: DashboardConfig) -> tuple[Place, Place]:
    """Where gateway and dashboard listen."""
    http = await settled(
        "gateway",
        "--http-port",
        gateway.host,
        gateway.port if up.http_port is None else up.http_port,
        GatewayConfig().port,
        is_wanted=up.gateway,
    )
    page = await settled(
        "dashboard",
        "--dashboard-port",
        dashboard.host,
        dashboard.port if up.dashboard_port is None else up.dashboard_port,
        DashboardConfig().port,
        is_wanted=up.dashboard,
        but=http.port,
    )
    return http, page


def _refuse_open(
    bus: BusConfig,
    server: EmbeddedServerConfig,
    gateway: GatewayConfig | None,
    dashboard: DashboardConfig | None,
    *,
    is_open: bool,
) -> None:
    if not bus.url and bus.user is None:
        remedy = "make a fleet that knows its members with `sollol fleet init`"
        refuse_open("the NATS server", server.host, remedy, is_open=is_open)
    if gateway is not None and not gateway.require_key:
        refuse_open("the gateway", gateway.host, KEYS, is_open=is_open)
    if dashboard is not None and not dashboard.require_key:
        refuse_open("the dashboard", dashboard.host, DASHBOARD_KEYS, is_open=is_open)


def _say_which_server(bus: BusConfig) -> None:
    named = os.environ.get(_NATS_ENV)
    if bus.url:
        log.info("the NATS server at %s is used; none is started here", bus.url, extra={"action": "server_named"})
    elif named:
        log.warning(
            "--nats-port starts a NATS server here; the one in %s is not used",
            _NATS_ENV,
            extra={"action": "server_own"},
        )


class _House:
    """Everything that `sollol up` runs, from its start to its end."""

    def __init__(
        self,
        stack: LocalStack,
        page: LazyDashboard | None,
        config: UpConfig,
        node: NodeConfig,
        places: tuple[Place, ...],
        *,
        needs_key: bool,
    ) -> None:
        self._stack = stack
        self._page = page
        self._config = config
        self._node = node
        self._remarks = [place.remark for place in places if place.remark]
        self._needs_key = needs_key

    async def serve(self, signals: asyncio.Queue[int]) -> int:
        """Runs until a signal comes or something fails; the exit code."""
        stack, page = self._stack, self._page
        async with AsyncExitStack() as floor:
            with log_lines.only_trouble() if is_terminal() else contextlib.nullcontext():
                engines = await self._start(floor)
            say(up_story.told(self._story(engines), room() or 80) if is_terminal() else "ready")
            failure = await _first_failure(stack, signals, engines if self._config.local_node else None)
            if failure is not None:
                log.error("stopping: %s", failure, extra={"action": "stack_failed"})
            else:
                log.info(
                    "stopping: what runs is finished first; a second signal hurries",
                    extra={"action": "stack_draining"},
                )
            async with asyncio.TaskGroup() as group:
                hurry = group.create_task(_hurry_on_signal(stack, signals))
                if page is not None:
                    await page.close()
                await stack.close()
                hurry.cancel()
        if is_terminal():
            say("SOLLOL has stopped.")
        return exit_codes.OK if failure is None else exit_codes.FAILED

    async def _start(self, floor: AsyncExitStack) -> LocalEngines:
        """Starts everything, and says where it listens; the engines that joined."""
        stack, page = self._stack, self._page
        await floor.enter_async_context(stack)
        self._say("nats", stack.nats_url)
        self._say("http", stack.http_url)
        self._say("metrics", stack.metrics_url)
        if page is not None and page.listen(stack.bus_config):
            await floor.enter_async_context(page)
            self._say("dashboard", page.url)
        own = [port_of(page.url)] if page is not None else []
        engines = LocalEngines(stack, self._node, usual_urls(os.environ), own, look_s=self._config.look_s)
        if self._config.local_node:
            await engines.first_look()
        return engines

    @staticmethod
    def _say(what: str, url: str) -> None:
        """An address for a program that started this one; a person is told all of them later."""
        if url and not is_terminal():
            say(f"{what} {url}")

    def _story(self, engines: LocalEngines) -> Story:
        stack = self._stack
        found = [
            EngineHere(node_id=node_id, url=url)
            if there is None
            else EngineHere(node_id=node_id, url=url, what=_engine(there), models=there.models)
            for url, (node_id, there) in engines.found.items()
        ]
        looks = self._config.local_node and not self._node.url
        return Story(
            nats_url=stack.nats_url,
            is_own_server=stack.server is not None,
            http_url=stack.http_url,
            dashboard_url=self._page.url if self._page is not None else "",
            metrics_url=stack.metrics_url,
            engines=found,
            looks_at=engines.ports if looks else (),
            knows_members=stack.is_one_member,
            needs_key=self._needs_key,
            own_address=own_address(),
            remarks=self._remarks,
        )


def _engine(there: Probed) -> str:
    """An engine as its owner would call it."""
    if there.kind is EngineKind.OPENAI:
        return "an OpenAI-compatible engine"
    return f"Ollama {there.version}".strip()


async def _first_failure(
    stack: LocalStack, signals: asyncio.Queue[int], local: LocalEngines | None
) -> BaseException | None:
    """What went wrong first, or None when a signal came before anything did; `local` is looked for meanwhile."""
    loop = asyncio.get_running_loop()
    failed = loop.create_task(stack.wait_failed())
    signalled = loop.create_task(signals.get())
    looking = [loop.create_task(local.run(), name="looks for engines")] if local is not None else []
    await asyncio.wait((failed, signalled), return_when=asyncio.FIRST_COMPLETED)
    for task in (failed, signalled, *looking):
        task.cancel()
    await asyncio.gather(*looking, return_exceptions=True)
    return failed.result() if failed.done() and not failed.cancelled() else None


async def _hurry_on_signal(stack: LocalStack, signals: asyncio.Queue[int]) -> None:
    await signals.get()
    log.warning("hurried by a second signal", extra={"action": "stack_hurried"})
    stack.hurry()
