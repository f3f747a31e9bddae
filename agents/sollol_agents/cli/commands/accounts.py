"""`sollol usage` and `sollol audit`: who has used how much, and what operators did."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import show_json, show_table
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.questions import ask_actor
from sollol_bus.transport.connection import BusConfig
from sollol_schemas import subjects
from sollol_schemas.acts import ActsReply, ActsRequest
from sollol_schemas.queries import Usage, UsageBy, UsageRequest

Output = Annotated[
    Literal["table", "json", "csv"], Parameter(name=("--output", "-o"), help="How it is printed: table, json or csv.")
]
Since = Annotated[str, Parameter(help="Only the last so long: 90m, 12h, 7d; empty: all that is kept.")]
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_FIGURES: Final = ("requests", "failed", "prompt_tokens", "output_tokens", "slot_s")
_COLUMNS: Final = {
    UsageBy.TEAM: ("team",),
    UsageBy.CALLER: ("team", "caller", "title"),
    UsageBy.MODEL: ("model",),
    UsageBy.DAY: ("day",),
}


@of_commands.for_clients()
def usage(
    *,
    bus: BusConfig,
    log: LogConfig,
    since: Since = "",
    by: Annotated[
        list[Literal["team", "caller", "model", "day"]] | None,
        Parameter(negative_iterable=(), help="What it is told by; repeat it for several. Days are those of UTC."),
    ] = None,
    output: Output = "table",
) -> int:
    """Shows requests, tokens and seconds of slots, by team, caller, model or day.

    A client is told of its own team. Tries of a job count as one request.

    Example:
        sollol usage --since 30d --by team --by day -o csv
    """
    asked = UsageRequest(since_s=seconds_in(since), by=tuple(UsageBy(one) for one in by or ("caller",)))
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:
            reply = await client.usage(asked)
        _show(reply.entries, _columns(asked.by), output)
        return 0

    return running.run(main)


@of_commands.for_clients()
def audit(*, bus: BusConfig, log: LogConfig, since: Since = "", output: Output = "table") -> int:
    """Shows what operators did: who, what, when and from where, the latest first; for operators."""
    asked = ActsRequest(since_s=seconds_in(since))
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:
            reply = await ask_actor(client.bus, subjects.ADMIN_ACTS, asked, ActsReply)
        rows = [
            {
                "at": one.at,
                "who": one.by.who,
                "act": one.act,
                "target": one.target,
                "host": one.by.host,
                "address": one.by.address,
                "details": ", ".join(f"{name}={value}" for name, value in one.details.items()),
            }
            for one in reply.acts
        ]
        _print(rows, ["at", "who", "act", "target", "host", "address", "details"], output)
        return 0

    return running.run(main)


def seconds_in(text: str) -> float:
    """The seconds that a text like `7d` means; 0 for an empty one.

    Raises:
        ConfigError: It means none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if text and found is None:
        raise ConfigError(f"{text!r} is no time: say 90s, 30m, 12h or 7d")
    return float(found[1]) * _SECONDS[found[2]] if found else 0.0


def _columns(by: Sequence[UsageBy]) -> list[str]:
    return [*dict.fromkeys(name for one in UsageBy if one in by for name in _COLUMNS[one]), *_FIGURES]


def _show(entries: Sequence[Usage], columns: Sequence[str], output: str) -> None:
    _print([{name: getattr(one, name) for name in columns} for one in entries], columns, output)


def _print(rows: Sequence[dict[str, Any]], columns: Sequence[str], output: str) -> None:
    match output:
        case "json":
            show_json(msgspec.to_builtins(rows))
        case "csv":
            writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        case _:
            headings = [name.replace("_", " ").upper() for name in columns]
            numbers = [heading for heading, name in zip(headings, columns, strict=True) if name in _FIGURES]
            show_table(headings, [[_cell(value) for value in row.values()] for row in rows], numbers=numbers)


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return str(value or "-")
