"""Machines whose clocks somebody sets while they work: no job fails or runs early, and no history is lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.cli.commands.doctor import check_bus
from sollol_agents.lab.testing.messages import outcome
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.recorder.rows import row_of
from sollol_agents.recorder.store import open_store
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import make_job
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.jobs import JobState

MODEL, NODE = "llama3.2:3b", "attic"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL, "--decode-tps", "1000")
FAKE_CLOCKS = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
HOUR, MONTH = "+3600s", "+31d"

pytestmark = [
    pytest.mark.skipif(not FAKE_CLOCKS, reason="no libfaketime (Debian: apt-get install libfaketime)"),
]


def wall_clock(step: str) -> dict[str, str]:
    """The environment of a process whose wall clock alone is off."""
    return {"LD_PRELOAD": str(FAKE_CLOCKS[0]), "FAKETIME": step, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def set_by(file: Path) -> dict[str, str]:
    """The same, off by what stands in a file."""
    file.write_text("+0s")
    named = {"FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_CACHE_DURATION": "1"}
    return {name: text for name, text in wall_clock("").items() if text} | named


async def keep_history(path: Path) -> None:
    """A database with an answer of yesterday."""
    store = await open_store(path)
    data = encode(outcome("yesterday-1", NODE, model=MODEL))
    at_ns = int((wall_s() - 86_400) * 1e9)
    row = row_of(subjects.OUTCOME_EVENT.of(NODE), data, stored_at_ns=at_ns, stream_seq=1)
    assert row is not None
    await store.write([row])
    await store.close()


async def answers(client: Client) -> bool:
    """Whether the recorder does."""
    try:
        await client.stats()
    except SollolError:
        return False
    return True


@pytest.fixture
async def server(fleet: ProcessFleet, tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server whose clock is right; what the fleet runs on it ends first."""
    async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"))) as running:
        fleet.nats_url = running.url
        yield running
        for child in reversed(fleet.children):
            await child.close()


async def test_wrong_clocks_cost_no_job_and_no_history(
    fleet: ProcessFleet, server: EmbeddedServer, tmp_path: Path
) -> None:
    database, dial = tmp_path / "history.sqlite3", tmp_path / "dispatcher-clock"
    await keep_history(database)
    where = ("--nats", server.url)
    _, _, engine, _ = await asyncio.gather(
        fleet.actor("scorer"),
        fleet.sollol("recorder", *where, "--database", str(database), **wall_clock(MONTH)),
        fleet.emulator(NODE, *FLAGS),
        fleet.sollol("dispatcher", *where, **set_by(dial)),
    )
    dial.write_text(HOUR)  # it is looked at once a second
    await fleet.node(NODE, engine.url)
    async with fleet.client() as client:
        job = make_job({"model": MODEL, "prompt": "count down from 3"}, deadline_s=600)
        late = await client.jobs.submit(job, delay_s=1800)
        assert (await client.wait_for_task(await client.jobs.submit(job), timeout_s=30)).state is JobState.DONE
        await eventually(answers, client)

        async def has(window_s: float, requests: int) -> bool:
            with contextlib.suppress(SollolError):  # a busy machine costs it its office now and then
                return (await client.stats(window_s)).total.requests == requests
            return False

        await eventually(has, 60.0, 1, complaint="the job of just now is within the last minute")
        await eventually(has, 0.0, 2, complaint="yesterday's is kept")
        assert (await client.jobs.get(late)).state is JobState.QUEUED

    async def told() -> dict[str, float]:
        findings = await check_bus(BusConfig(url=server.url))
        wrong = (f.found for f in findings if f.check == "clock" and f.remedy)
        read = [re.fullmatch(r"(\S+) \w{12}: (\S+) s ahead of the server's", found) for found in wrong]
        return {t[1]: round(float(t[2]), -1) for t in read if t}

    async def both_are_told() -> bool:  # the dial is looked at once a second
        return await told() == {"sollol-dispatcher": 3600.0, "sollol-recorder": 31 * 86_400.0}

    await eventually(both_are_told)
