"""`sollol usage` and `sollol audit`: who has used how much, and what operators did."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import show_table, tell
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.questions import ask_actor
from sollol_bus.transport.connection import BusConfig
from sollol_schemas import prices, subjects
from sollol_schemas.acts import Act, ActsReply, ActsRequest
from sollol_schemas.queries import Usage, UsageBy, UsageRequest

CsvFlag = Annotated[
    bool, Parameter(name="--csv", has_negative=False, show_default=False, help="Print CSV, for spreadsheets.")
]
Since = Annotated[str, Parameter(help="Only the last so long: 90m, 12h, 7d; empty: all that is kept.")]
Row = dict[str, Any]
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_FIGURES: Final = ("requests", "failed", "prompt_tokens", "output_tokens", "slot_s")
_COSTS: Final = ("energy_wh", "expenses")
_UNKNOWN: Final = ("unmetered_s", "unpriced_s")
_MORE: Final = " +?"
_COLUMNS: Final = {
    UsageBy.TEAM: ("team",),
    UsageBy.CALLER: ("team", "caller", "title"),
    UsageBy.MODEL: ("model",),
    UsageBy.DAY: ("day",),
    UsageBy.NODE: ("node",),
}


@of_commands.for_clients()
def usage(
    *,
    bus: BusConfig,
    log: LogConfig,
    since: Since = "",
    by: Annotated[
        list[Literal["team", "caller", "model", "day", "node"]] | None,
        Parameter(help="What it is told by; repeat it for several. Days are those of UTC."),
    ] = None,
    watch: of_commands.WatchFlag = False,
    csv_: CsvFlag = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Shows requests, tokens, seconds of slots, energy and money, by team, caller, model, node or day.

    A client is told of its own team. Tries of a job count as one request. What no price or power is known for is not in
    the sums: `+?` marks them.
    """
    asked = UsageRequest(since_s=seconds_in(since), by=tuple(UsageBy(one) for one in by or ("caller",)))

    async def ask(client: Client) -> list[Row]:
        return usage_rows((await client.usage(asked)).entries, asked.by)

    return listing(bus, log, ask, show_csv if csv_ else show_usage, json_=json_, is_watched=watch)


@of_commands.for_clients()
def audit(
    *,
    bus: BusConfig,
    log: LogConfig,
    since: Since = "",
    watch: of_commands.WatchFlag = False,
    csv_: CsvFlag = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Shows what operators did: who, what, when and from where, the latest first; for operators."""
    asked = ActsRequest(since_s=seconds_in(since))

    async def ask(client: Client) -> list[Row]:
        return act_rows((await ask_actor(client.bus, subjects.ADMIN_ACTS, asked, ActsReply)).acts)

    return listing(bus, log, ask, show_csv if csv_ else show_acts, json_=json_, is_watched=watch)


def usage_rows(entries: Sequence[Usage], by: Sequence[UsageBy]) -> list[Row]:
    """What is told of each entry: by what it was asked for, and the figures."""
    columns = [*dict.fromkeys(name for one in UsageBy if one in by for name in _COLUMNS[one]), *_FIGURES]
    return [{name: getattr(one, name) for name in columns} | _costs(one) for one in entries]


def _costs(one: Usage) -> Row:
    """Energy and money as far as they are known, and the seconds for which they are not."""
    return {
        "energy_wh": round(one.energy_j / 3600.0, 4) if one.energy_j else None,
        "expenses": one.expenses or None,
        "unmetered_s": one.unmetered_s,
        "unpriced_s": one.unpriced_s,
    }


def act_rows(acts: Sequence[Act]) -> list[Row]:
    """What is told of each act."""
    return [
        {
            "at": one.at,
            "who": one.by.who,
            "act": one.act,
            "target": one.target,
            "details": ", ".join(f"{name}={value}" for name, value in one.details.items()),
            "host": one.by.host,
            "address": one.by.address,
        }
        for one in acts
    ]


def show_usage(rows: Sequence[Row]) -> None:
    """Who has used how much, as a table."""
    if not rows:
        tell("nothing was used in that time")
        return
    shown = [_shown(row) for row in rows]
    hidden = {name for name in _COSTS if not any(row[name] for row in shown)}
    names = [name for name in shown[0] if name not in hidden]
    show_table(
        [_heading(name) for name in names],
        [[_cell(row[name]) for name in names] for row in shown],
        numbers=[_heading(name) for name in (*_FIGURES, *_COSTS)],
        first_to_go=[_heading(name) for name in ("title", "failed", "prompt_tokens", "team", "slot_s", "energy_wh")],
    )


def _shown(row: Row) -> Row:
    """The row as a person reads it: what is missing in a sum is marked behind it."""
    told = {name: value for name, value in row.items() if name not in _UNKNOWN}
    energy_wh, expenses = row["energy_wh"], row["expenses"]
    told["energy_wh"] = "" if energy_wh is None else f"{energy_wh:,.2f}{_MORE if row['unmetered_s'] else ''}"
    told["expenses"] = f"{_money(expenses)}{_MORE if row['unpriced_s'] else ''}" if expenses else ""
    return told


def _money(expenses: dict[str, float]) -> str:
    return " + ".join(prices.told(amount, currency) for currency, amount in expenses.items())


def show_acts(rows: Sequence[Row]) -> None:
    """What operators did, as a table; times are those of UTC."""
    if not rows:
        tell("operators did nothing in that time")
        return
    headings = ["AT (UTC)", *(_heading(name) for name in rows[0] if name != "at")]
    show_table(
        headings,
        [[_second(row["at"]), *(_cell(value) for name, value in row.items() if name != "at")] for row in rows],
        numbers=["AT (UTC)"],
        first_to_go=["ADDRESS", "HOST", "DETAILS"],
    )


def show_csv(rows: Sequence[Row]) -> None:
    """The same for spreadsheets: instants whole, numbers without separators."""
    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _money(v) if isinstance(v, dict) else v for name, v in row.items()} for row in rows)


def _heading(name: str) -> str:
    return name.replace("_", " ").upper()


def _second(instant: str) -> str:
    return instant[:19].replace("T", " ")


def seconds_in(text: str) -> float:
    """The seconds that a text like `7d` means; 0 for an empty one.

    Raises:
        ConfigError: It means none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if text and found is None:
        raise ConfigError(f"{text!r} is no time: say 90s, 30m, 12h or 7d")
    return float(found[1]) * _SECONDS[found[2]] if found else 0.0


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return str(value or "-")
