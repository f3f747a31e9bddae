"""What is believed of the size of waiting requests, the same for all that are alike.

Requests of one kind (class, type of task, prompt size) are ranked by one belief, so that a later one never passes an
equal one that came before only because something was learnt in between. When what would be believed now has moved by
half, everything of the kind that waits is judged anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from sollol_agents.scorer.choice.waiting import Belief, Waiting


class _Kind:
    __slots__ = ("belief", "members")

    def __init__(self, belief: Belief) -> None:
        self.belief = belief
        self.members: dict[str, Waiting] = {}


class Beliefs:
    """Beliefs by kind, each kept while something of its kind waits."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}

    def of(self, waiting: Waiting) -> Belief | None:
        """What the requests like this one that wait are ranked by; None when none waits."""
        kind = self._kinds.get(waiting.kind_key)
        return kind.belief if kind is not None else None

    def add(self, waiting: Waiting) -> None:
        """A request waits, ranked as others of its kind that wait already."""
        kind = self._kinds.get(waiting.kind_key)
        if kind is None:
            kind = self._kinds[waiting.kind_key] = _Kind(waiting.belief)
        kind.members[waiting.request_id] = waiting

    def remove(self, waiting: Waiting) -> None:
        """A request waits no more."""
        kind = self._kinds[waiting.kind_key]
        del kind.members[waiting.request_id]
        if not kind.members:
            del self._kinds[waiting.kind_key]

    def replace(self, waiting: Waiting, belief: Belief) -> list[Waiting]:
        """Believes something else of a kind; returns all of it that waits."""
        kind = self._kinds[waiting.kind_key]
        kind.belief = belief
        return list(kind.members.values())

    def examples(self) -> Iterator[tuple[Waiting, Belief]]:
        """One waiting request of every kind, with what is believed of it."""
        for kind in list(self._kinds.values()):
            yield next(iter(kind.members.values())), kind.belief
