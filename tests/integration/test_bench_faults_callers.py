"""The plain callers of the faults' benchmark: which calls without an answer nobody in the system has ever had."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("bench.faults", reason="the benchmarks are not part of the wheel")

from bench.faults.judge import LOST, Sample
from bench.faults.load import SECRET, Caller
from sollol_agents.lab.emulator import FaultKind
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_schemas import headers as h
from sollol_schemas import subjects


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[EmulatedSystem]:
    async with EmulatedSystem(tmp_path) as made:
        yield made


@pytest.fixture
async def caller(system: EmulatedSystem) -> AsyncIterator[Caller]:
    made = Caller("", "http://127.0.0.1:1", system.stack.bus_config.url, "case", itertools.count())
    await made.connect()
    yield made
    await made.close()


def silent(request_id: str) -> Sample:
    """A plain call that has heard nothing."""
    began_s = time.monotonic()
    return Sample(way="nats", prompt="x", wanted=1, is_short=True, began_s=began_s, request_id=request_id)


async def test_a_call_that_nobody_had_is_lost(caller: Caller) -> None:
    caller.samples.append(silent("never-sent"))
    await caller.find_lost()
    assert [one.error for one in caller.samples] == [LOST]


async def test_a_call_that_a_dispatcher_holds_is_not_lost(system: EmulatedSystem, caller: Caller) -> None:
    system.fault(FaultKind.HANG)
    caller.samples.append(silent("held"))
    known = {h.REQUEST_ID: "held", h.CANCEL_SECRET: SECRET}
    body = b'{"model": "%s", "prompt": "x", "stream": true}' % MODEL.encode()
    inbox = caller.nats.new_inbox()
    await caller.nats.publish(subjects.GENERATE, body, reply=inbox, headers=known)
    dispatcher = next(actor for actor in system.stack.actors if actor.name == "dispatcher")
    await eventually(lambda: "held" in dispatcher.in_flight())
    await caller.find_lost()
    assert [one.error for one in caller.samples] == [""]


async def test_a_call_that_was_answered_unheard_is_not_lost(system: EmulatedSystem, caller: Caller) -> None:
    async with system.client.call(subjects.GENERATE, b'{"model": "m", "prompt": "x"}', request_id="answered") as call:
        async for _ in call:
            pass

    async def is_recorded() -> bool:
        try:
            return bool((await system.client.why("answered")).decisions)
        except SollolError:
            return False

    await eventually(is_recorded)
    caller.samples.append(silent("answered"))
    await caller.find_lost()
    assert [one.error for one in caller.samples] == [""]
