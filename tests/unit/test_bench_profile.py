"""Where sampled stacks belong, and the sampler in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.profile.areas import BUS, JSON, LOOP, area_of, by_area, by_function
from sollol_agents.lab.testing.waiting import eventually

_ROOT = "/x/agents/sollol_agents/cli/__main__.py:main;/lib/asyncio/runners.py:Runner.run"
_BUSY = """
import sys

def busy():
    return sum(range(20_000))

print("ready", flush=True)
while True:
    busy()
"""


@pytest.mark.parametrize(
    ("inner", "area"),
    [
        ("", LOOP),
        ("/x/sollol_bus/transport/direct.py:DirectClient.deliver", BUS),
        ("/x/sollol_bus/transport/messages.py:decode", JSON),
        ("/x/sollol_bus/transport/messages.py:Msg.__init__", BUS),
        (
            "/x/sollol_agents/node/engines/http/pool.py:HttpPool.exchange;/lib/asyncio/tasks.py:wait",
            "engine's HTTP",
        ),
        ("/x/agents/sollol_agents/scorer/queue/plan.py:Planner.walk", "scorer/queue"),
        ("/x/agents/sollol_agents/scorer/core.py:SchedulerCore.enqueue;<string>:<lambda>", "scorer/core"),
        ("/x/agents/sollol_agents/recorder/store.py:Store.write;/lib/aiosqlite/core.py:execute", "SQLite"),
    ],
)
def test_a_stack_belongs_to_the_innermost_part_that_has_a_name(inner: str, area: str) -> None:
    assert area_of(f"{_ROOT};{inner}" if inner else _ROOT) == area


def test_shares_are_of_all_samples() -> None:
    lines = [f"{_ROOT} 1", f"{_ROOT};/x/sollol_bus/transport/wire.py:publication 3"]
    assert by_area(lines) == {BUS: 0.75, LOOP: 0.25}
    assert by_function(lines, most=1) == {"transport/wire.py:publication": 0.75}
    assert by_area([]) == {}


async def test_the_sampler_counts_what_a_process_does(tmp_path: Path) -> None:
    (tmp_path / "busy_work.py").write_text(_BUSY)
    out = tmp_path / "stacks"
    command = [sys.executable, "-m", "bench.profile.sampled", str(out), "busy_work"]
    environment = {"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=tmp_path) as process:  # noqa: ASYNC220
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGUSR1)

            used = psutil.Process(process.pid).cpu_times
            await eventually(lambda began: used().user > began + 0.1, used().user)
            process.send_signal(signal.SIGUSR2)
            await eventually(out.exists)
        finally:
            process.kill()
    shares = by_function(out.read_text().splitlines(), most=3)
    assert max(shares, key=shares.__getitem__).endswith("busy_work.py:busy")
