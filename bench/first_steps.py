"""How long a newcomer waits, by the README alone: to the first answer, the second machine, the dashboard, the demo.

    python -m bench.first_steps [--quick] [--json] [--out FILE]

Two folders stand for two empty machines: each has an environment, a home and nothing else. The package is a wheel built
beforehand, and what it depends on comes from wherever pip is told to look; an emulated Ollama stands for the one that a
newcomer has. `--quick` leaves out the demo, which installs a second time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from bench.command import parser_of, started
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.waiting import eventually

ROOT: Final = Path(__file__).parents[1]
_MODEL: Final = "countdown"
_WITHIN_S: Final = 600.0
_ENGINE: Final = (sys.executable, "-m", "sollol_agents.lab.emulator", "--preset", "instant", "--port")


class Machine:
    """A folder that stands for an empty machine with Python on it.

    Attributes:
        began_mono_s: When its user began.
        commands: How many commands the user has given.
    """

    def __init__(self, folder: Path, engine_port: int) -> None:
        folder.mkdir()
        self.folder, self.commands, self.began_mono_s = folder, 0, time.monotonic()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SOLLOL_", "XDG_", "PYTHON"))}
        own = {"HOME": str(folder), "SOLLOL_NODE_URL": f"http://127.0.0.1:{engine_port}", "VIRTUAL_ENV": ""}
        self.environ = {**kept, **own, "PATH": f"{folder / 'env' / 'bin'}:{os.environ['PATH']}"}

    @property
    def took_s(self) -> float:
        """Seconds since its user began."""
        return round(time.monotonic() - self.began_mono_s, 1)

    async def command(self, *argv: str, tries: int = 1) -> str:
        """Gives a command, as often as it takes up to `tries`, and waits for its end; returns what it printed."""
        for _ in range(tries):
            self.commands += 1
            process = await self._start(argv)
            out, _ = await asyncio.wait_for(process.communicate(), _WITHIN_S)
            if not process.returncode:
                return out.decode()
        raise SystemExit(f"{' '.join(argv)}: {out.decode()}")

    async def ask(self) -> None:
        """Asks for an answer; somebody who is told that the model is not there yet asks again."""
        await self.command("sollol", "generate", _MODEL, "count 5", tries=10)

    async def stays(self, floor: AsyncExitStack, *argv: str, **settings: str) -> None:
        """Gives a command that stays, and waits until it says that it is ready."""
        self.commands += 1
        await stays(floor, await self._start(argv, **settings))

    async def _start(self, argv: tuple[str, ...], **settings: str) -> asyncio.subprocess.Process:
        program = shutil.which(argv[0], path=self.environ["PATH"]) or argv[0]
        return await asyncio.create_subprocess_exec(
            program,
            *argv[1:],
            cwd=self.folder,
            env=self.environ | settings,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def install(self, wheel: Path, extras: str = "") -> None:
        """Makes an environment and installs the package, as the README says."""
        await self.command(sys.executable, "-m", "venv", "env")
        await self.command("pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}{extras}")


async def stays(floor: AsyncExitStack, process: asyncio.subprocess.Process) -> None:
    """Waits until a process says that it is ready, and ends it with the floor."""

    async def end() -> None:
        process.terminate()
        await asyncio.wait_for(process.wait(), 60)

    floor.push_async_callback(end)
    assert process.stdout is not None
    async with asyncio.timeout(_WITHIN_S):
        while (line := await process.stdout.readline()).strip() != b"ready":
            if not line:
                raise SystemExit("a process ended before it was ready")


def shows(url: str) -> bool:
    """Whether a browser would get a page there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Walks through the README; each figure counts from an empty machine, installation included."""
    build = (sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "wheel"), str(ROOT))
    builder = await asyncio.create_subprocess_exec(*build, stdout=asyncio.subprocess.DEVNULL)
    if await asyncio.wait_for(builder.wait(), _WITHIN_S):
        raise SystemExit("the wheel cannot be built")
    (wheel,) = (folder / "wheel").glob("*.whl")
    steps: dict[str, dict[str, float]] = {}

    def step(name: str, machine: Machine) -> None:
        steps[name] = {"seconds": machine.took_s, "commands": machine.commands}

    async with AsyncExitStack() as floor:
        port = free_port()
        await stays(floor, await asyncio.create_subprocess_exec(*_ENGINE, str(port), stdout=asyncio.subprocess.PIPE))
        await _one_machine(floor, Machine(folder / "alone", port), wheel, step)
    async with AsyncExitStack() as floor:
        port = free_port()
        await stays(floor, await asyncio.create_subprocess_exec(*_ENGINE, str(port), stdout=asyncio.subprocess.PIPE))
        first, second = Machine(folder / "first", free_port()), Machine(folder / "second", port)
        await _two_machines(floor, first, second, wheel, step)
    if not options.quick:
        await _demo(Machine(folder / "demo", free_port()), step)
    return {"steps": steps}


Step = Callable[[str, Machine], None]


async def _one_machine(floor: AsyncExitStack, machine: Machine, wheel: Path, step: Step) -> None:
    await machine.install(wheel, "[dashboard]")
    step("installed, with the dashboard", machine)
    ports = [str(free_port()) for _ in range(3)]
    machine.environ["SOLLOL_NATS"] = f"nats://127.0.0.1:{ports[0]}"
    flags = ("--nats-port", ports[0], "--http-port", ports[1], "--dashboard-port", ports[2])
    await machine.stays(floor, "sollol", "up", *flags)
    step("the system is up", machine)
    await machine.ask()
    step("first answer", machine)
    machine.commands += 1
    await eventually(lambda: asyncio.to_thread(shows, f"http://127.0.0.1:{ports[2]}/"), within_s=60)
    step("dashboard", machine)


async def _two_machines(floor: AsyncExitStack, first: Machine, second: Machine, wheel: Path, step: Step) -> None:
    """The second machine's commands count on, as its user waits for the first one."""
    await first.install(wheel)
    await second.install(wheel)
    settings = {"SOLLOL_UP_HTTP_PORT": "0", "SOLLOL_UP_DASHBOARD_PORT": "0"}
    init = ("sollol", "fleet", "init", "--host", "127.0.0.1", "--port", str(free_port()))
    await first.stays(floor, *init, **settings)
    line = re.search(r"sollol-\S+", await first.command("sollol", "invite", "node", "desk"))
    assert line is not None
    await second.stays(floor, "sollol", "join", line[0])
    await first.ask()
    first.commands += second.commands
    step("two empty machines: an answer from the second", first)


async def _demo(machine: Machine, step: Step) -> None:
    source = machine.folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "node_modules", "__pycache__")
    await asyncio.to_thread(shutil.copytree, ROOT, source, ignore=ignored)
    out = await machine.command("make", "-C", str(source), "demo", f"PYTHON={sys.executable}")
    assert "20 of 20 answered" in out
    step("make demo in a checkout, to its end", machine)
    size = sum(file.lstat().st_size for file in (source / ".venv").rglob("*"))
    print(f"what the demo installed: {size / 2**20:.0f} MiB", file=sys.stderr)


def as_text(figures: dict[str, Any]) -> str:
    """The steps as a table."""
    rows = [f"{'step':<48} {'seconds':>8} {'commands':>9}"]
    for name, told in figures["steps"].items():
        rows.append(f"{name:<48} {told['seconds']:>8} {told['commands']:>9}")
    return "\n".join(rows)


def main() -> int:
    """Runs it; the exit code says only whether it ran."""
    return started(parser_of("bench.first_steps", __doc__), measure, as_text)


if __name__ == "__main__":
    sys.exit(main())
