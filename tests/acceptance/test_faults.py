"""A scorer that stops, a server of three that dies, a link between two sites that is cut: streams, calls and jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("bench.faults", reason="the benchmarks are not part of the wheel")

from bench.faults.cases import FEW, SMALL, play

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]


@pytest.mark.parametrize("stage", ["three", "sites"])
async def test_nothing_hangs_and_no_job_is_lost_or_answered_twice(
    stage: str, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    rows = [row async for row in play(stage, [case for case in FEW if case.stage == stage], SMALL, tmp_path)]
    for row in rows:
        told = ("errors", "service_s", "calm_s", "stream_gap_s", "jobs_settled_s", "work_doubled")
        figure(f"{row['case']}: " + ", ".join(f"{name} {row[name]}" for name in told))
    for row in rows:
        bad = {name: row[name] for name in ("hangs", "wrong", "jobs_lost", "jobs_wrong", "results_doubled")}
        assert not any(bad.values()), f"{row['case']}: {bad}"
        assert row["is_healed"], row["case"]
        assert row["jobs"] == SMALL.jobs
