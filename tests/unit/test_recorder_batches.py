"""How many lines the recorder writes at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from sollol_agents.lab.testing.messages import outcome
from sollol_agents.recorder import ingest
from sollol_agents.recorder.ingest import BATCH_MAX, Ingest
from sollol_agents.recorder.rows import Row
from sollol_agents.recorder.store import Store
from sollol_bus.jetstream.pull import Delivery
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects


class Told:
    """An outcome as the stream delivers it."""

    def __init__(self, number: int) -> None:
        self.subject = subjects.OUTCOME_EVENT.of("n1")
        self.data = encode(outcome(f"r{number}-1", "n1"))
        self.stored_at_ns = self.stream_seq = number
        self.is_acked = False

    def ack(self) -> None:
        """It is written."""
        self.is_acked = True


class Batches:
    """A database that counts lines, and what its writer waits for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *comes: int) -> None:
        """`comes` is how many outcomes come before the first wait, during it, during the second one, and so on."""
        self.written: list[int] = []
        self.waits = 0
        self._comes = comes
        self.told: list[Told] = []
        self.ingest = Ingest(cast("Store", self))
        monkeypatch.setattr(ingest, "happens", self._happens)

    async def write(self, rows: Sequence[Row]) -> None:
        """Takes a batch; the last one ends the writing."""
        self.written.append(len(rows))
        if sum(self.written) == sum(self._comes):
            self.ingest.close()

    async def run(self) -> None:
        """Writes all that comes."""
        self._come(0)
        async with asyncio.timeout(10):
            await self.ingest.run()

    def _come(self, when: int) -> None:
        for _ in range(self._comes[when] if when < len(self._comes) else 0):
            self.told.append(Told(len(self.told) + 1))
            self.ingest.take(cast("Delivery", self.told[-1]))

    async def _happens(self, event: asyncio.Event, within_s: float) -> bool:
        assert within_s > 0
        self.waits += 1
        self._come(self.waits)
        return event.is_set()


@pytest.mark.parametrize(
    ("comes", "written", "waits"),
    [
        ((3, 2), [5], 1),
        ((10, BATCH_MAX // 2, 200), [BATCH_MAX // 2 + 210], 2),
        ((10, BATCH_MAX // 2, BATCH_MAX), [BATCH_MAX, BATCH_MAX // 2 + 10], 4),
        ((BATCH_MAX,), [BATCH_MAX], 0),
    ],
    ids=["few", "many", "more than one batch", "full at once"],
)
async def test_a_batch_that_is_half_full_waits_once_more(
    monkeypatch: pytest.MonkeyPatch, comes: tuple[int, ...], written: list[int], waits: int
) -> None:
    batches = Batches(monkeypatch, *comes)
    await batches.run()
    assert batches.written == written
    assert batches.waits == waits
    assert all(told.is_acked for told in batches.told)


async def test_what_is_left_at_the_end_is_written_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: Any = Batches(monkeypatch, BATCH_MAX // 2 + 1)
    batches.ingest.close()
    await batches.run()
    assert (batches.written, batches.waits) == ([BATCH_MAX // 2 + 1], 0)
