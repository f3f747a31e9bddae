"""Child processes that say when they are ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from sollol_agents.children import Child
from sollol_bus.errors import ConfigError


async def test_a_child_that_is_not_ready_in_time_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time\nprint('still waiting for the moon', file=sys.stderr, flush=True)\n"
        "print('http there', flush=True)\ntime.sleep(600)\n"
    )
    child = Child(
        "the slow one",
        "slow",
        log_file=tmp_path / "log",
        start_timeout_s=2.0,
        environ={"PYTHONPATH": str(tmp_path)},
    )
    with pytest.raises(ConfigError, match=r"the slow one was not ready within 2 s: still waiting for the moon"):
        async with child:
            pass
