"""The life of an actor: loud starts, owned tasks, a drain in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

import pytest

from sollol_bus.actor import Actor, ActorState, ActorStatistics
from sollol_bus.errors import BusError, ConfigError
from sollol_bus.parts import Part
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import BusConfig
from sollol_bus.waiting import happens


class Recording(Actor[None]):
    """A double that writes down the order of its hooks."""

    name = "recording"
    drain_timeout_s = 0.2

    def __init__(self, bus_config: BusConfig) -> None:
        super().__init__(None, bus_config)
        self.steps: list[str] = []
        self.work: set[str] = set()
        self.fail_at = ""

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self.fail_at == name:
            raise ConfigError(f"cannot {name}")

    async def on_start(self) -> None:
        self._step("start")
        self.take("work", lambda m: self.work.add(m.data.decode()))

    def announce_draining(self) -> None:
        self._step("announce")

    async def stop_intake(self) -> None:
        self._step("stop intake")
        await super().stop_intake()

    def in_flight(self) -> Collection[str]:
        return self.work

    async def hand_back(self, reason: str) -> None:
        self._step(f"hand back {len(self.work)}")
        self.work.clear()

    async def on_stop(self) -> None:
        assert self.bus.is_connected
        self._step("stop")


class Opened(Part):
    """A double of a part that writes down when it is opened and closed."""

    def __init__(self, name: str, actor: Recording, *, fails_at: str = "") -> None:
        self.name = name
        self.actor = actor
        self.fails_at = fails_at

    async def start(self) -> None:
        self._step("open")

    async def close(self) -> None:
        assert self.actor.bus.is_connected
        self._step("close")

    def _step(self, what: str) -> None:
        self.actor.steps.append(f"{what} {self.name}")
        if self.fails_at == what:
            raise BusError(f"cannot {what} {self.name}")


@pytest.fixture
def config(nats_server: EmbeddedServer) -> BusConfig:
    return BusConfig(url=nats_server.url)


@pytest.mark.shutdown
async def test_a_drain_goes_in_order(config: BusConfig) -> None:
    actor = Recording(config)
    states = [actor.state]
    async with actor:
        states.append(actor.state)
    states.append(actor.state)
    assert actor.steps == ["start", "announce", "stop intake", "hand back 0", "stop"]
    assert states == [ActorState.NEW, ActorState.RUNNING, ActorState.STOPPED]


@pytest.mark.shutdown
async def test_running_work_is_waited_for(config: BusConfig) -> None:
    async with Recording(config) as actor:
        actor.work.add("a")

        def finish() -> None:
            actor.work.discard("a")
            actor.drain_progress()

        asyncio.get_running_loop().call_later(0.02, finish)
    assert "hand back 0" in actor.steps


@pytest.mark.shutdown
async def test_what_does_not_finish_in_time_is_handed_back(config: BusConfig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Recording(config) as actor:
        actor.work.add("request-7")
    assert "hand back 1" in actor.steps
    assert "request-7" in caplog.text


@pytest.mark.shutdown
async def test_a_hurried_drain_hands_back_at_once(config: BusConfig) -> None:
    actor = Recording(config)
    actor.drain_timeout_s = 3600.0
    async with actor:
        actor.work.add("request-7")
        asyncio.get_running_loop().call_later(0.02, actor.hurry)
    assert "hand back 1" in actor.steps


@pytest.mark.shutdown
async def test_a_draining_actor_takes_no_new_work(config: BusConfig) -> None:
    async with Recording(config) as actor, Recording(config) as other:
        await actor.stop_intake()
        other.bus.publish("work", b"late")
        await other.bus.flush()
        await actor.bus.flush()
        assert actor.work == set()
        assert other.work == {"late"}
        other.work.clear()


async def test_a_failed_start_unwinds(config: BusConfig) -> None:
    actor = Recording(config)
    actor.fail_at = "start"
    with pytest.raises(ConfigError, match="cannot start"):
        async with actor:
            pass
    assert actor.state is ActorState.STOPPED
    assert actor.steps == ["start"], "there is nothing that it could drain or say"


@pytest.mark.shutdown
async def test_parts_are_closed_in_reverse_after_the_drain(config: BusConfig) -> None:
    async with Recording(config) as actor:
        for name in ("a", "b"):
            await actor.own(Opened(name, actor))
    assert actor.steps == [
        "start",
        "open a",
        "open b",
        "announce",
        "stop intake",
        "hand back 0",
        "stop",
        "close b",
        "close a",
    ]


async def test_a_failed_start_closes_exactly_the_parts_that_it_opened(config: BusConfig) -> None:
    class Starting(Recording):
        async def on_start(self) -> None:
            for name, fails_at in (("a", ""), ("b", ""), ("c", "open"), ("d", "")):
                await self.own(Opened(name, self, fails_at=fails_at))

    actor = Starting(config)
    with pytest.raises(BusError, match="cannot open c"):
        async with actor:
            pass
    assert actor.steps == ["open a", "open b", "open c", "close b", "close a"]


@pytest.mark.shutdown
async def test_a_part_that_does_not_close_keeps_no_other_open(
    config: BusConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async with Recording(config) as actor:
        for name, fails_at in (("a", ""), ("b", "close")):
            await actor.own(Opened(name, actor, fails_at=fails_at))
    assert actor.steps[-2:] == ["close b", "close a"]
    assert "cannot close b" in caplog.text


async def test_a_dead_side_task_stops_the_actor(config: BusConfig, caplog: pytest.LogCaptureFixture) -> None:
    async def die() -> None:
        raise RuntimeError("the side task broke")

    async with Recording(config) as actor:
        actor.spawn(die(), name="side")
        with pytest.raises(RuntimeError, match="side task broke"):
            await actor.run_until_stopped()
    assert "recording.side" in caplog.text


async def test_stop_is_harmless_before_the_start_and_twice(config: BusConfig) -> None:
    actor = Recording(config)
    actor.stop()
    async with actor:
        await actor.run_until_stopped()
    actor.stop()
    assert actor.state is ActorState.STOPPED


async def test_an_actor_never_starts_twice(config: BusConfig) -> None:
    actor = Recording(config)
    async with actor:
        pass
    with pytest.raises(RuntimeError, match="started before"):
        async with actor:
            pass


async def test_side_tasks_end_with_the_actor(config: BusConfig) -> None:
    async with Recording(config) as actor:
        task = actor.spawn(asyncio.Event().wait(), name="forever")
    assert task.cancelled()


async def test_side_tasks_end_at_whatever_moment_their_deadlines_run_out(config: BusConfig) -> None:
    async def wait_on() -> None:
        while True:
            await happens(asyncio.Event(), 0)

    async with Recording(config) as actor:
        tasks = []
        for number in range(8):  # some are between a deadline and its end whenever the actor stops
            tasks.append(actor.spawn(wait_on(), name=f"waits-{number}"))
            await asyncio.sleep(0)
    assert all(task.cancelled() for task in tasks)


async def test_statistics_say_what_the_actor_does(config: BusConfig) -> None:
    async with Recording(config) as actor:
        actor.work.add("a")
        statistics = actor.statistics()
        assert isinstance(statistics, ActorStatistics)
        assert statistics.in_flight == 1
        assert "in_flight=1" in repr(actor)
        actor.work.clear()


async def test_many_starts_and_stops_leave_nothing_behind(config: BusConfig) -> None:
    before = len(asyncio.all_tasks())
    for _ in range(10):
        async with Recording(config):
            pass
    await asyncio.gather(*(t for t in asyncio.all_tasks() if t is not asyncio.current_task() and t.done()))
    assert len(asyncio.all_tasks()) == before
