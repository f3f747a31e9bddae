"""The official JavaScript clients, unchanged but for their base URL, on an emulated Ollama and on a real llama.cpp.

The tests themselves are JavaScript, in `javascript/`; `make install` puts the clients there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sollol_agents.lab.testing.gateway_fleet import GatewayFleet

FOLDER = Path(__file__).parent / "javascript"
OLDEST_NODE = 20


def javascript() -> str:
    """The runtime; skips the test where it, or a client, is missing."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {OLDEST_NODE} or newer is needed, not {version.strip()}")
    if not (FOLDER / "node_modules" / "ai").is_dir():
        pytest.skip("the JavaScript clients are not installed: make install")
    return node


@pytest.mark.parametrize("engine", ["emulated", "real"])
@pytest.mark.parametrize("client", ["ollama", "openai", "vercel", "langchain"])
def test_every_call_of_a_javascript_client_works(
    fleet_behind_gateway: GatewayFleet, figure: Callable[[str], None], client: str, engine: str
) -> None:
    node = javascript()
    fleet_behind_gateway.need(engine)
    told = {"SOLLOL_URL": fleet_behind_gateway.url, "SOLLOL_NODE": engine, "OLLAMA_API_KEY": ""}
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", f"{client}.test.mjs"],
        cwd=FOLDER,
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, "\n".join(failures(done.stdout)) or done.stderr
    counts = {
        name: int(count) for name, count in re.findall(r"^# (tests|pass|skipped) (\d+)$", done.stdout, re.MULTILINE)
    }
    assert counts["pass"] + counts["skipped"] == counts["tests"] >= 10
    figure(f"{counts['pass']} calls passed, {counts['skipped']} not offered by this engine")


def failures(report: str) -> list[str]:
    """The parts of a TAP report that tell of failures."""
    return re.findall(r"^ *not ok .*\n(?:.*\n)*?^ *\.\.\.$", report, re.MULTILINE)
