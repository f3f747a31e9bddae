"""Tasks that serve one attempt after another."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sollol_agents.node.attempts.workers import Workers
from sollol_bus.waiting import end

Task = asyncio.Task[Any]


class Floor:
    """Owns tasks, and notes which of them served what."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.served: list[tuple[str, Task]] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.workers = Workers(self.spawn, self.serve, "attempts")

    def spawn(self, coroutine: Coroutine[Any, Any, Any], *, name: str) -> Task:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.tasks.append(task)
        return task

    async def serve(self, item: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.served.append((item, task))
        try:
            if item in self.gates:
                await self.gates[item].wait()
        except asyncio.CancelledError:
            if item.startswith("stopped"):
                return  # as an attempt that is torn from its engine ends in order
            raise


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_one_task_serves_one_thing_after_another_and_two_at_once_have_two() -> None:
    floor = Floor()
    for item in ("a", "b", "c"):
        floor.workers.take(item)
        await turns()
    assert [item for item, _ in floor.served] == ["a", "b", "c"]
    assert len(floor.tasks) == 1
    floor.gates["slow"] = asyncio.Event()
    floor.workers.take("slow")
    floor.workers.take("d")
    await turns()
    assert len(floor.tasks) == 2
    assert floor.served[-1][0] == "d"
    floor.gates["slow"].set()
    await turns()
    await end(floor.tasks)


async def test_a_task_that_was_torn_from_what_it_served_serves_nothing_more() -> None:
    floor = Floor()
    floor.gates["stopped"] = asyncio.Event()
    floor.workers.take("stopped")
    await turns()
    floor.served[0][1].cancel()
    await turns()
    floor.workers.take("next")
    await turns()
    first, second = (task for _, task in floor.served)
    assert first.done()
    assert not first.cancelled()
    assert second is not first
    await end(floor.tasks)


async def test_idle_tasks_end_when_they_are_cancelled_and_what_comes_then_has_a_new_one() -> None:
    floor = Floor()
    floor.workers.take("a")
    await turns()
    await end(floor.tasks)
    assert all(task.cancelled() for task in floor.tasks)
    floor.workers.take("b")
    await turns()
    assert [item for item, _ in floor.served] == ["a", "b"]
    await end(floor.tasks)


async def test_no_more_tasks_stay_than_are_worth_it() -> None:
    floor = Floor()
    gate = asyncio.Event()
    for number in range(100):
        floor.gates[str(number)] = gate
        floor.workers.take(str(number))
    await turns()
    gate.set()
    await turns(6)
    assert sum(not task.done() for task in floor.tasks) == 64
    await end(floor.tasks)
