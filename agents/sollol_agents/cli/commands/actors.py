"""`sollol node`, `scorer`, `dispatcher`, `recorder`, `registrar`, `gateway`, `dashboard`: one actor in one process."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.commands.lazy_dashboard import LISTEN_FD
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.open_doors import DASHBOARD_KEYS, KEYS, OpenFlag, certificate_for, refuse_open
from sollol_agents.cli.output import say
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.sections import section
from sollol_agents.dashboard.config import DashboardConfig
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.metering.config import MetricsConfig
from sollol_agents.node.config import NodeConfig, node_id_of
from sollol_agents.recorder.config import RecorderConfig
from sollol_agents.registrar.config import RegistrarConfig
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.actor import Actor
from sollol_bus.errors import ConfigError, SollolError
from sollol_bus.observe.tracing import TracingConfig
from sollol_bus.observe.tracing_setup import make_tracer
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.inboxes import CLIENT_INBOX_PREFIX, CONTROL_INBOX_PREFIX, node_inbox_prefix

log = logging.getLogger(__name__)

_Seen = tuple[MetricsConfig, TracingConfig]
"""How an operator sees what an actor does."""


@of_commands.for_actors(config=section("node", NodeConfig))
def node(*, config: NodeConfig, bus: BusConfig, log: LogConfig, metrics: MetricsConfig, tracing: TracingConfig) -> int:
    """Joins the fleet with the engine beside it; the only thing that a new machine has to start.

    It finds an Ollama at its usual address, or takes any OpenAI-compatible server: `--engine openai --url URL`. It
    only dials out. SIGTERM and Ctrl-C drain it.
    """
    log_lines.set_up(log)
    node_id = node_id_of(config)
    bus = msgspec.structs.replace(bus, name=f"node-{node_id}", inbox_prefix=node_inbox_prefix(node_id))
    return _run("sollol_agents.node.actor:NodeMonitor", config, bus, f"node {node_id}", (metrics, tracing))


@of_commands.for_actors(config=section("scorer", ScorerConfig))
def scorer(
    *, config: ScorerConfig, bus: BusConfig, log: LogConfig, metrics: MetricsConfig, tracing: TracingConfig
) -> int:
    """Decides which request runs where; start a second one as a warm standby."""
    log_lines.set_up(log)
    return _run("sollol_agents.scorer.actor:Scorer", config, _control(bus, "scorer"), "scorer", (metrics, tracing))


@of_commands.for_actors(config=section("dispatcher", DispatcherConfig))
def dispatcher(
    *, config: DispatcherConfig, bus: BusConfig, log: LogConfig, metrics: MetricsConfig, tracing: TracingConfig
) -> int:
    """Takes requests and hands them to nodes; start as many as you like."""
    log_lines.set_up(log)
    return _run(
        "sollol_agents.dispatcher.actor:Dispatcher",
        config,
        _control(bus, "dispatcher"),
        "dispatcher",
        (metrics, tracing),
    )


@of_commands.for_actors(config=section("recorder", RecorderConfig))
def recorder(
    *, config: RecorderConfig, bus: BusConfig, log: LogConfig, metrics: MetricsConfig, tracing: TracingConfig
) -> int:
    """Writes every outcome and decision to SQLite and answers questions about them."""
    log_lines.set_up(log)
    return _run(
        "sollol_agents.recorder.actor:Recorder", config, _control(bus, "recorder"), "recorder", (metrics, tracing)
    )


@of_commands.for_actors()
def registrar(*, bus: BusConfig, log: LogConfig, metrics: MetricsConfig, tracing: TracingConfig) -> int:
    """Admits, renews and revokes members, on the machine where `sollol fleet init` made the fleet.

    `sollol up` does it by itself; this is for a fleet of single actors.
    """
    log_lines.set_up(log)
    config = RegistrarConfig.beside(bus.creds_file)
    if not config.folder:
        raise ConfigError("no fleet was made on this machine: `sollol fleet init` makes one")
    bus = _control(bus, "registrar")
    return _run("sollol_agents.registrar.actor:Registrar", config, bus, "registrar", (metrics, tracing))


@of_commands.for_actors(config=section("gateway", GatewayConfig))
def gateway(
    *,
    open_: OpenFlag = False,
    config: GatewayConfig,
    bus: BusConfig,
    log: LogConfig,
    metrics: MetricsConfig,
    tracing: TracingConfig,
) -> int:
    """Serves Ollama's, OpenAI's and Anthropic's HTTP clients; start as many as you like."""
    log_lines.set_up(log)
    if not config.require_key:
        refuse_open("the gateway", config.host, KEYS, is_open=open_)
    bus = msgspec.structs.replace(bus, name="gateway", inbox_prefix=CLIENT_INBOX_PREFIX)
    fleets = RegistrarConfig.beside(bus.creds_file).certificate
    more = {"certificate": certificate_for(config.host, fleets, is_open=open_)}
    return _run("sollol_agents.gateway.actor:Gateway", config, bus, "gateway", (metrics, tracing), more=more)


@of_commands.for_actors(config=section("dashboard", DashboardConfig))
def dashboard(
    *,
    open_: OpenFlag = False,
    config: DashboardConfig,
    bus: BusConfig,
    log: LogConfig,
    metrics: MetricsConfig,
    tracing: TracingConfig,
) -> int:
    """Shows the fleet in a browser, with the operations of an operator; needs the extra `dashboard`."""
    log_lines.set_up(log)
    if not config.require_key:
        refuse_open("the dashboard", config.host, DASHBOARD_KEYS, is_open=open_)
    config = msgspec.structs.replace(config, listen_fd=int(os.environ.get(LISTEN_FD, "-1")))
    bus = msgspec.structs.replace(bus, name="dashboard", inbox_prefix=CLIENT_INBOX_PREFIX)
    return _run("sollol_agents.dashboard.actor:Dashboard", config, bus, "dashboard", (metrics, tracing))


def _control(bus: BusConfig, name: str) -> BusConfig:
    return msgspec.structs.replace(bus, name=name, inbox_prefix=CONTROL_INBOX_PREFIX)


def _run(
    path: str, config: msgspec.Struct, bus: BusConfig, title: str, seen: _Seen, *, more: dict[str, Any] | None = None
) -> int:
    metrics, tracing = seen
    module, _, name = path.partition(":")
    kind: type[Actor[Any]] = getattr(importlib.import_module(module), name)

    async def main(signals: asyncio.Queue[int]) -> int:
        if not await running.server_there(bus, signals):
            return exit_codes.OK
        actor = kind(config, bus, **(more or {}))
        actor.tracer = tracer
        async with _metered(metrics, actor) as url:
            return await run_actor(actor, title, signals, metrics_url=url)

    tracer = make_tracer(tracing, service=f"sollol-{kind.name}", instance=bus.name)
    try:
        return running.run_until_signalled(main)
    finally:
        if tracer is not None:
            tracer.close()


@asynccontextmanager
async def _metered(config: MetricsConfig, actor: Actor[Any]) -> AsyncIterator[str]:
    """Counts what the actor does and serves it; gives the address, empty when metrics are off."""
    if config.port is None:
        yield ""
        return
    from sollol_agents.metering.server import MetricsServer  # noqa: PLC0415 what is off need not be loaded

    async with MetricsServer(config, lambda: (actor,)) as server:
        actor.meter = server.meter
        yield server.url


async def run_actor(actor: Actor[Any], title: str, signals: asyncio.Queue[int], *, metrics_url: str = "") -> int:
    """Runs an actor until it fails or a signal comes; a second signal hurries its drain."""

    async def obey() -> None:
        await signals.get()
        log.info("%s drains; a second signal hurries", actor.name, extra={"action": "actor_draining"})
        actor.stop()
        await signals.get()
        log.warning("%s is hurried by a second signal", actor.name, extra={"action": "actor_hurried"})
        actor.hurry()

    obeying = asyncio.get_running_loop().create_task(obey())
    try:
        async with actor:
            say(f"{title} instance {actor.instance}")
            if url := getattr(actor, "url", ""):
                say(f"http {url}")
            if metrics_url:
                say(f"metrics {metrics_url}")
            say("ready")
            await actor.run_until_stopped()
    except SollolError:
        raise
    except Exception:
        log.exception("%s failed", actor.name, extra={"action": "actor_failed"})
        return exit_codes.FAILED
    finally:
        obeying.cancel()
    return exit_codes.OK
