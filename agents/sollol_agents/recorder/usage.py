"""What callers and teams have used: sums over recorded requests. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from sollol_bus.trust.callers import Roster
from sollol_schemas.queries import Usage, UsageBy


class UsageRow(NamedTuple):
    """Sums over the requests of one caller, and of one model or day where that was asked for."""

    caller: str
    """As an opaque word."""
    model: str
    day: str
    requests: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    slot_s: float


def usage_sql(*, with_model: bool, with_day: bool) -> str:
    """The question for rows; its parameters are the instant since when, and twice the callers as JSON or NULL."""
    model = "max(model)" if with_model else "''"
    day = "date(max(recorded_at), 'unixepoch')" if with_day else "''"
    return (
        "SELECT caller, model, day, count(*), sum(NOT is_served AND NOT is_cancelled), "  # noqa: S608 our own texts
        "sum(prompt_tokens), sum(output_tokens), total(slot_s) FROM ("
        f"SELECT caller, {model} AS model, {day} AS day, max(verdict = 'success') AS is_served, "
        "max(verdict = 'cancelled') AS is_cancelled, sum(prompt_tokens) AS prompt_tokens, "
        "sum(output_tokens) AS output_tokens, sum(slot_s) AS slot_s FROM outcomes "
        "WHERE recorded_at >= ? AND (? IS NULL OR caller IN (SELECT value FROM json_each(?))) "
        "GROUP BY caller, CASE WHEN job_id <> '' THEN 'job ' || job_id ELSE request_id END"
        ") GROUP BY caller, model, day"
    )


def usage_of(rows: Iterable[UsageRow], roster: Roster, by: Collection[UsageBy]) -> tuple[Usage, ...]:
    """The sums for what is asked for, in order of team, caller, model and day; words become names where known."""
    sums: dict[tuple[str, str, str, str], list[float]] = {}
    for row in rows:
        caller = roster.name_of(row.caller) or row.caller
        key = (
            roster.team_of(caller) if by and (UsageBy.TEAM in by or UsageBy.CALLER in by) else "",
            caller if UsageBy.CALLER in by else "",
            row.model,
            row.day,
        )
        before = sums.setdefault(key, [0.0] * 5)
        figures = (row.requests, row.failed, row.prompt_tokens, row.output_tokens, row.slot_s)
        sums[key] = [a + b for a, b in zip(before, figures, strict=True)]
    return tuple(
        Usage(
            team=team,
            caller=caller,
            title=roster.of(caller).title if caller else "",
            model=model,
            day=day,
            requests=int(figures[0]),
            failed=int(figures[1]),
            prompt_tokens=int(figures[2]),
            output_tokens=int(figures[3]),
            slot_s=round(figures[4], 3),
        )
        for (team, caller, model, day), figures in sorted(sums.items())
    )
