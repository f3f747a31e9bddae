"""The node's own slots: the truth about what it may run. What finds none free is refused, never queued."""

from __future__ import annotations

from collections.abc import Collection


class SlotTable:
    """Who holds a slot. Taking and giving back go by attempt id, so a slot can neither leak twice nor be freed twice.

    Args:
        limit: How many attempts run at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(0, limit)
        self._model_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._model_of)

    @property
    def limit(self) -> int:
        """How many attempts run at a time; after it was lowered, more may still be running."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = max(0, limit)

    @property
    def attempts(self) -> Collection[str]:
        """Who holds a slot, oldest first."""
        return self._model_of.keys()

    def take(self, attempt_id: str, model: str, *, model_limit: int = 0) -> bool:
        """Takes a slot; False when none is free for this model, or the attempt holds one already.

        Args:
            attempt_id: Who takes it.
            model: For what.
            model_limit: How many attempts of this model may run at a time; 0: as many as there are slots.
        """
        if attempt_id in self._model_of or len(self._model_of) >= self._limit:
            return False
        if model_limit and sum(1 for other in self._model_of.values() if other == model) >= model_limit:
            return False
        self._model_of[attempt_id] = model
        return True

    def release(self, attempt_id: str) -> bool:
        """Gives a slot back; False when the attempt held none."""
        return self._model_of.pop(attempt_id, None) is not None
