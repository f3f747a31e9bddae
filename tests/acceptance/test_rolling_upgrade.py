"""A whole fleet is restarted, one process after the other and each of three servers: nobody who asks notices.

The long form is a benchmark.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.restarts import Load
from bench.rolling import CONTROL, SERVERS, Cluster, upgraded
from sollol_agents.cli import exit_codes
from sollol_agents.lab.testing.processes import sollol

NODES = ("attic", "desk")
LOAD = Load(streams=10, short=0, stream_words=40, ways=("sdk", "http"))

pytestmark = [pytest.mark.shutdown]


async def test_a_rolling_upgrade_leaves_no_trace(tmp_path: Path, figure: Callable[[str], None]) -> None:
    async with Cluster(tmp_path, actors=(*NODES, *CONTROL), slots=20, decode_tps=20) as stage:
        row = await upgraded(stage, (*SERVERS, *NODES, *CONTROL), random.Random(1), LOAD)
        told = await sollol(stage.fleet.nats_url, "upgrade", "--check", "--json")
    figure(
        f"{row['restarts']} restarts, {row['answered']} answers and {row['asked']} questions, longest silence in an "
        f"answer {row['gap_s']} s"
    )
    assert (told.code, told.json["is_safe"]) == (exit_codes.OK, True), told.out
    assert row["answered"] >= LOAD.streams
    assert [row[name] for name in ("cut", "errors", "hangs", "lost", "doubled")] == [0] * 5, row["what"]
