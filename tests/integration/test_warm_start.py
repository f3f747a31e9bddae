"""Processes that are forks of one that has imported everything: they are processes like any other."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sollol_agents.lab.testing import warm_start
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.lab.testing.warm_start import Program, WarmChild
from sollol_bus.errors import ConfigError

EMULATOR = "sollol_agents.lab.emulator"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are told of their parent's death on Linux alone")


@pytest.fixture(scope="module", autouse=True)
def nursery() -> Iterator[None]:
    with warm_start.nursery():
        yield


async def test_a_command_has_its_own_words_environment_and_end() -> None:
    environ = {**os.environ, "SOLLOL_NATS": "nats://127.0.0.1:9"}
    ended = await asyncio.gather(
        warm_start.run(("sollol_agents.cli", "version", "--json"), environ),
        warm_start.run(("sollol_agents.cli", "nodes"), environ),
        warm_start.run(("sollol_agents.cli", "no-such-command"), environ),
    )
    told = [one for one in ended if one is not None]
    assert [code for code, _, _ in told] == [0, 3, 2]
    assert b"127.0.0.1:9" in told[1][2]
    assert all(b"Warning" not in noted for _, _, noted in told)


async def test_a_child_says_where_it_listens_hears_signals_and_tells_how_it_ended(tmp_path: Path) -> None:
    killed, ended = (
        WarmChild(name, EMULATOR, "--name", name, log_file=tmp_path / f"{name}.log") for name in ("one", "two")
    )
    async with killed, ended:
        assert killed.served["engine"] != ended.served["engine"]
        there = psutil.Process(ended.pid)
        assert "nursery" in " ".join(there.cmdline())
        assert os.getsid(ended.pid) == ended.pid, "Ctrl-C at a terminal does not reach it"
        killed.kill()
        assert await killed.wait() == -9
        assert ended.exit_code is None
    assert ended.exit_code == 0
    assert not there.is_running()


async def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    child = WarmChild("wrong", EMULATOR, "--preset", "none", log_file=tmp_path / "log")
    with pytest.raises(ConfigError, match="preset"):
        await child.start()


async def test_what_is_said_to_python_itself_is_said_to_a_python_that_starts_anew(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONUTF8": "1"}
    assert await warm_start.run(("sollol_agents.cli", "version"), environ) is None
    async with WarmChild("anew", EMULATOR, log_file=tmp_path / "log", environ=environ) as child:
        assert EMULATOR in psutil.Process(child.pid).cmdline()


async def test_forks_end_with_the_nursery(tmp_path: Path) -> None:
    with warm_start.nursery(), (tmp_path / "log").open("w") as errors:
        program = Program(EMULATOR, errors=errors)
        assert next(program.stdout).startswith("engine ")
        there = psutil.Process(program.pid)
    await eventually(lambda: not there.is_running())
    assert program.end() == -9
