"""`sollol doctor`: looks at this machine and at the fleet, and says what to do about what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Annotated, Any, Final

import msgspec

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.commands.doctor_kept import UNSEEN, check_answers, check_kept, may_ask
from sollol_agents.cli.commands.doctor_machine import (
    check_disk,
    check_gpus,
    check_port,
    check_python,
    check_server_binary,
)
from sollol_agents.cli.commands.engine_places import is_listening, port_of, usual_urls
from sollol_agents.cli.commands.findings import Finding, Level
from sollol_agents.cli.commands.listings import variants_of
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import counted, say, seconds, show_json, show_table, tell
from sollol_agents.cli.settings import of_commands
from sollol_agents.fleet_view.alerts import AlertKind, AlertLevel, alerts
from sollol_agents.node.config import NodeConfig
from sollol_bus.errors import BusError, ConfigError, NoResponders, NotConnected, NotPermitted, RequestTimedOut
from sollol_bus.jetstream.vacancy import NO_QUORUM
from sollol_bus.transport.clock import OFF_S, wall_s
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.discovery import CLOCK_AHEAD_S, OFFICE_TERM, Service, find_services
from sollol_bus.transport.messages import decode
from sollol_bus.transport.topology import is_clustered
from sollol_bus.version import VERSION
from sollol_schemas import stores, subjects
from sollol_schemas.inboxes import client_inbox_prefix
from sollol_schemas.instants import parse_instant
from sollol_schemas.queries import ModelsReply, NodesReply, NodeView
from sollol_schemas.telemetry import NodeState

_LEAST_PAYLOAD_BYTES: Final = 8 << 20
_ENGINE_TIMEOUT_S: Final = 1.0
_PORTS: Final = ((4222, "--nats-port"), (8000, "--http-port"))
"""Where `sollol up` listens, and the flags that choose others."""
_REMEDIES: Final = {
    AlertKind.DEGRADED: "look at what else runs there, at its temperature and its log: `sollol why` tells of a request",
    AlertKind.LOW_VRAM: "another program has the memory: `nvidia-smi` or the desktop's monitor says which",
}
_ROLES: Final = ("scorer", "dispatcher", "recorder")


class _StreamLimits(msgspec.Struct, frozen=True):
    max_bytes: int = -1


class _StreamInfo(msgspec.Struct):
    ts: str = ""
    config: _StreamLimits = _StreamLimits()
    error: dict[str, Any] | None = None


@of_commands.for_clients()
def doctor(
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
    repair: Annotated[
        bool,
        Parameter(has_negative=False, help="Remove what is kept and cannot be read; needs a user of the control role."),
    ] = False,
) -> int:
    """Checks Python, disk, GPU, engine, ports, NATS with JetStream, what is kept, actors, nodes, versions and clock.

    Ends with 1 when something does not work.
    """
    log_lines.set_up(log)
    findings: list[Finding] = []

    async def main() -> int:
        findings.extend([check_python(), check_server_binary(), check_disk(), *check_gpus()])
        with log_lines.refusals_told_by_errors():
            of_bus = await check_bus(bus, repair=repair)
        findings.extend([without_need(await check_engine(), of_bus), *of_bus])
        return exit_codes.FAILED if any(f.level is Level.PROBLEM for f in findings) else exit_codes.OK

    code = running.run(main)
    if json_:
        show_json(findings)
    else:
        show_findings(findings)
    return code


async def check_engine() -> Finding:
    """The first engine where `sollol up` looks for them, too."""
    urls = usual_urls(os.environ)
    for url in urls:
        if not await is_listening(url):
            continue
        from sollol_agents.node.engines.probing import probe  # noqa: PLC0415 where there is something to ask

        found = await probe(NodeConfig(url=url), timeout_s=_ENGINE_TIMEOUT_S)
        if found.kind is not None:
            models = "" if found.models is None else f", {counted(found.models, 'model')}"
            return Finding(check="engine", level=Level.OK, found=f"{found.kind} {found.version} at {url}{models}")
    return Finding(
        check="engine",
        level=Level.WARNING,
        found=f"none on this machine at ports {', '.join(str(port_of(url)) for url in urls)}",
        remedy="start Ollama, name another with `sollol node --engine openai --url URL`, or try `sollol engine`",
    )


def without_need(engine: Finding, of_bus: list[Finding]) -> Finding:
    """The finding about this machine's engine, no warning where the fleet has engines elsewhere."""
    is_served = any(f.check == "node" and f.level is Level.OK for f in of_bus)
    if engine.level is not Level.WARNING or not is_served:
        return engine
    return Finding(check=engine.check, level=Level.OK, found=f"{engine.found}; the fleet's nodes have theirs")


async def check_bus(config: BusConfig, *, repair: bool = False) -> list[Finding]:
    """NATS, JetStream, streams, clock, actors and nodes."""
    try:
        own_inbox = client_inbox_prefix(config.user)
        await running.expect_listener(config)
        bus = await Bus.connect(msgspec.structs.replace(config, name="sollol-doctor", inbox_prefix=own_inbox))
    except (ConfigError, NotConnected) as error:
        found, _, remedy = error.message.partition(". ")
        remedy = f"{remedy[:1].lower()}{remedy[1:].removesuffix('.')}"
        problem = Finding(check="nats", level=Level.PROBLEM, found=found, remedy=remedy)
        return [problem, *(check_port(port, flag) for port, flag in _PORTS)]
    checks: tuple[Callable[[Bus], Coroutine[Any, Any, list[Finding]]], ...] = (
        _check_server,
        _check_jetstream,
        partial(check_kept, repair=repair),
        _check_actors,
        check_answers,
        _check_nodes,
        _check_models,
    )
    findings: list[Finding] = []
    try:
        if not await may_ask(bus):
            return [*await _check_server(bus), UNSEEN]
        for check in checks:
            try:
                findings.extend(await check(bus))
            except BusError as error:
                name = getattr(check, "__name__", "check_kept").removeprefix("_").removeprefix("check_")
                findings.append(
                    Finding(check=name, level=Level.PROBLEM, found=str(error), remedy="see the server's log")
                )
    finally:
        await bus.close()
    return findings


async def _check_server(bus: Bus) -> list[Finding]:
    rtt_s = await bus.measure_rtt()
    told = bus.nats.connected_server_version
    version = f"{told.major}.{told.minor}.{told.patch}"
    limit = bus.nats.max_payload
    found = f"{bus.config.url}: nats-server {version}, round trip {seconds(rtt_s)}, messages up to {limit >> 20} MiB"
    if limit < _LEAST_PAYLOAD_BYTES:
        remedy = "set `max_payload: 8MB` in the server's configuration, or long prompts and images are refused"
        return [Finding(check="nats", level=Level.WARNING, found=found, remedy=remedy)]
    return [Finding(check="nats", level=Level.OK, found=found)]


async def _check_jetstream(bus: Bus) -> list[Finding]:
    try:
        await bus.request(f"{bus.config.jetstream_api}.INFO", timeout_s=2.0)
    except NotPermitted:
        return [Finding(check="jetstream", level=Level.OK, found="not looked at: only the control role may")]
    except (NoResponders, RequestTimedOut):
        remedy = "make room on the server's disk, or switch it on: `jetstream {}` in the server's configuration"
        found = "JetStream does not answer: it is off, or rests on a full disk; requests go on, jobs are refused"
        if is_clustered(bus):
            found, remedy = f"JetStream does not answer: {NO_QUORUM}", ""
        return [Finding(check="jetstream", level=Level.PROBLEM, found=found, remedy=remedy)]
    findings = []
    names = (stores.EVENTS_STREAM, stores.RESULTS_STREAM, f"KV_{stores.NODES_BUCKET}", f"KV_{stores.OFFICES_BUCKET}")
    for name in names:
        msg = await bus.request(f"{bus.config.jetstream_api}.STREAM.INFO.{name}", timeout_s=2.0)
        now = wall_s()
        info = decode(msg.data, _StreamInfo)
        if info.error:
            remedy = "the actors make it when they start: `sollol up`"
            findings.append(Finding(check="stream", level=Level.WARNING, found=f"{name} is missing", remedy=remedy))
            continue
        size = f", {info.config.max_bytes >> 20} MiB at most" if info.config.max_bytes > 0 else ""
        findings.append(Finding(check="stream", level=Level.OK, found=f"{name}{size}"))
        if name == names[0] and info.ts:
            findings.append(clock_finding("this machine", now - parse_instant(info.ts)))
    return findings


def clock_finding(whose: str, ahead_s: float) -> Finding:
    """How a machine's clock stands to the server's."""
    found = f"{whose}: {abs(ahead_s):.3f} s {'ahead of' if ahead_s > 0 else 'behind'} the server's"
    if abs(ahead_s) > OFF_S:
        remedy = "synchronise it (NTP); what machines compare goes by the server's, but instants shown there are wrong"
        return Finding(check="clock", level=Level.WARNING, found=found, remedy=remedy)
    return Finding(check="clock", level=Level.OK, found=found)


async def _check_actors(bus: Bus) -> list[Finding]:
    seen = await find_services(bus)
    findings = [*check_offices(seen)]
    for role in _ROLES:
        versions = [s.version for s in seen if s.name == f"sollol-{role}"]
        if not versions:
            findings.append(
                Finding(
                    check="actor",
                    level=Level.PROBLEM,
                    found=f"no {role}",
                    remedy=f"start `sollol up` or `sollol {role}`",
                )
            )
            continue
        found = f"{len(versions)} {role}{'s' if len(versions) > 1 else ''}, version {', '.join(sorted(set(versions)))}"
        level = Level.OK if set(versions) == {VERSION} else Level.WARNING
        remedy = "" if level is Level.OK else f"this program is {VERSION}: bring all to one version"
        findings.append(Finding(check="actor", level=level, found=found, remedy=remedy))
    return findings + [clock_finding(f"{s.name} {s.id}", float(s.metadata[CLOCK_AHEAD_S])) for s in _wrong(seen)]


def check_offices(services: Iterable[Service]) -> Iterable[Finding]:
    """Offices that more than one holds."""
    remedy = "all actors must use one JetStream: name its domain to those at the other site, --nats-jetstream-domain"
    holders = [s for s in services if OFFICE_TERM in s.metadata]
    for name in sorted({s.name for s in holders}):
        ids = sorted(s.id for s in holders if s.name == name)
        if len(ids) > 1:
            role = name.removeprefix("sollol-")
            found = f"{len(ids)} are in office as {role}: {', '.join(ids)}; each answers every request"
            yield Finding(check="office", level=Level.PROBLEM, found=found, remedy=remedy)


def _wrong(services: Iterable[Service]) -> list[Service]:
    """Actors that say that their clock is wrong."""
    return [service for service in services if CLOCK_AHEAD_S in service.metadata]


async def _check_nodes(bus: Bus) -> list[Finding]:
    try:
        msg = await bus.request(subjects.NODES, timeout_s=2.0)
    except NoResponders:
        return []
    reply = decode(msg.data, NodesReply)
    if not reply.nodes:
        remedy = "start one beside each engine: sollol node --nats URL"
        return [Finding(check="node", level=Level.WARNING, found="none has joined", remedy=remedy)]
    findings = []
    for view in reply.nodes:
        told = view.telemetry
        engine = " ".join(filter(None, (told.engine.kind, told.engine.version)))
        found = f"{view.node_id} is {view.state.value}, {engine} at {told.engine.url}"
        level, remedy = Level.OK, ""
        if view.is_asleep:
            found = f"{view.node_id} is {view.condition}; a request that needs it wakes it, in {seconds(view.wake_s)}"
        elif view.has_left:
            found = f"{view.node_id} left {seconds(view.heartbeat_age_s)} ago, in order"
        elif not told.engine.is_reachable:
            level, found = Level.WARNING, f"{view.node_id} is {view.state.value}, without an engine"
            remedy = (
                f"{told.engine.url} does not answer {view.node_id} ({told.engine.detail}): start its engine, or --url"
            )
        elif view.state is not NodeState.UP:
            level, remedy = Level.WARNING, f"last heard of {seconds(view.heartbeat_age_s)} ago; look at its log"
        elif told.version not in ("", VERSION):
            level, remedy = Level.WARNING, f"it runs version {told.version}, this is {VERSION}"
        elif told.gpu_problem:
            level, remedy = Level.WARNING, f"{view.node_id}: {told.gpu_problem}"
        elif view.serialised:
            real = ", ".join(f"{count} of {model}" for model, count in sorted(view.serialised.items()))
            level, remedy = Level.WARNING, f"{view.node_id} has {told.slots} slots but runs {real} at a time: --slots"
        findings.append(Finding(check="node", level=level, found=found, remedy=remedy))
        if view.clock_ahead_s:
            findings.append(clock_finding(f"node {view.node_id}", view.clock_ahead_s))
    return [*findings, *alert_findings(reply.nodes)]


def alert_findings(views: Iterable[NodeView]) -> list[Finding]:
    """Nodes that are slower than they were, and GPUs whose memory others than their models fill."""
    return [
        Finding(check="node", level=Level.WARNING, found=alert.text, remedy=_REMEDIES[alert.kind])
        for alert in alerts(views)
        if alert.level is AlertLevel.WARNING and alert.kind in _REMEDIES
    ]


async def _check_models(bus: Bus) -> list[Finding]:
    try:
        msg = await bus.request(subjects.MODELS, timeout_s=2.0)
    except NoResponders:
        return []
    remedy = "pull it again where it is old, or give one of them another name and ask for that"
    return [
        Finding(check="model", level=Level.WARNING, found=text, remedy=remedy)
        for text in variants_of(decode(msg.data, ModelsReply))
    ]


def show_findings(findings: list[Finding]) -> None:
    """What was found, and a line for each thing that needs somebody."""
    show_table(("CHECK", "STATE", "FOUND"), ((f.check, f.level.value, f.found) for f in findings), is_last_wrapped=True)
    remedies = [f for f in findings if f.remedy]
    for finding in remedies:
        tell(f"{finding.check}: {finding.remedy}", indent="  ")
    if not remedies:
        say("everything is in order")
