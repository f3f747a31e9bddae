"""`sollol nodes`, `models`, `stats` and `reliability`: what the fleet is and what it did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, NoReturn, TypeVar

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.exit_codes import line_of
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import (
    clear,
    counted,
    gib,
    gib_of_bytes,
    is_terminal,
    note,
    percent,
    seconds,
    show_json,
    show_json_line,
    show_table,
    tell,
)
from sollol_agents.cli.settings import of_commands
from sollol_agents.fleet_view.gpus import short_gpus
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.transport.clock import far
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.queries import (
    GroupStats,
    Latency,
    ModelsReply,
    NodesReply,
    NodeView,
    ReliabilityReply,
    ReliabilityView,
    StatsReply,
)
from sollol_schemas.subjects import NO_NODE

T = TypeVar("T")

_CODES_SHOWN = 3
_MODELS_SHOWN = 6
_WATCHED_EVERY_S = 2.0


def listing(
    bus: BusConfig,
    log: LogConfig,
    ask: Callable[[Client], Awaitable[T]],
    show: Callable[[T], None],
    *,
    json_: bool,
    is_watched: bool = False,
) -> int:
    """Asks one question and shows the answer as JSON or with `show`; again and again when it is watched."""
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:
            if is_watched:
                await _watch(client, ask, show_json_line if json_ else show)
            reply = await ask(client)
        if json_:
            show_json(reply)
        else:
            show(reply)
        return 0

    return running.run(main)


async def _watch(client: Client, ask: Callable[[Client], Awaitable[T]], show: Callable[[T], None]) -> NoReturn:
    """Shows the answer in the place of the last one; who does not answer is asked again."""
    while True:
        try:
            reply = await ask(client)
        except SollolError as error:
            note(line_of(error))
        else:
            if is_terminal():
                clear()
            show(reply)
        await asyncio.sleep(_WATCHED_EVERY_S)


@of_commands.for_clients()
def nodes(
    *, bus: BusConfig, log: LogConfig, watch: of_commands.WatchFlag = False, json_: of_commands.JsonFlag = False
) -> int:
    """Lists the nodes with health, slots, memory and loaded models."""
    return listing(bus, log, Client.nodes, show_nodes, json_=json_, is_watched=watch)


@of_commands.for_clients()
def models(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists every model of the fleet and where it is installed and loaded."""
    return listing(bus, log, Client.models, show_models, json_=json_)


@of_commands.for_clients()
def stats(
    *,
    bus: BusConfig,
    log: LogConfig,
    window_s: Annotated[float, Parameter(help="Only what finished in the last so many seconds; 0: all.")] = 0.0,
    watch: of_commands.WatchFlag = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Shows requests, success, latency and speed: in all, by mode and by node."""
    return listing(bus, log, lambda client: client.stats(window_s), show_stats, json_=json_, is_watched=watch)


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
        Parameter(has_negative=False, help="Delete these outcomes and begin anew; needs a user of the control role."),
    ] = False,
) -> int:
    """Shows how reliable each node is, and each model on it."""

    async def ask(client: Client) -> ReliabilityReply:
        return await (client.forget_reliability if forget else client.reliability)(node, model)

    return listing(bus, log, ask, show_reliability, json_=json_)


def show_nodes(reply: NodesReply) -> None:
    """The nodes as a table, and one line about the fleet."""
    headings: tuple[str, ...] = (
        "NODE",
        "STATE",
        "BUSY",
        "GPU",
        "GIB FREE",
        "LOADED",
        "SUCCESS",
        "ENGINE",
        "LOAD",
        "RAM GIB",
        "SEEN",
    )
    numbers = ("BUSY", "GIB FREE", "LOAD", "RAM GIB", "SUCCESS", "SEEN")
    rows = [_node_row(view) for view in reply.nodes]
    if any(_notes(view) for view in reply.nodes):
        headings = (*headings, "NOTES")
        rows = [(*row, _notes(view)) for row, view in zip(rows, reply.nodes, strict=True)]
    show_table(
        headings,
        rows,
        numbers=numbers,
        first_to_go=("LOAD", "RAM GIB", "SEEN", "ENGINE", "SUCCESS", "NOTES"),
        empty="no node has joined; `sollol node` starts one beside an engine here",
    )
    here = sum(not view.has_left for view in reply.nodes)
    tell(
        f"{counted(here, 'node')}{_remark(reply)}, {reply.in_flight} in flight, {reply.queued} waiting, "
        f"strategy {reply.strategy}"
    )


def _remark(reply: NodesReply) -> str:
    """How many of the listed are no nodes of use, and why."""
    kinds = [view.condition for view in reply.nodes]
    told = [(kinds.count("no engine"), "without an engine")]
    told += [(kinds.count(away), away) for away in ("asleep", "waking", "left")]
    words = ", ".join(f"{count} {word}" for count, word in told if count)
    return f" ({words})" if words else ""


def _notes(view: NodeView) -> str:
    """What an operator has set on a node, and a clock that is wrong; empty when all is as it comes."""
    told = view.telemetry
    weight = [f"weight {told.weight:g}"] if told.weight != 1 else []
    clock = [f"clock {far(view.clock_ahead_s)} the server's"] if view.clock_ahead_s else []
    price = [told.price_in_words] if told.price.is_known else []
    return ", ".join([*clock, *weight, *price, *(f"{name}={value}" for name, value in sorted(told.labels.items()))])


def _node_row(view: NodeView) -> tuple[str, ...]:
    told = view.telemetry
    engine = f"{told.engine.kind} {told.engine.version}".strip()
    if not told.engine.is_reachable:
        engine += f" ({told.engine.detail or 'unreachable'})"
    free_mib, total_mib = sum(g.memory_free_mib for g in told.gpus), sum(g.memory_total_mib for g in told.gpus)
    return (
        view.node_id,
        view.condition,
        f"{view.in_flight}/{told.slots}" + (f" (runs {min(view.serialised.values())})" if view.serialised else ""),
        short_gpus(g.name for g in told.gpus) or "-",
        f"{gib(free_mib)}/{gib(total_mib)}" if told.gpus else "-",
        ", ".join(m.name for m in told.loaded) or "-",
        percent(view.success_ratio) if view.attempts else "-",
        engine,
        f"{told.cpu_load_ratio:.2f}" if told.cpu_count else "-",
        f"{gib(told.ram_available_mib)}/{gib(told.ram_total_mib)}" if told.ram_total_mib else "-",
        seconds(view.heartbeat_age_s),
    )


def show_models(reply: ModelsReply) -> None:
    """The models as a table, and a line for each name that is not the same everywhere."""
    rows = [
        (
            m.name,
            gib_of_bytes(m.size_bytes),
            m.quantization or "-",
            ", ".join(m.installed_on) or "-",
            ", ".join(m.loaded_on) or "-",
            "(group)" if m.members else m.family or "-",
            str(m.context_length or "-"),
        )
        for m in reply.models
    ]
    headings = ("MODEL", "SIZE", "QUANT", "INSTALLED ON", "LOADED ON", "FAMILY", "CONTEXT")
    empty = "no models; `sollol pull NODE MODEL` fetches one to a node"
    show_table(headings, rows, numbers=("SIZE", "CONTEXT"), empty=empty)
    for text in (*variants_of(reply), *groups_of(reply)):
        tell(text, indent="  ")


def groups_of(reply: ModelsReply) -> list[str]:
    """Which names stand for several models, in a line for each."""
    groups = [m for m in reply.models if m.members]
    return [f"{m.name} is a group: {_first_of(m.members)}" for m in groups]


def _first_of(names: Sequence[str]) -> str:
    more = len(names) - _MODELS_SHOWN
    return ", ".join(names[:_MODELS_SHOWN]) + (f" and {more} more" if more > 0 else "")


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
        tell(
            f"{fleet_now.nodes_up} of {counted(fleet_now.nodes_total, 'node')} up ({fleet_now.nodes_gpu} GPU, "
            f"{fleet_now.nodes_cpu} CPU), {fleet_now.in_flight} of {counted(fleet_now.slots, 'slot')} busy, "
            f"{fleet_now.queued} waiting"
        )
    groups = [("all", reply.total)]
    groups += [(f"mode {name}", group) for name, group in sorted(reply.by_mode.items())]
    groups += [
        ("no node" if name == NO_NODE else f"node {name}", group) for name, group in sorted(reply.by_node.items())
    ]
    headings = (
        *("GROUP", "REQUESTS", "ATTEMPTS", "OK", "FAILED", "CANCELLED", "SUCCESS"),
        *("TTFT P50", "TTFT P95", "P50", "P95", "P99", "TOKENS", "TOK/S"),
    )
    show_table(
        headings,
        (_stats_row(name, group) for name, group in groups),
        numbers=headings[1:],
        first_to_go=("TOKENS", "P99", "CANCELLED", "TTFT P95", "OK", "ATTEMPTS", "TOK/S", "P95", "FAILED", "TTFT P50"),
    )


def _stats_row(name: str, group: GroupStats) -> tuple[str, ...]:
    """One line; what was not measured is nothing, not 0 and not all of it."""
    latency = group.latency
    first = group.first_token

    def time(value: float, measured: Latency) -> str:
        return seconds(value) if measured.count else "-"

    return (
        name,
        str(group.first_attempts) if group.first_attempts else "-",
        str(group.requests),
        str(group.successes),
        str(group.failures),
        str(group.cancelled),
        percent(group.success_ratio) if group.successes or group.failures else "-",
        time(first.p50_s, first),
        time(first.p95_s, first),
        time(latency.p50_s, latency),
        time(latency.p95_s, latency),
        time(latency.p99_s, latency),
        str(group.output_tokens) if group.output_tokens else "-",
        f"{group.tokens_per_second:.1f}" if group.tokens_per_second else "-",
    )


def show_reliability(reply: ReliabilityReply) -> None:
    """The record of each node and of each model on it."""
    headings = (
        *("NODE", "MODEL", "ATTEMPTS", "SUCCESS", "PROVEN", "FAILED", "TIMEOUTS"),
        *("HOW", "MEDIAN", "DISPERSION", "UPTIME", "UP FOR"),
    )
    show_table(
        headings,
        map(_reliability_row, reply.entries),
        numbers=[h for h in headings if h not in ("NODE", "MODEL", "HOW")],
        first_to_go=("DISPERSION", "TIMEOUTS", "UPTIME", "HOW", "UP FOR", "MEDIAN", "FAILED"),
        empty="nothing was asked yet; `sollol generate MODEL PROMPT` asks",
    )


def _reliability_row(entry: ReliabilityView) -> tuple[str, ...]:
    codes = sorted(entry.failures_by_code.items(), key=lambda item: -item[1])[:_CODES_SHOWN]
    times = sorted(entry.recent_s)
    return (
        entry.node_id,
        entry.model or "(all)",
        str(entry.attempts),
        percent(entry.success_ratio) if entry.attempts else "-",
        percent(entry.success_lower_bound) if entry.attempts else "-",
        str(entry.failures),
        str(entry.timeouts),
        ", ".join(f"{code} {count}" for code, count in codes) or "-",
        seconds(times[len(times) // 2]) if times else "-",
        f"{entry.dispersion:.2f}" if entry.dispersion is not None else "-",
        percent(entry.uptime_ratio) if entry.uptime_ratio is not None else "-",
        seconds(entry.up_for_s) if entry.up_for_s is not None else "-",
    )
