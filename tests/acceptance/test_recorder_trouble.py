"""The recorder's database is deleted or locked: requests do not notice, and the log says what is wrong."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sollol_agents.children import Child
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)


async def test_a_deleted_database_is_begun_anew_while_requests_go_on(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS)
    await fleet.node("attic", engine.url)
    async with fleet.client() as client:
        await client.generate(MODEL, "count down from 2")
        await eventually(lambda: _successes(client, 1))
        for path in _database(fleet).parent.glob("recorder.sqlite3*"):
            path.unlink()
        for _ in range(3):
            assert (await client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
        await eventually(lambda: _says(up, "recorder_database_lost"), complaint="the log says so")
        await client.generate(MODEL, "count down from 2")
        await eventually(lambda: _some_successes(client), complaint="it records again")


async def test_a_locked_database_delays_records_but_no_request(fleet: ProcessFleet) -> None:
    up = await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS)
    await fleet.node("attic", engine.url)
    async with fleet.client() as client:
        await client.generate(MODEL, "count down from 2")
        await eventually(lambda: _successes(client, 1))
        lock = sqlite3.connect(_database(fleet), isolation_level=None)
        try:
            lock.execute("begin exclusive")
            for _ in range(3):
                assert (await client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]
            await eventually(lambda: _says(up, "cannot write to"), complaint="the log says so")
        finally:
            lock.close()
        await eventually(lambda: _successes(client, 4), complaint="nothing was lost")


async def _says(child: Child, words: str) -> bool:
    return words in await child.log_text()


def _database(fleet: ProcessFleet) -> Path:
    return fleet.folder / "store" / "recorder.sqlite3"


async def _successes(client: Client, wanted: int) -> bool:
    try:
        return (await client.stats()).total.successes == wanted
    except SollolError:
        return False  # it is busy with its trouble


async def _some_successes(client: Client) -> bool:
    try:
        return (await client.stats()).total.successes > 0
    except SollolError:
        return False  # it is busy with its trouble
