"""What callers and teams have used, and what it cost: sums over recorded requests. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from sollol_bus.trust.callers import Roster
from sollol_schemas.prices import significant
from sollol_schemas.queries import Usage, UsageBy
from sollol_schemas.subjects import NO_NODE

_REQUEST: Final = "CASE WHEN job_id <> '' THEN 'job ' || job_id ELSE request_id END"
_NEXT: Final = "CASE WHEN lead(continued_tokens) OVER chain > 0 THEN lead(continued_tokens) OVER chain END"
"""What was heard of an answer when the next attempt went on with it; NULL: none did."""
_OUTPUT: Final = (
    f"coalesce(max(0, {_NEXT} - continued_tokens), output_tokens) "
    "+ iif(lag(number) OVER chain IS NULL, continued_tokens, 0)"
)
"""Each token of an answer counts once: of an attempt that another one went on with, what that one had of it, be it lost
without a word or be it that it came to its own end unheard; and what was said before by attempts nobody told of."""
_READ: Final = "max(prompt_tokens - continued_tokens) OVER (chain ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"
_PROMPT: Final = (
    f"CASE WHEN continued_tokens > 0 THEN iif(lag(number) OVER chain IS NULL, {_READ}, 0) "
    f"WHEN prompt_tokens = 0 AND {_NEXT} IS NOT NULL THEN {_READ} ELSE prompt_tokens END"
)
"""Who goes on with an answer reads a prompt that counts already, unless who read it first was lost without a word."""
_WANTED: Final = "recorded_at >= ?1 AND (?2 IS NULL OR caller IN (SELECT value FROM json_each(?3)))"
_WENT_ON: Final = "IN (SELECT request_id FROM outcomes WHERE continued_tokens > 0)"
_OWN: Final = "SELECT caller, job_id, request_id, node_id, model, recorded_at, verdict, slot_s"
_COUNTED: Final = (
    f"{_OWN}, prompt_tokens AS prompt, output_tokens AS output FROM outcomes "
    f"WHERE {_WANTED} AND request_id NOT {_WENT_ON} UNION ALL "
    f"{_OWN}, {_PROMPT}, {_OUTPUT} FROM outcomes WHERE {_WANTED} AND request_id {_WENT_ON} "
    "WINDOW chain AS (PARTITION BY caller, request_id ORDER BY number)"
)
"""Attempts with the tokens that count of each. Few answers go on: only those are looked at as chains."""
ANY_EXPENSE: Final = (
    "SELECT 1 FROM outcomes WHERE recorded_at >= ? AND (expense IS NOT NULL OR energy_j IS NOT NULL) LIMIT 1"
)
"""Whether anything is known of money or energy since an instant."""


class UsageRow(NamedTuple):
    """Sums over the requests of one caller, and of one model, day or node where that was asked for."""

    caller: str
    """As an opaque word."""
    model: str
    day: str
    requests: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    slot_s: float
    node: str = ""


class ExpenseRow(NamedTuple):
    """What the same cost, in one currency."""

    caller: str
    model: str
    day: str
    node: str
    currency: str
    expense: float
    energy_j: float
    priced_s: float
    """Seconds of slots of which the expense is known."""
    metered_s: float
    """Those of which the energy is."""


def usage_sql(by: Collection[UsageBy]) -> str:
    """The question for rows; its parameters are the instant since when, and twice the callers as JSON or NULL."""
    model = "max(model)" if UsageBy.MODEL in by else "''"
    day = "date(max(recorded_at), 'unixepoch')" if UsageBy.DAY in by else "''"
    node = "node_id" if UsageBy.NODE in by else "''"
    return (
        "SELECT caller, model, day, count(*), sum(NOT is_served AND NOT is_cancelled), "  # noqa: S608 our own texts
        "sum(prompt_tokens), sum(output_tokens), total(slot_s), node FROM ("
        f"SELECT caller, {model} AS model, {day} AS day, {node} AS node, max(verdict = 'success') AS is_served, "
        "max(verdict = 'cancelled') AS is_cancelled, total(prompt) AS prompt_tokens, total(output) AS output_tokens, "
        f"sum(slot_s) AS slot_s FROM ({_COUNTED}) GROUP BY caller, {_REQUEST}, {node}"
        ") GROUP BY caller, model, day, node"
    )


def expense_sql(by: Collection[UsageBy]) -> str:
    """The question for what that cost, with the same parameters: a request has one model and day, as there."""
    model = "max(model) OVER w" if UsageBy.MODEL in by else "''"
    day = "date(max(recorded_at) OVER w, 'unixepoch')" if UsageBy.DAY in by else "''"
    node = "node_id" if UsageBy.NODE in by else "''"
    return (
        "SELECT caller, model, day, node, currency, total(expense), total(energy_j), "  # noqa: S608 our own texts
        "total(CASE WHEN expense IS NOT NULL THEN slot_s END), total(CASE WHEN energy_j IS NOT NULL THEN slot_s END) "
        f"FROM (SELECT caller, {model} AS model, {day} AS day, {node} AS node, currency, expense, energy_j, slot_s "
        f"FROM outcomes WHERE {_WANTED} WINDOW w AS (PARTITION BY caller, {_REQUEST}, {node})"
        ") GROUP BY caller, model, day, node, currency"
    )


class _Sum:
    """What one entry comes to."""

    def __init__(self) -> None:
        self.figures = [0.0] * 5
        self.expenses: dict[str, float] = defaultdict(float)
        self.energy_j = self.priced_s = self.metered_s = 0.0

    def add(self, row: UsageRow, costs: Iterable[ExpenseRow]) -> None:
        """Adds one row, with what it cost."""
        more = (row.requests, row.failed, row.prompt_tokens, row.output_tokens, row.slot_s)
        self.figures = [a + b for a, b in zip(self.figures, more, strict=True)]
        for cost in costs:
            if cost.priced_s or cost.expense:
                self.expenses[cost.currency] += cost.expense
            self.energy_j += cost.energy_j
            self.priced_s += cost.priced_s
            self.metered_s += cost.metered_s


Key = tuple[str, str, str, str, str]
"""Team, caller, model, day and node of an entry."""


def usage_of(
    rows: Iterable[UsageRow], roster: Roster, by: Collection[UsageBy], expenses: Iterable[ExpenseRow] = ()
) -> tuple[Usage, ...]:
    """The sums for what is asked for, in order of team, caller, model, day and node; words become names where known."""
    costs: Mapping[tuple[str, ...], list[ExpenseRow]] = defaultdict(list)
    for cost in expenses:
        costs[cost.caller, cost.model, cost.day, cost.node].append(cost)
    sums: dict[Key, _Sum] = defaultdict(_Sum)
    for row in rows:
        caller = roster.name_of(row.caller) or row.caller
        team = roster.team_of(caller) if by and (UsageBy.TEAM in by or UsageBy.CALLER in by) else ""
        key = (
            team,
            caller if UsageBy.CALLER in by else "",
            row.model,
            row.day,
            "" if row.node == NO_NODE else row.node,
        )
        sums[key].add(row, costs.get((row.caller, row.model, row.day, row.node), ()))
    return tuple(_usage(key, found, roster) for key, found in sorted(sums.items(), key=lambda one: one[0]))


def _usage(key: Key, found: _Sum, roster: Roster) -> Usage:
    team, caller, model, day, node = key
    requests, failed, prompt_tokens, output_tokens, slot_s = found.figures
    return Usage(
        team=team,
        caller=caller,
        title=roster.of(caller).title if caller else "",
        model=model,
        day=day,
        node=node,
        requests=int(requests),
        failed=int(failed),
        prompt_tokens=int(prompt_tokens),
        output_tokens=int(output_tokens),
        slot_s=round(slot_s, 3),
        energy_j=round(found.energy_j, 3),
        expenses={currency: significant(amount) for currency, amount in sorted(found.expenses.items())},
        unpriced_s=round(max(0.0, slot_s - found.priced_s), 3),
        unmetered_s=round(max(0.0, slot_s - found.metered_s), 3),
    )
