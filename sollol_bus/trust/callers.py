"""Teams and ceilings of callers, read from what is kept of them. Pure.

Whoever decides follows the table and asks here; a caller that the table does not name has no ceilings and is a team of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from sollol_bus.errors import BadRequest
from sollol_schemas.callers import KEY_PREFIX, Standing, Standings, name_of_key, word_of
from sollol_schemas.ids import is_bus_id
from sollol_schemas.keys import ApiKey
from sollol_schemas.plain_words import in_plain_words

CALLERS_MAX: Final = 10_000
"""So many callers have a standing; beyond them those that are gone are forgotten."""
UNLIMITED: Final = Standing()
Change = Callable[[Standings], Standings]


class Roster:
    """The callers as they are now.

    Args:
        standings: What is kept.
    """

    def __init__(self, standings: Standings | None = None) -> None:
        self.standings = standings or Standings(callers={})
        self._name_of = {word_of(name): name for name in self.standings.callers}
        self._teams: dict[str, list[str]] = {}
        for name in self.standings.callers:
            self._teams.setdefault(self.team_of(name), []).append(name)

    def of(self, name: str) -> Standing:
        """A caller's standing."""
        return self.standings.callers.get(name, UNLIMITED)

    def name_of(self, word: str) -> str:
        """The caller of an opaque word; empty when the table does not name it."""
        return self._name_of.get(word, "")

    def team_of(self, name: str) -> str:
        """The team to which a caller belongs; without one, a team of its own name."""
        return self.of(name).team or name

    def words_beside(self, name: str) -> tuple[str, ...]:
        """The opaque words of everybody in a caller's team, itself included; in order."""
        return tuple(sorted({word_of(one) for one in (name, *self._teams.get(self.team_of(name), ()))}))

    def seen_by(self, name: str) -> tuple[str, ...] | None:
        """The opaque words of those whose requests a caller may know of; None: everybody's, as nobody's name says."""
        return None if not name or self.of(name).sees_all else self.words_beside(name)

    def priority_for(self, name: str, priority: int) -> int:
        """The priority that a caller's request has which asks for `priority`."""
        return min(priority, self.of(name).max_priority) if name else priority


def title_of(name: str, standing: Standing) -> str:
    """How a caller is told to people: with what they call it where that is another name."""
    return f"{name} ({standing.title})" if standing.title else name


def refusal_of_name(name: str) -> str:
    """Why a member cannot be called so; empty when it can."""
    if not is_bus_id(name):
        return f"{name!r} cannot be a name: 1 to 64 of A-Z a-z 0-9 _ - are allowed"
    if name.startswith(KEY_PREFIX):
        return f"{name!r} cannot be a member's name: API keys are called so"
    return ""


def standing_with(standing: Standing, **changes: object) -> Standing:
    """A standing with what is not None among `changes`.

    Raises:
        BadRequest: A value is outside its range.
    """
    fields = msgspec.structs.asdict(standing) | {name: value for name, value in changes.items() if value is not None}
    try:
        return msgspec.convert(fields, Standing)
    except msgspec.ValidationError as error:
        raise BadRequest(in_plain_words(str(error))) from error


def named(name: str, **changes: object) -> Change:
    """Gives a caller a standing, or changes the one it has; whoever was gone is back.

    Raises:
        BadRequest: By the change: a value is outside its range, or there are too many callers.
    """

    def change(standings: Standings) -> Standings:
        before = standings.callers.get(name, UNLIMITED)
        return _bounded(standings.callers | {name: standing_with(before, **changes, is_gone=False)})

    return change


def gone(name: str) -> Change:
    """Notes that a caller was revoked."""

    def change(standings: Standings) -> Standings:
        before = standings.callers.get(name, UNLIMITED)
        return _bounded(standings.callers | {name: msgspec.structs.replace(before, is_gone=True)})

    return change


def adopted(keys: Iterable[ApiKey]) -> Change:
    """Takes over the ceilings that older versions kept with the keys themselves."""

    def change(standings: Standings) -> Standings:
        new = {name_of_key(key.key_id): _standing_of(key) for key in keys}
        return _bounded(new | standings.callers)

    return change


def lacks(standings: Standings, keys: Iterable[ApiKey]) -> bool:
    """Whether some key has no standing yet."""
    return any(name_of_key(key.key_id) not in standings.callers for key in keys)


def _standing_of(key: ApiKey) -> Standing:
    return Standing(
        title=key.name,
        max_priority=key.max_priority,
        requests_per_minute=key.requests_per_minute,
        max_concurrent=key.max_concurrent,
    )


def _bounded(callers: dict[str, Standing]) -> Standings:
    surplus = len(callers) - CALLERS_MAX
    if surplus > 0:
        forgotten = [name for name, one in callers.items() if one.is_gone][:surplus]
        callers = {name: one for name, one in callers.items() if name not in set(forgotten)}
    if len(callers) > CALLERS_MAX:
        raise BadRequest(f"{CALLERS_MAX} callers have a team or ceilings already; revoke some")
    return Standings(callers=callers)
