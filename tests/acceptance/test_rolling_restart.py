"""Every kind of actor is restarted with SIGTERM under load: nobody who asks notices. The long form is a benchmark."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.restarts import Load, Restart, Stage, run

ACTORS = ("gateway-1", "dispatcher-1", "dispatcher-2", "scorer-1", "scorer-2", "recorder-1", "attic", "desk")
STEPS = (
    (Restart("dispatcher-1"), Restart("recorder-1", is_hurried=True)),
    (Restart("dispatcher-2", is_hurried=True), Restart("scorer-1", is_hurried=True)),
    (Restart("gateway-1"), Restart("attic")),
)
LOAD = Load(streams=6, short=24, stream_words=40, short_words=20)

pytestmark = [pytest.mark.shutdown]


async def test_a_rolling_restart_costs_no_caller_an_answer(tmp_path: Path, figure: Callable[[str], None]) -> None:
    async with Stage(tmp_path, actors=ACTORS, slots=6, decode_tps=40) as stage:
        row = await run(stage, STEPS, random.Random(1), LOAD)
    figure(f"{row['answered']} answers, longest silence in one {row['gap_s']} s, longest wait {row['wait_s']} s")
    assert row["answered"] >= LOAD.streams + LOAD.short
    assert [row[name] for name in ("cut", "errors", "hangs", "lost", "doubled")] == [0] * 5, row["what"]
