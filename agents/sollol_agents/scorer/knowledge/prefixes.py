"""A mirror of the prefix caches in an engine's slots: which prompt beginnings a node still holds.

Engines keep one sequence per slot (and a few in host memory) and drop them when the model is unloaded. The
mirror keeps as many entries, least recently used first out, and answers how many prompt tokens a request
would not have to read again.
"""

from __future__ import annotations

from collections import OrderedDict

_EXTRA_ENTRIES = 4  # long prompts that the engine keeps beside its slots


class PrefixMirror:
    """Prefixes of one node, by model."""

    __slots__ = ("_by_model",)

    def __init__(self) -> None:
        self._by_model: dict[str, OrderedDict[str, tuple[int, frozenset[str]]]] = {}

    def hit_tokens(self, model: str, session_id: str | None, hashes: tuple[str, ...], tokens: tuple[int, ...]) -> int:
        """Prompt tokens that the node has cached for this request; 0 when none."""
        entries = self._by_model.get(model)
        if not entries:
            return 0
        best = 0
        for _, known in entries.values():
            for i in range(len(hashes) - 1, -1, -1):
                if hashes[i] in known:
                    best = max(best, tokens[i] if i < len(tokens) else 0)
                    break
        if best == 0 and not hashes and session_id is not None and session_id in entries:
            return entries[session_id][0]
        return best

    def entries(self) -> dict[str, list[tuple[str, int, tuple[str, ...]]]]:
        """Key, tokens and hashes of every entry by model, least recently used first."""
        return {
            model: [(key, tokens, tuple(sorted(hashes))) for key, (tokens, hashes) in entries.items()]
            for model, entries in self._by_model.items()
        }

    def replace(self, by_model: dict[str, list[tuple[str, int, tuple[str, ...]]]]) -> None:
        """Takes over what another process mirrored, in the form of `entries`."""
        self._by_model = {
            model: OrderedDict((key, (tokens, frozenset(hashes))) for key, tokens, hashes in entries)
            for model, entries in by_model.items()
        }

    def would_evict_tokens(self, model: str, key: str, slots: int) -> int:
        """Tokens of the entry that a new one would push out; 0 when there is room."""
        entries = self._by_model.get(model)
        if not entries or key in entries or len(entries) < slots + _EXTRA_ENTRIES:
            return 0
        return next(iter(entries.values()))[0]

    def remember(self, model: str, key: str, total_tokens: int, hashes: tuple[str, ...], slots: int) -> None:
        """Notes that a sequence of this request now lies in the cache."""
        entries = self._by_model.setdefault(model, OrderedDict())
        entries[key] = (total_tokens, frozenset(hashes))
        entries.move_to_end(key)
        while len(entries) > slots + _EXTRA_ENTRIES:
            entries.popitem(last=False)

    def forget(self, model: str) -> None:
        """The model was unloaded: its caches are gone."""
        self._by_model.pop(model, None)
