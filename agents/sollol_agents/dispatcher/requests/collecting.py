"""Which requests go together, and when: a request that is alone goes at once. Pure.

While nothing of its kind is under way a request is not kept for a moment. While something is, those that come wait for
each other, a few milliseconds at most, and no longer once nothing of their kind is under way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

KINDS_MAX: Final = 256
"""Kinds of which something waits at one time; what comes beyond them goes alone."""


class Collector(Generic[K, T]):
    """Collects members by kind.

    Args:
        window_s: How long a member waits for others at most.
        texts_max: A collection of so many texts goes at once.
        tokens_max: So does one of so many tokens.
    """

    def __init__(self, *, window_s: float, texts_max: int, tokens_max: int) -> None:
        self._window_s = window_s
        self._texts_max = texts_max
        self._tokens_max = tokens_max
        self._under_way: Counter[K] = Counter()
        self._waiting: dict[K, _Waiting[T]] = {}

    def __len__(self) -> int:
        """Members that wait."""
        return sum(len(one.members) for one in self._waiting.values())

    def offer(self, key: K, member: T, *, texts: int, tokens: int, now: float) -> bool:
        """Whether a new member waits for others; otherwise it is under way from now on."""
        waiting = self._waiting.get(key)
        if waiting is None and (not self._under_way[key] or len(self._waiting) >= KINDS_MAX):
            self._under_way[key] += 1
            return False
        if waiting is None:
            waiting = self._waiting[key] = _Waiting(now + self._window_s)
        elif waiting.texts + texts > self._texts_max or waiting.tokens + tokens > self._tokens_max:
            self._under_way[key] += 1
            return False
        waiting.members.append(member)
        waiting.texts += texts
        waiting.tokens += tokens
        if waiting.texts >= self._texts_max or waiting.tokens >= self._tokens_max:
            waiting.due_at = now
        return True

    def withdraw(self, key: K, member: T) -> None:
        """A member that waits goes with nobody any more; of any other nothing happens."""
        waiting = self._waiting.get(key)
        if waiting is None or member not in waiting.members:
            return
        waiting.members.remove(member)
        if not waiting.members:
            del self._waiting[key]

    def began(self, key: K) -> None:
        """One more of this kind is under way."""
        self._under_way[key] += 1

    def ended(self, key: K) -> None:
        """One less is under way; with the last one nobody waits any more."""
        self._under_way[key] -= 1
        if self._under_way[key] > 0:
            return
        del self._under_way[key]
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.due_at = -math.inf

    def due(self, now: float) -> list[tuple[K, list[T]]]:
        """The collections that go now; each is under way from now on."""
        found = [(key, one.members) for key, one in self._waiting.items() if one.due_at <= now]
        for key, _ in found:
            del self._waiting[key]
            self._under_way[key] += 1
        return found

    def next_at(self) -> float:
        """When the next collection is due; infinite while none waits."""
        return min((one.due_at for one in self._waiting.values()), default=math.inf)


class _Waiting(Generic[T]):
    def __init__(self, due_at: float) -> None:
        self.due_at = due_at
        self.members: list[T] = []
        self.texts = 0
        self.tokens = 0
