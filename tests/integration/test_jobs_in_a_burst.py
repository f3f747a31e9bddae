"""Jobs of one priority that come in one burst begin in the order in which they were stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from sollol_agents.lab.emulator import FaultKind
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.sdk.jobs import make_job
from sollol_bus.transport.messages import Msg, decode
from sollol_schemas import subjects
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.jobs import JobNews

WINDOW = 64


def inversions(order: list[int]) -> int:
    """How many pairs came the wrong way round."""
    return sum(earlier > later for n, earlier in enumerate(order) for later in order[n + 1 :])


@pytest.mark.parametrize("count", [WINDOW, WINDOW + 1, 5 * WINDOW])
async def test_a_burst_is_decided_in_the_order_of_storing(tmp_path: Path, count: int) -> None:
    """One slot, so that nothing but the order counts; a job that hardly moves holds it until the window is full."""
    async with EmulatedSystem(tmp_path, slots=1) as s:
        s.fault(FaultKind.SLOW, factor=400)
        blocker = await s.count(500, job_id="blocker")
        await eventually(lambda: JobNews.RUNNING in s.news_of(blocker))
        order: dict[int, None] = {}

        def on_decision(msg: Msg) -> None:
            name = decode(msg.data, DecisionEvent).decision.job_id
            if name.startswith("job-"):
                order.setdefault(int(name.removeprefix("job-")))

        async def is_window_full() -> bool:
            return (await s.client.nodes()).queued >= min(count, WINDOW) - 1

        s.client.bus.subscribe(subjects.ROUTING_EVENT.all, on_decision)
        job = make_job({"model": MODEL, "prompt": "count down from 1"})
        await s.client.jobs.submit_many([(f"job-{n}", job) for n in range(count)])
        await eventually(is_window_full)
        await s.client.jobs.cancel(blocker)
        await eventually(lambda: len(order) == count, within_s=120, complaint="all are decided")
        wrong = inversions(list(order))
        assert wrong == 0, f"{wrong} pairs came the wrong way round: {list(order)[:150]}"
