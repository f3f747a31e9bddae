"""What a command loads before it does anything."""

from __future__ import annotations

import subprocess
import sys


def test_a_command_starts_without_aiohttp_and_may_load_it_later() -> None:
    code = (
        "import sys, sollol_agents.cli.__main__; assert 'aiohttp' not in sys.modules, 'loaded';"
        "import importlib.util; print(importlib.util.find_spec('aiohttp') is not None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_an_actor_spares_what_it_loaded_and_looks_for_garbage_seldom() -> None:
    code = (
        "import asyncio, gc; from sollol_agents.cli.running import run_until_signalled\n"
        "async def main(signals):\n"
        "    print(gc.get_freeze_count() > 10_000, gc.get_threshold()[0], gc.isenabled()); return 0\n"
        "run_until_signalled(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "True 25000 True\n"), done.stderr
