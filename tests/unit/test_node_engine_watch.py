"""How often a node looks at its engine."""

from __future__ import annotations

import asyncio

import pytest

from sollol_agents.node.config import NodeConfig
from sollol_agents.node.engines import watch as module
from sollol_agents.node.engines.watch import EngineWatch

LOOKS = 6


class Played:
    """A watch whose waits last no time; it ends after some looks.

    Args:
        is_idle: Whether no attempt runs.
        failures: Of how many looks the engine failed in a row.
        asked: The waits, counted from 0, in which somebody asks for a look.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, is_idle: bool, failures: int = 0, asked: frozenset[int] = frozenset()
    ) -> None:
        self.log: list[str] = []
        self._asked, self._waits, self._failures = asked, 0, failures
        self._watch = EngineWatch(
            NodeConfig(url="http://127.0.0.1:1", heartbeat_s=1.0),
            mark="n.i",
            on_found=lambda _: None,
            on_change=lambda: None,
            on_models=lambda: None,
            on_lost=lambda _: None,
            is_idle=lambda: is_idle,
        )
        monkeypatch.setattr(self._watch, "look", self._look)
        monkeypatch.setattr(module, "happens", self._happens)
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def run(self) -> str:
        """What it did: `l` is a look, `w` a wait for one beat, `a` a wait in which it was asked, `s` a short sleep."""
        with pytest.raises(asyncio.CancelledError):
            await self._watch.run()
        await self._watch.close()
        return "".join(self.log)

    async def _look(self) -> None:
        if self.log.count("l") == LOOKS:
            raise asyncio.CancelledError
        self.log.append("l")
        self._watch.view.failures = self._failures

    async def _happens(self, _event: asyncio.Event, within_s: float) -> bool:
        assert within_s == 1.0
        is_asked = self._waits in self._asked
        self._waits += 1
        self.log.append("a" if is_asked else "w")
        return is_asked

    async def _sleep(self, seconds: float) -> None:
        assert seconds < 1.0
        self.log.append("s")


async def test_it_looks_at_every_beat_while_something_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Played(monkeypatch, is_idle=False).run() == "lw" * LOOKS


async def test_it_looks_at_every_second_beat_while_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Played(monkeypatch, is_idle=True).run() == "lww" * LOOKS


async def test_it_looks_at_every_beat_at_an_engine_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Played(monkeypatch, is_idle=True, failures=1).run() == "lw" * LOOKS


async def test_who_asks_for_a_look_gets_it_and_not_one_right_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(monkeypatch, is_idle=True, asked=frozenset({0, 2, 4}))
    assert await played.run() == "las" + "lwa" + "lwa" + "lww" * 3
