"""Which job begins before which: priority and age on the live stack, in compressed time."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.sdk.jobs import make_job
from sollol_bus.transport.clock import wall_s
from sollol_schemas.jobs import JobNews

URGENT, LOW = 9, 2
CLOCK_S = 0.05
"""Ages are told in seconds since the store, by a clock that is compared with the server's now and then."""


async def stored_at(system: EmulatedSystem, job_id: str) -> float:
    """When the server stored the job, in seconds of Unix time: its age counts from then."""
    return datetime.fromisoformat((await system.client.jobs.get(job_id)).submitted_at).timestamp()


async def test_jobs_begin_in_order_of_priority_and_age_and_deferred_ones_last(tmp_path: Path) -> None:
    level_s = 0.5
    async with EmulatedSystem(tmp_path, slots=1, decode_tps=25, scorer=ScorerConfig(ageing_s=level_s)) as s:
        blocker = await s.count(500, job_id="blocker")
        await eventually(lambda: JobNews.RUNNING in s.news_of(blocker))
        priorities = {"deferred": 0, "old-low": LOW}
        for name, priority in priorities.items():
            await s.count(1, priority=priority, job_id=name)
        oldest = await stored_at(s, "old-low")

        await eventually(lambda: wall_s() > oldest + 2.4 * level_s)
        fresh = {"p3": 3, "p5": 5, "p9": 9, "p4": 4}
        for name, priority in fresh.items():
            await s.count(1, priority=priority, job_id=name)
        await eventually(lambda: all(JobNews.QUEUED in s.news_of(name) for name in fresh))
        await s.client.jobs.cancel(blocker)
        keys = {}
        for name, priority in (priorities | fresh).items():
            await s.client.wait_for_task(name, timeout_s=30)
            keys[name] = await stored_at(s, name) - level_s * priority
        keys["deferred"] = float("inf")
        expected = sorted(keys, key=lambda name: keys[name])
        assert s.began() == [blocker, *expected]
        assert expected.index("old-low") < expected.index("p3"), "age has overtaken priority"
        assert expected.index("p9") < expected.index("old-low"), "priority has come before age"


async def test_a_low_priority_is_never_overtaken_by_what_came_later_than_the_ageing_bound(tmp_path: Path) -> None:
    """A level in 0.3 s instead of 60: urgent work that never ends holds priority 2 up for 7 levels and no longer."""
    level_s = 0.3
    async with EmulatedSystem(tmp_path, slots=1, decode_tps=100, scorer=ScorerConfig(ageing_s=level_s)) as s:
        blocker = await s.count(500, job_id="blocker")
        await eventually(lambda: JobNews.RUNNING in s.news_of(blocker))
        await s.count(1, priority=LOW, job_id="low")
        sent = 0

        async def is_its_turn() -> bool:
            """Keeps thirty urgent jobs waiting until the low one has begun."""
            nonlocal sent
            begun = set(s.began())
            if "low" in begun:
                return True
            missing = 30 - (sent - len(begun - {"blocker"}))
            job = make_job({"model": MODEL, "prompt": "count down from 3"})
            names = [f"urgent-{sent + n}" for n in range(missing)]
            await s.client.jobs.submit_many([(name, job) for name in names], priority=URGENT)
            if sent == 0:
                await s.client.jobs.cancel(blocker)
            sent += len(names)
            return False

        await eventually(is_its_turn)
        bound_s = (URGENT - LOW) * level_s
        low = await stored_at(s, "low")
        before_it = s.began()[1 : s.began().index("low")]
        ages = [await stored_at(s, job_id) - low for job_id in before_it]
        assert max(ages) <= bound_s + CLOCK_S, "what came later than the bound waited"
        assert max(ages) > 0.5 * bound_s, "what came before the bound did not"


async def test_deferred_work_runs_only_when_nothing_else_waits(tmp_path: Path) -> None:
    """However old it is: priority 0 does not age."""
    async with EmulatedSystem(tmp_path, slots=1, decode_tps=100, scorer=ScorerConfig(ageing_s=0.01)) as s:
        blocker = await s.count(500, job_id="blocker")
        await eventually(lambda: JobNews.RUNNING in s.news_of(blocker))
        await s.count(1, priority="deferred", job_id="deferred")
        others = [await s.count(1, priority="batch") for _ in range(5)]
        await eventually(lambda: all(JobNews.QUEUED in s.news_of(name) for name in others))
        await s.client.jobs.cancel(blocker)
        await s.client.wait_for_task("deferred", timeout_s=30)
        assert s.began()[-1] == "deferred"
        assert set(s.began()[1:-1]) == set(others)
