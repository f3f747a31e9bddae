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
