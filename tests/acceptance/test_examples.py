"""The example programs run against a real system; a language whose tools are absent is skipped by its name.

In each language there are two: one asks, streams and sees decisions, the other stores a job, follows it and fetches
its answer.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sollol_agents.lab.testing.processes import ProcessFleet

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL, "--decode-tps", "100")
BUILD_S = 240
ASKING = (r"^whole +: 4 3 2 1 0$", r"stream +:", r"decision: \S+ on \"?attic")
STORING = (r"^stored +: \S+", r"^answer +: 4 3 2 1 0$")

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are in the checkout only"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProcessFleet]:
    async with ProcessFleet(tmp_path_factory.mktemp("fleet")) as fleet:
        await fleet.up()
        engine = await fleet.emulator("attic", *FLAGS)
        await fleet.node("attic", engine.url)
        yield fleet


@pytest.mark.parametrize(
    ("name", "says"),
    [("sdk.py", ASKING), ("plain.py", ASKING), ("jobs_sdk.py", STORING), ("jobs_plain.py", STORING)],
    ids=["sdk", "plain", "jobs_sdk", "jobs_plain"],
)
async def test_python(system: ProcessFleet, name: str, says: tuple[str, ...]) -> None:
    await judge(system, [sys.executable, str(EXAMPLES / "python" / name)], says)


@pytest.mark.parametrize(("name", "says"), [("ask.mjs", ASKING), ("jobs.mjs", STORING)], ids=["ask", "jobs"])
async def test_javascript(system: ProcessFleet, name: str, says: tuple[str, ...]) -> None:
    node, npm = tool("node"), tool("npm")
    folder = EXAMPLES / "javascript"
    if not (folder / "node_modules").is_dir():
        await build([npm, "ci", "--silent", "--no-audit", "--no-fund"], folder)
    await judge(system, [node, str(folder / name)], says)


@pytest.mark.parametrize(("package", "says"), [(".", ASKING), ("./jobs", STORING)], ids=["ask", "jobs"])
async def test_go(system: ProcessFleet, tmp_path: Path, package: str, says: tuple[str, ...]) -> None:
    program = tmp_path / "program"
    await build([tool("go"), "build", "-o", str(program), package], EXAMPLES / "go")
    await judge(system, [str(program)], says)


@pytest.mark.parametrize(("name", "says"), [("sollol-example", ASKING), ("jobs", STORING)], ids=["ask", "jobs"])
async def test_rust(system: ProcessFleet, name: str, says: tuple[str, ...]) -> None:
    # the first build takes a minute; cargo keeps it in examples/rust/target
    await build([tool("cargo"), "build", "--quiet", "--config", "profile.dev.debug=false"], EXAMPLES / "rust")
    await judge(system, [str(EXAMPLES / "rust" / "target" / "debug" / name)], says)


async def test_shell(system: ProcessFleet) -> None:
    tool("nats")
    code, output = await run(system, [tool("sh"), str(EXAMPLES / "shell" / "ask.sh"), MODEL, "count down from 5"])
    assert code == 0, output
    assert output.count('"response"') >= 6


async def test_shell_with_jobs(system: ProcessFleet) -> None:
    tool("nats")
    code, output = await run(system, [tool("sh"), str(EXAMPLES / "shell" / "jobs.sh"), MODEL, "count down from 5"])
    assert code == 0, output
    assert "news    : done" in output
    assert '"response"' in output


async def judge(system: ProcessFleet, argv: list[str], says: tuple[str, ...]) -> None:
    """A program says what it should; for an unknown model it says the code and fails."""
    code, output = await run(system, [*argv, MODEL, "count down from 5"])
    assert code == 0, output
    for pattern in says:
        assert re.search(pattern, output, re.MULTILINE), output
    code, output = await run(system, [*argv, "no-such-model", "count down from 5"])
    assert code != 0
    assert "404" in output or "unknown_model" in output


async def run(system: ProcessFleet, argv: list[str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=os.environ | {"SOLLOL_NATS": system.nats_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


_TOO_SLOW: set[str] = set()
"""Tools that did not build in time; they are not asked again."""


async def build(argv: list[str], folder: Path) -> None:
    """Builds in a time limit; what cannot be fetched or takes too long is skipped by name."""
    name = Path(argv[0]).name
    if name in _TOO_SLOW:
        pytest.skip(f"{name}: not built within {BUILD_S} s")
    with tempfile.TemporaryFile() as told:
        # a group of its own, so that what the tool started ends with it
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=folder, stdout=told, stderr=told, start_new_session=True
        )
        try:
            await asyncio.wait_for(process.wait(), BUILD_S)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            _TOO_SLOW.add(name)
            pytest.skip(f"{name}: not built within {BUILD_S} s")
        told.seek(0)
        output = told.read()
    if process.returncode != 0 and re.search(rb"network|ENOTFOUND|ECONNREFUSED|dial tcp|resolve host|download", output):
        pytest.skip(f"{name}: the dependencies cannot be fetched here")
    assert process.returncode == 0, output.decode()


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
