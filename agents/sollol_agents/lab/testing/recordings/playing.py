"""Plays the cases of a recording, one after the other, and counts by group what is answered as recorded."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from sollol_agents.lab.testing.recordings.compare import ADDED_ROW, Volatile, differences
from sollol_agents.lab.testing.recordings.exchange import Reply, exchange
from sollol_agents.lab.testing.recordings.form import Case, CaseStep

Json = Any

_WITHIN_S: Final = 10.0
_EXPIRY_TOLERANCE_S: Final = 2.0
_FOR_EVER_S: Final = 1e6
ADDED_BY_GATEWAY: Final = frozenset({"_sollol_routing", "nodes", "node_id", "models", ADDED_ROW})
"""Fields that the gateway says in its document it adds to what an engine answers."""
TALKERS: Final = frozenset({"smollm2"})
"""Models whose words are no rule: of what they say everything but the text is compared."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one case went; no differences means as recorded."""

    name: str
    group: str
    differences: tuple[str, ...]


async def play_case(case: Case, url: str, added: frozenset[str] = frozenset()) -> Outcome:
    """Plays one case against the engine at `url`; returns where it differs, but for the fields `added`."""
    found: list[str] = []
    models = set[str]().union(*(step.request.models() for step in case.steps))
    for place, step in enumerate(case.steps):
        try:
            reply = await exchange(url, step.request.raw(), within_s=_WITHIN_S)
        except OSError as error:
            found.append(f"step {place}: {error}")
            break
        # the rows of other models depend on what ran before
        rows = (f"/steps/{place}/response/body/models",) if "ps" in step.derived else ()
        volatile = Volatile(case.volatile + rows, place, is_talk=_is_talk(step), added=added)
        found += (f"step {place}: {one}" for one in differences(step.response, reply, volatile, path=step.request.path))
        if "ps" in step.derived and reply.status == 200:
            found += (f"step {place}: {one}" for one in _ps_differences(step.derived["ps"], reply, models))
    return Outcome(name=case.name, group=case.group, differences=tuple(found))


async def play_cases(url: str, cases: Iterable[Case], added: frozenset[str] = frozenset()) -> list[Outcome]:
    """Plays cases one after the other; returns how each went, but for the fields `added`."""
    return [await play_case(case, url, added) for case in cases]


def _is_talk(step: CaseStep) -> bool:
    return any(name.partition(":")[0] in TALKERS for name in step.request.models())


def _ps_differences(expected: list[dict[str, Json]], reply: Reply, models: set[str]) -> Iterator[str]:
    """Yields what is different in the rows of the models that this case names; other rows depend on what ran before."""
    rows = ps_rows(bytes(reply.body))
    wanted = {row["name"]: row for row in expected}
    for name in sorted(models):
        yield from row_differences(name, wanted.get(name), rows.get(name))


def ps_rows(body: bytes) -> dict[str, dict[str, Json]]:
    """Returns the rows of /api/ps by name, with the seconds until each expires."""
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 the engine's own clock
    rows = {}
    for model in msgspec.json.decode(body)["models"]:
        stamp = model["expires_at"][:26].removesuffix("Z")
        expires_at = dt.datetime.fromisoformat(stamp).replace(tzinfo=dt.UTC)
        rows[model["name"]] = model | {"expires_in_s": (expires_at - now).total_seconds()}
    return rows


def row_differences(name: str, wanted: dict[str, Json] | None, found: dict[str, Json] | None) -> Iterator[str]:
    """Yields how one row of /api/ps differs: whether it is there, its context, its expiry within two seconds."""
    if wanted is None or found is None:
        if wanted is not found:
            yield f"ps {'shows' if wanted is None else 'lacks'} {name}"
        return
    if wanted["context_length"] != found["context_length"]:
        yield f"ps: context_length of {name} {found['context_length']} for {wanted['context_length']}"
    expires_in_s = found["expires_in_s"]
    if isinstance(wanted["expires_in_s"], str):
        is_right = expires_in_s > _FOR_EVER_S
    else:
        is_right = abs(expires_in_s - wanted["expires_in_s"]) <= _EXPIRY_TOLERANCE_S
    if not is_right:
        yield f"ps: {name} expires in {expires_in_s:.1f} s for {wanted['expires_in_s']}"


def table(outcomes: Iterable[Outcome]) -> str:
    """Returns cases and passed by group, as text."""
    counts: dict[str, list[int]] = {}
    for one in outcomes:
        count = counts.setdefault(one.group, [0, 0])
        count[0] += 1
        count[1] += not one.differences
    lines = [f"{group:<14} {passed:>4} of {cases:>4}" for group, (cases, passed) in sorted(counts.items())]
    cases, passed = (sum(column) for column in zip(*counts.values(), strict=True))
    return "\n".join([*lines, f"{'all':<14} {passed:>4} of {cases:>4}"])
