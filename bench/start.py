"""What a command costs before it does anything: processor time of a whole process, where nobody listens.

    python -m bench.start [--times 10] [--quick] [--json] [--out FILE]

Beside it stand Python alone and the libraries without which nothing can be asked, in the same rounds, since machines
are noisy: compare within a run. Modules are compiled before, as an installation leaves them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from bench.command import parser_of, started

NOBODY: Final = ("--nats", "nats://127.0.0.1:1")
_SOLLOL: Final = (sys.executable, "-m", "sollol_agents.cli")
CASES: Final[dict[str, tuple[str, ...]]] = {
    "python": (sys.executable, "-c", "pass"),
    "libraries": (sys.executable, "-c", "import asyncio, nats, msgspec"),
    "sollol": _SOLLOL,
    "sollol --help": (*_SOLLOL, "--help"),
    "sollol --version": (*_SOLLOL, "--version"),
    **{
        f"sollol {line}": (*_SOLLOL, *line.split(), *NOBODY)
        for line in ("nodes", "models", "stats", "why", "usage", "jobs list", "generate m Hi", "doctor")
    },
    "sollol invite": (*_SOLLOL, "invite", "node", "attic", *NOBODY),
    "sollol nodes --help": (*_SOLLOL, "nodes", "--help"),
    "sollol up --help": (*_SOLLOL, "up", "--help"),
    "sollol up --hlp": (*_SOLLOL, "up", "--hlp"),
    "sollol nodez": (*_SOLLOL, "nodez"),
}


def cost_s(command: tuple[str, ...], environ: dict[str, str]) -> float:
    """Processor time of a command, of the program and of the system for it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rounds(times: int, folder: Path) -> dict[str, list[float]]:
    """Each case so often, one after the other; the first round compiles and does not count."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ |= {"PYTHONPYCACHEPREFIX": str(folder), "COLUMNS": "100"}
    costs: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(times + 1):
        for name, command in CASES.items():
            took_s = cost_s(command, environ)
            if number:
                costs[name].append(took_s)
    return costs


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Least and median processor time of each case, in milliseconds."""
    costs = await asyncio.to_thread(rounds, 1 if options.quick else options.times, folder)
    return {
        "rounds": len(costs["python"]),
        "load": round(os.getloadavg()[0], 1),
        "least_ms": {name: round(min(told) * 1000) for name, told in costs.items()},
        "median_ms": {name: round(statistics.median(told) * 1000) for name, told in costs.items()},
    }


def main() -> int:
    """Runs it."""
    parser = parser_of("bench.start", __doc__)
    parser.add_argument("--times", type=int, default=10, help="rounds that count")
    return started(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
