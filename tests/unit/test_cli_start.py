"""What a command loads before it does anything."""

from __future__ import annotations

import shlex
import subprocess
import sys

HEAVY = frozenset(
    {
        "aiohttp",
        "aiosqlite",
        "attr",
        "cryptography",
        "httpx",
        "langdetect",
        "nats.js.api",
        "nicegui",
        "opentelemetry",
        "prometheus_client",
        "psutil",
        "pynvml",
        "rich",
        "sqlite3",
        "starlette",
        "textual",
        "tokenizers",
        "uvicorn",
        "uvloop",
    }
)
"""Libraries that no question to the fleet needs."""
MODULES_MOST = 400
"""Most of them Python's own; a library that comes back shows here, too, whatever its name."""
EVERYDAY = (
    "nodes",
    "models -o wide",
    "stats --window-s 60",
    "reliability",
    "why",
    "usage",
    "audit",
    "route llama3.1:8b",
    "jobs list",
    "strategy get",
    "generate llama3.1:8b Hi",
)
LOADED = """
import importlib.util, json, sys
from sollol_agents.cli.__main__ import run
for words in json.loads(sys.argv[1]):
    run(words)
lazy = importlib.util._LazyModule
print("\\n" + " ".join(name for name, module in sys.modules.items() if type(module) is not lazy))
"""


def loaded(*command_lines: str) -> set[str]:
    """The modules that are loaded when these have run, where nobody listens."""
    nobody = ["--nats", "nats://127.0.0.1:1"]
    lines = [[*shlex.split(line), *(nobody if line and not line.startswith("-") else [])] for line in command_lines]
    told = str(lines).replace("'", '"')
    done = subprocess.run([sys.executable, "-c", LOADED, told], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_commands_of_every_day_load_no_library_that_they_do_not_use() -> None:
    there = loaded(*EVERYDAY)
    assert sorted(HEAVY & there) == []
    assert len(there) <= MODULES_MOST


def test_who_only_looks_at_the_commands_waits_for_none_of_them() -> None:
    there = loaded("", "--help", "--version")
    others = ("sollol_bus.", "sollol_schemas", "msgspec", "asyncio")
    assert [name for name in there if name.startswith(others)] in ([], ["sollol_bus.version"])


def test_who_is_helped_or_corrected_waits_for_nothing_that_runs() -> None:
    there = loaded(
        "nodes --help", "up --help-all", "help generate", "jobs", "nodes --jsn", "jobs lst", "up --http-prt 1"
    )
    assert sorted((HEAVY - {"psutil"}) & there) == []


def test_the_doctor_brings_no_client_of_engines_which_most_often_are_not_there() -> None:
    assert [name for name in loaded("doctor --help") if name.startswith("sollol_agents.node.engines")] == []


def test_an_error_loads_no_client() -> None:
    code = (
        "import sys, sollol_bus.errors; print(sorted({'nats', 'asyncio', 'sollol_bus.sdk.client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n", done.stderr


def test_what_is_put_off_is_loaded_when_it_is_used() -> None:
    code = (
        "import sys, sollol_agents.cli.__main__, nats.aio.transport as t; from importlib.util import _LazyModule\n"
        "import sollol_agents.cli.commands.up, sollol_agents.posting\n"
        "from sollol_agents.node.engines.http.client import EngineHttp; EngineHttp('http://box:1')\n"
        "assert {type(sys.modules[name]) for name in ('aiohttp', 'httpx')} == {_LazyModule}, 'loaded'\n"
        "print(t.aiohttp.WSMsgType.BINARY.name, t.multidict.CIMultiDict, __import__('nats.js').js.JetStreamContext)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout[:6]) == (0, "BINARY"), done.stderr


def test_an_actor_spares_what_it_loaded_and_looks_for_garbage_seldom() -> None:
    code = (
        "import asyncio, gc; from sollol_agents.cli.running import run_until_signalled\n"
        "async def main(signals):\n"
        "    print(gc.get_freeze_count() > 10_000, gc.get_threshold()[0], gc.isenabled()); return 0\n"
        "run_until_signalled(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "True 25000 True\n"), done.stderr


def test_who_speaks_http_loads_no_command_line_of_the_library_that_does() -> None:
    code = (
        "import sys, sollol_agents.cli.__main__, sollol_agents.cli.commands.up, sollol_agents.posting\n"
        "sys.modules['httpx'].URL\n"
        "print(sorted({'click', 'pygments', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n", done.stderr
