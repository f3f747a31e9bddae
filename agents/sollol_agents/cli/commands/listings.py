"""`sollol nodes`, `models`, `stats` and `reliability`: what the fleet is and what it did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from cyclopts import Parameter

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import gib, gigabytes, percent, say, seconds, show_json, show_table
from sollol_agents.cli.settings import of_commands
from sollol_bus.sdk.client import Client
from sollol_bus.transport.clock import far
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.queries import GroupStats, ModelsReply, NodesReply, NodeView, ReliabilityReply, StatsReply
from sollol_schemas.subjects import NO_NODE

T = TypeVar("T")

_CODES_SHOWN = 3


def listing(
    bus: BusConfig, log: LogConfig, ask: Callable[[Client], Awaitable[T]], show: Callable[[T], None], *, json_: bool
) -> int:
    """Asks one question and shows the answer as JSON or with `show`."""
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:
            reply = await ask(client)
        if json_:
            show_json(reply)
        else:
            show(reply)
        return 0

    return running.run(main)


@of_commands.for_clients()
def nodes(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists the nodes with health, slots, memory and loaded models."""
    return listing(bus, log, Client.nodes, show_nodes, json_=json_)


@of_commands.for_clients()
def models(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists every model of the fleet and where it is installed and loaded."""
    return listing(bus, log, Client.models, _show_models, json_=json_)


@of_commands.for_clients()
def stats(
    *,
    bus: BusConfig,
    log: LogConfig,
    window_s: Annotated[float, Parameter(help="Only what finished in the last so many seconds; 0: all.")] = 0.0,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Shows requests, success, latency and speed: in all, by mode and by node."""
    return listing(bus, log, lambda client: client.stats(window_s), show_stats, json_=json_)


@of_commands.for_clients()
def reliability(
    node: Annotated[str, Parameter(help="Only this node.")] = "",
    model: Annotated[str, Parameter(help="Only this model.")] = "",
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
    forget: Annotated[
        bool,
        Parameter(negative=(), help="Delete these outcomes and begin anew; needs a user of the control role."),
    ] = False,
) -> int:
    """Shows how reliable each node is, and each model on it."""

    async def ask(client: Client) -> ReliabilityReply:
        return await (client.forget_reliability if forget else client.reliability)(node, model)

    return listing(bus, log, ask, _show_reliability, json_=json_)


def show_nodes(reply: NodesReply) -> None:
    """The nodes as a table, and one line about the fleet."""
    headings: tuple[str, ...] = (
        "NODE",
        "STATE",
        "ENGINE",
        "BUSY",
        "GPU",
        "VRAM FREE",
        "LOAD",
        "RAM FREE",
        "LOADED",
        "SUCCESS",
        "SEEN",
    )
    numbers = ("BUSY", "VRAM FREE", "LOAD", "RAM FREE", "SUCCESS", "SEEN")
    rows = [_node_row(view) for view in reply.nodes]
    if any(_notes(view) for view in reply.nodes):
        headings = (*headings, "NOTES")
        rows = [(*row, _notes(view)) for row, view in zip(rows, reply.nodes, strict=True)]
    show_table(headings, rows, numbers=numbers)
    say(f"{len(reply.nodes)} nodes, {reply.in_flight} in flight, {reply.queued} waiting, strategy {reply.strategy}")


def _notes(view: NodeView) -> str:
    """What an operator has set on a node, and a clock that is wrong; empty when all is as it comes."""
    told = view.telemetry
    weight = [f"weight {told.weight:g}"] if told.weight != 1 else []
    clock = [f"clock {far(view.clock_ahead_s)} the server's"] if view.clock_ahead_s else []
    return ", ".join([*clock, *weight, *(f"{name}={value}" for name, value in sorted(told.labels.items()))])


def _node_row(view: NodeView) -> tuple[str, ...]:
    told = view.telemetry
    engine = f"{told.engine.kind} {told.engine.version}".strip()
    if not told.engine.is_reachable:
        engine += f" ({told.engine.detail or 'unreachable'})"
    free_mib, total_mib = sum(g.memory_free_mib for g in told.gpus), sum(g.memory_total_mib for g in told.gpus)
    return (
        view.node_id,
        "left" if view.has_left else view.state.value,
        engine,
        f"{view.in_flight}/{told.slots}" + (f" (runs {min(view.serialised.values())})" if view.serialised else ""),
        ", ".join(dict.fromkeys(g.name for g in told.gpus)) or "-",
        f"{gib(free_mib)}/{gib(total_mib)} GiB" if told.gpus else "-",
        percent(told.cpu_load_ratio) if told.cpu_count else "-",
        f"{gib(told.ram_available_mib)} GiB" if told.ram_total_mib else "-",
        ", ".join(m.name for m in told.loaded) or "-",
        percent(view.success_ratio),
        seconds(view.heartbeat_age_s),
    )


def _show_models(reply: ModelsReply) -> None:
    rows = [
        (
            m.name,
            gigabytes(m.size_bytes),
            m.family or "-",
            m.quantization or "-",
            str(m.context_length or "-"),
            ", ".join(m.installed_on),
            ", ".join(m.loaded_on) or "-",
        )
        for m in reply.models
    ]
    headings = ("MODEL", "SIZE", "FAMILY", "QUANT", "CONTEXT", "INSTALLED ON", "LOADED ON")
    show_table(headings, rows, numbers=("SIZE", "CONTEXT"))
    for text in variants_of(reply):
        say(text)


def variants_of(reply: ModelsReply) -> list[str]:
    """What nodes have under one name that is not the same, in a line for each name."""
    return [
        f"{m.name} is not the same everywhere: "
        + "; ".join(f"{what} on {', '.join(nodes)}" for what, nodes in sorted(m.variants.items()))
        for m in reply.models
        if m.variants
    ]


def show_stats(reply: StatsReply) -> None:
    """The statistics as one line about the fleet and one table."""
    if (fleet_now := reply.fleet) is not None:
        say(
            f"{fleet_now.nodes_up} of {fleet_now.nodes_total} nodes up ({fleet_now.nodes_gpu} GPU, "
            f"{fleet_now.nodes_cpu} CPU), {fleet_now.in_flight} of {fleet_now.slots} slots busy, "
            f"{fleet_now.queued} waiting"
        )
    groups = [("all", reply.total)]
    groups += [(f"mode {name}", group) for name, group in sorted(reply.by_mode.items())]
    groups += [
        ("no node" if name == NO_NODE else f"node {name}", group) for name, group in sorted(reply.by_node.items())
    ]
    headings = ("GROUP", "ATTEMPTS", "OK", "FAILED", "CANCELLED", "SUCCESS", "P50", "P95", "P99", "TOKENS", "TOK/S")
    show_table(headings, (_stats_row(name, group) for name, group in groups), numbers=headings[1:])


def _stats_row(name: str, group: GroupStats) -> tuple[str, ...]:
    latency = group.latency
    return (
        name,
        str(group.requests),
        str(group.successes),
        str(group.failures),
        str(group.cancelled),
        percent(group.success_ratio),
        seconds(latency.p50_s),
        seconds(latency.p95_s),
        seconds(latency.p99_s),
        str(group.output_tokens),
        f"{group.tokens_per_second:.1f}",
    )


def _show_reliability(reply: ReliabilityReply) -> None:
    rows = []
    for entry in reply.entries:
        codes = sorted(entry.failures_by_code.items(), key=lambda item: -item[1])[:_CODES_SHOWN]
        times = sorted(entry.recent_s)
        rows.append(
            (
                entry.node_id,
                entry.model or "(all)",
                str(entry.attempts),
                percent(entry.success_ratio),
                percent(entry.success_lower_bound),
                str(entry.failures),
                str(entry.timeouts),
                ", ".join(f"{code} {count}" for code, count in codes) or "-",
                seconds(times[len(times) // 2]) if times else "-",
                f"{entry.dispersion:.2f}" if entry.dispersion is not None else "-",
                percent(entry.uptime_ratio) if entry.uptime_ratio is not None else "-",
                seconds(entry.up_for_s) if entry.up_for_s is not None else "-",
            )
        )
    headings = (
        "NODE",
        "MODEL",
        "ATTEMPTS",
        "SUCCESS",
        "PROVEN",
        "FAILED",
        "TIMEOUTS",
        "HOW",
        "MEDIAN",
        "DISPERSION",
        "UPTIME",
        "UP FOR",
    )
    show_table(headings, rows, numbers=tuple(h for h in headings if h not in ("NODE", "MODEL", "HOW")))
