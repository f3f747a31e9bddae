"""Teams and ceilings on the command line: the flags that set them, and how they are shown."""

from __future__ import annotations

from typing import Annotated, Final

from sollol_agents.cli.declared import Parameter
from sollol_schemas.callers import Standing
from sollol_schemas.routing import PRIORITY_NAMES

TeamFlag = Annotated[str | None, Parameter(help="Its team; who is in none is a team of its own.")]
PriorityFlag = Annotated[str | None, Parameter(help="Highest priority of its requests, 0 to 10 or a name.")]
PerMinuteFlag = Annotated[float | None, Parameter(help="Requests per minute; 0: no ceiling.")]
ConcurrentFlag = Annotated[int | None, Parameter(help="Requests open at a time; 0: no ceiling.")]
JobsFlag = Annotated[int | None, Parameter(help="Jobs that wait or run; 0: no ceiling.")]
SeesAllFlag = Annotated[bool | None, Parameter(help="Told of everybody's requests by `why`, `recent` and `usage`.")]

HEADINGS: Final = ("TEAM", "MAX PRIORITY", "PER MINUTE", "CONCURRENT", "JOBS")


def given(
    team: str | None,
    max_priority: str | None,
    per_minute: float | None,
    concurrent: int | None,
    jobs: int | None,
    *,
    sees_all: bool | None = None,
) -> dict[str, object]:
    """What was said of a caller, by field of `Standing`."""
    highest = None if max_priority is None else PRIORITY_NAMES.get(max_priority.lower(), max_priority)
    fields = {
        "team": team,
        "max_priority": None if highest is None else int(highest) if str(highest).isdigit() else -1,
        "requests_per_minute": per_minute,
        "max_concurrent": concurrent,
        "max_jobs": jobs,
        "sees_all": sees_all,
    }
    return {name: value for name, value in fields.items() if value is not None}


def columns(team: str, standing: Standing) -> tuple[str, ...]:
    """A caller's team and ceilings, as `HEADINGS` names them."""
    return (
        team,
        str(standing.max_priority),
        f"{standing.requests_per_minute:g}" if standing.requests_per_minute else "-",
        str(standing.max_concurrent or "-"),
        str(standing.max_jobs or "-"),
    )
