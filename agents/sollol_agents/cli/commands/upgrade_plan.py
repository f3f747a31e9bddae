"""In which order a fleet is upgraded, what each restart does, and what is not safe yet: a pure view of what answered.

Whoever is asked goes before whoever asks: a process that speaks a newer contract then meets nobody who would misread
it. Where two of a kind are told apart, the one that stands by goes before the one in office.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from sollol_agents.cli.commands.findings import Finding, Level
from sollol_agents.cli.output import counted
from sollol_bus.transport.discovery import CONTRACT as TOLD_CONTRACT
from sollol_bus.transport.discovery import HELD, OFFICE, PROCESS, SHARES_PORT, STANDS_BY, Service
from sollol_bus.transport.discovery import OLDEST as TOLD_OLDEST
from sollol_bus.transport.topology import ServerTold
from sollol_bus.version import VERSION
from sollol_schemas.contract import CONTRACT, OLDEST, fits
from sollol_schemas.queries import NodeView
from sollol_schemas.telemetry import NodeState

SERVER: Final = "nats-server"
NODE: Final = "node"
ORDER: Final[Mapping[str, str]] = {
    SERVER: "its clients go to the others within a second; wait until every stream has all its copies",
    NODE: "hands its answers over, takes nothing new, and comes back under its id",
    "scorer": "requests wait until the next one is in office",
    "recorder": "events wait in JetStream; `why` and `stats` pause",
    "dispatcher": "hands on what has not begun; nodes finish what has",
    "gateway": "finishes what it serves within its drain_timeout_s; new connections need another",
    "dashboard": "open pages connect anew",
    "registrar": "nobody can join meanwhile",
}
"""What is restarted, in this order, and what happens then."""
_STANDS_BY: Final = "nothing: it stands by"
_ALONE: Final = "every connection breaks, and everything waits until it is back"
_RESUMES_SINCE: Final = 2
_MOST: Final = 3
_CLUSTER: Final = 3
"""With fewer servers nothing can be stored while one is away."""


class Peer(msgspec.Struct, frozen=True):
    """A server that keeps a copy of a stream."""

    name: str = ""
    current: bool = False
    offline: bool = False


class Copies(msgspec.Struct, frozen=True):
    """Which servers keep a stream."""

    leader: str = ""
    replicas: tuple[Peer, ...] = ()


class StreamConfig(msgspec.Struct, frozen=True):
    """What was asked for."""

    name: str
    num_replicas: int = 1


class StreamState(msgspec.Struct, frozen=True):
    """What it holds."""

    messages: int = 0


class StreamSeen(msgspec.Struct, frozen=True):
    """A stream, as JetStream lists it."""

    config: StreamConfig
    state: StreamState = StreamState()
    cluster: Copies | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What answered."""

    servers: Sequence[ServerTold] = ()
    silent: Sequence[str] = ()
    """Addresses of servers that do not answer here."""
    services: Sequence[Service] = ()
    nodes: Sequence[NodeView] = ()
    streams: Sequence[StreamSeen] | None = None
    """None: they may not be looked at."""
    jobs: int = 0
    """Jobs that wait or run."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One restart."""

    number: int
    what: str
    name: str
    where: str = ""
    version: str = ""
    contract: int = 0
    """0: it has none."""
    then: str = ""
    """What happens meanwhile."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to restart in which order, and whether nobody will notice."""

    is_safe: bool
    version: str
    contract: int
    steps: tuple[Step, ...]
    findings: tuple[Finding, ...]


def plan_of(seen: Seen) -> Plan:
    """The order for this fleet, and what stands against it."""
    findings = (*_versions(seen), *_servers(seen), *_streams(seen), *_actors(seen), *_nodes(seen))
    return Plan(
        is_safe=all(finding.level is not Level.PROBLEM for finding in findings),
        version=VERSION,
        contract=CONTRACT,
        steps=tuple(_steps(seen)),
        findings=findings,
    )


def _steps(seen: Seen) -> Iterator[Step]:
    then = _ALONE if len(seen.servers) == 1 else ""
    rows: list[Step] = [
        Step(number=0, what=SERVER, name=one.server_name, where=one.place, version=one.version, then=then)
        for one in seen.servers
    ]
    for view in _here(seen.nodes):
        told = view.telemetry
        rows.append(_row(NODE, view.node_id, told.host, told.version, told.contract))
    for role in ORDER:
        there = sorted(_of(seen, role), key=lambda one: (one.metadata.get(OFFICE) == HELD, one.id))
        for one in there:
            row = _row(role, one.id, _place(one), one.version, _contract(one))
            stands_by = one.metadata.get(OFFICE) == STANDS_BY
            rows.append(msgspec.structs.replace(row, then=_STANDS_BY) if stands_by else row)
    for number, row in enumerate(rows, 1):
        yield msgspec.structs.replace(row, number=number, then=row.then or ORDER[row.what])


def _row(what: str, name: str, where: str, version: str, contract: int) -> Step:
    return Step(number=0, what=what, name=name, where=where, version=version, contract=contract)


def _of(seen: Seen, role: str) -> list[Service]:
    return [] if role == NODE else [one for one in seen.services if one.name == f"sollol-{role}"]


def _here(nodes: Iterable[NodeView]) -> list[NodeView]:
    return sorted((one for one in nodes if one.state is not NodeState.DOWN), key=lambda one: one.node_id)


def _place(service: Service) -> str:
    return service.metadata.get(PROCESS, "").partition(":")[0]


def _contract(service: Service) -> int:
    told = service.metadata.get(TOLD_CONTRACT, "")
    return int(told) if told.isdecimal() else 1


def _oldest(service: Service) -> int:
    told = service.metadata.get(TOLD_OLDEST, "")
    return int(told) if told.isdecimal() else 1


def _versions(seen: Seen) -> Iterator[Finding]:
    """Whether this version may run beside each that runs, and which of those do not go on with answers yet."""
    told = [(f"{one.name.removeprefix('sollol-')} {one.id}", _contract(one), _oldest(one)) for one in seen.services]
    told = [one for one in told if not one[0].startswith(f"{NODE} ")]
    told += [(f"{NODE} {view.node_id}", view.telemetry.contract, 1) for view in _here(seen.nodes)]
    misfits = [name for name, speaks, oldest in told if not fits(speaks, oldest, beside=CONTRACT, beside_oldest=OLDEST)]
    if misfits:
        found = f"{_listed(misfits)} and this version ({VERSION}, contract {CONTRACT}) do not understand each other"
        remedy = "upgrade by way of a version between them, or stop everything, upgrade, and start it again"
        yield Finding(check="versions", level=Level.PROBLEM, found=found, remedy=remedy)
    else:
        spoken = ", ".join(str(number) for number in sorted({speaks for _, speaks, _ in told}))
        found = f"this version ({VERSION}, contract {CONTRACT}) may run beside all that run (contract {spoken or '-'})"
        yield Finding(check="versions", level=Level.OK, found=found)
    older = [name for name, speaks, _ in told if speaks < _RESUMES_SINCE]
    if older:
        found = f"{_listed(older)}: too old to hand answers over; what runs there has drain_timeout_s to end"
        remedy = "upgrade while few long answers run; the next upgrade is smooth"
        yield Finding(check="versions", level=Level.WARNING, found=found, remedy=remedy)


def _servers(seen: Seen) -> Iterator[Finding]:
    names = [one.server_name for one in seen.servers]
    found = f"{counted(len(names), 'server')}: {', '.join(names)}"
    if len(names) == 1 and not seen.servers[0].cluster:
        found = "one server: every connection breaks, and all waits until it is back; callers of plain NATS ask again"
        remedy = "restart it at once and while little runs; three servers in a cluster are restarted unnoticed"
        yield Finding(check="servers", level=Level.PROBLEM, found=found, remedy=remedy)
    elif len(names) < _CLUSTER:
        found += "; while one of them is away, nothing can be stored and no scorer can come into office"
        remedy = f"start what is missing: a cluster needs {_CLUSTER}"
        yield Finding(check="servers", level=Level.PROBLEM, found=found, remedy=remedy)
    else:
        yield Finding(check="servers", level=Level.OK, found=found)
    if seen.silent:
        found = f"no server answers at {_listed(seen.silent)}"
        remedy = "start it and wait before another is restarted; where only this machine cannot reach it, look there"
        yield Finding(check="servers", level=Level.PROBLEM, found=found, remedy=remedy)
    for one in seen.servers:
        if one.leaving:
            found = f"{one.server_name} is leaving (lame duck)"
            remedy = "wait until it is back before another is restarted"
            yield Finding(check="servers", level=Level.PROBLEM, found=found, remedy=remedy)
    versions = sorted({one.version for one in seen.servers})
    if len(versions) > 1:
        found = f"versions {', '.join(versions)}"
        yield Finding(check="servers", level=Level.WARNING, found=found, remedy="bring all servers to one version")


def _streams(seen: Seen) -> Iterator[Finding]:
    if seen.streams is None:
        found = "not looked at: only the control role may"
        yield Finding(check="streams", level=Level.WARNING, found=found, remedy="look again as an operator")
        return
    if not any(one.cluster for one in seen.servers):
        return
    single = [one.config.name for one in seen.streams if one.config.num_replicas < _CLUSTER]
    if single:
        found = f"{_listed(single)}: too few copies; away while their server is"
        remedy = f"nats stream edit NAME --replicas {_CLUSTER}, for each; `stream_replicas` makes new ones so"
        yield Finding(check="streams", level=Level.PROBLEM, found=found, remedy=remedy)
    behind = [one.config.name for one in seen.streams if _is_behind(one)]
    if behind:
        found = f"{_listed(behind)}: a copy is behind, or there is no leader"
        yield Finding(check="streams", level=Level.PROBLEM, found=found, remedy="wait until it has caught up")
    if not single and not behind:
        found = f"{counted(len(seen.streams), 'stream')}, all copies of each are there"
        yield Finding(check="streams", level=Level.OK, found=found)


def _is_behind(stream: StreamSeen) -> bool:
    if stream.cluster is None:
        return False
    return not stream.cluster.leader or any(peer.offline or not peer.current for peer in stream.cluster.replicas)


def _actors(seen: Seen) -> Iterator[Finding]:
    alone = {
        "scorer": (Level.WARNING, "requests wait while it restarts, within their deadlines"),
        "recorder": (Level.WARNING, "`why` and `stats` do not answer while it restarts; nothing is lost"),
        "dispatcher": (Level.PROBLEM, _alone_dispatcher(seen)),
        "gateway": (Level.PROBLEM, "connections are refused while it restarts"),
    }
    for role, (level, meanwhile) in alone.items():
        there = _of(seen, role)
        if not there:
            if role != "gateway":
                found = f"no {role}"
                yield Finding(check=role, level=Level.PROBLEM, found=found, remedy=f"start one: `sollol {role}`")
        elif len(there) > 1:
            yield Finding(check=role, level=Level.OK, found=counted(len(there), role))
        elif there[0].metadata.get(SHARES_PORT) == "yes":
            found = f"1 {role}, which shares its port: start the next before this one is stopped"
            yield Finding(check=role, level=Level.OK, found=found)
        else:
            yield Finding(check=role, level=level, found=f"1 {role}: {meanwhile}", remedy=_second(role))
    yield from _shared(seen)


def _alone_dispatcher(seen: Seen) -> str:
    jobs = f"; {counted(seen.jobs, 'job')} wait meanwhile" if seen.jobs else ""
    return f"callers of plain NATS are refused (503) while it restarts, all others wait{jobs}"


def _second(role: str) -> str:
    if role == "gateway":
        return "run it with `--reuse-port`, and the next beside it before it stops; or two behind what spreads the load"
    return f"start a second one before this one is stopped: `sollol {role}`"


def _shared(seen: Seen) -> Iterator[Finding]:
    """Actors that stop together because they are one process."""
    processes: dict[str, list[str]] = {}
    for one in seen.services:
        if one.metadata.get(PROCESS):
            processes.setdefault(one.metadata[PROCESS], []).append(one.name.removeprefix("sollol-"))
    for process, roles in sorted(processes.items()):
        left = [role for role in sorted(set(roles)) if len(_of(seen, role)) == roles.count(role)]
        if len(roles) > 1 and "dispatcher" in left:
            found = f"{', '.join(sorted(roles))} are one process ({process}), and stop together"
            remedy = "run a dispatcher, a scorer and a gateway beside it until it is back"
            yield Finding(check="process", level=Level.PROBLEM, found=found, remedy=remedy)


def _nodes(seen: Seen) -> Iterator[Finding]:
    here = [view for view in _here(seen.nodes) if not view.telemetry.is_draining]
    if not here:
        yield Finding(check="nodes", level=Level.PROBLEM, found="no node is up", remedy="start one: `sollol node`")
        return
    lonely: dict[str, list[str]] = {}
    mute: dict[str, list[str]] = {}
    for view in here:
        others = [other for other in here if other is not view]
        for model in view.telemetry.installed:
            alike = [m for o in others for m in o.telemetry.installed if m.name == model.name]
            if not alike:
                lonely.setdefault(view.node_id, []).append(model.name)
            elif not model.fingerprint or all(m.fingerprint != model.fingerprint for m in alike):
                mute.setdefault(view.node_id, []).append(model.name)
    for node_id, models in lonely.items():
        found = f"nobody but {node_id} has {_listed(models)}: answers there wait 15 s for it, others are refused"
        remedy = f"`sollol pull OTHER_NODE {models[0]}`, or restart {node_id} while nobody asks for it"
        yield Finding(check="nodes", level=Level.PROBLEM, found=found, remedy=remedy)
    for node_id, models in mute.items():
        found = f"no other node goes on with answers of {node_id} for {_listed(models)}: other weights, or an engine "
        found += "that cannot; they have drain_timeout_s to end"
        remedy = f"`sollol drain {node_id}` first, and restart it when nothing runs there"
        yield Finding(check="nodes", level=Level.WARNING, found=found, remedy=remedy)
    if not lonely and not mute:
        found = f"{counted(len(here), 'node')}, each with models that others go on with"
        yield Finding(check="nodes", level=Level.OK, found=found)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {more} more" if more > 0 else "")
