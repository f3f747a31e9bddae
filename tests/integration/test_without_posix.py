"""A node where there is no POSIX, as far as it can be tried here: without its modules and signal handlers of loops."""

from __future__ import annotations

import asyncio
import signal
import sys

from sollol_agents.lab.testing.processes import clean_environ
from sollol_bus.server.server import EmbeddedServer

SCRIPT = """
import asyncio, signal, sys
import psutil  # its own half for Linux needs some of them
for name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "syslog", "uvloop"):
    sys.modules[name] = None
def refuse(*_):
    raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = asyncio.SelectorEventLoop.remove_signal_handler = refuse
del signal.pthread_sigmask
import sollol_agents.cli.commands.doctor, sollol_agents.cli.commands.join, sollol_bus
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "uvloop" else found(name, *more)
from sollol_agents.cli.__main__ import main
sys.argv = ["sollol", *sys.argv[1:]]
main()
"""


async def test_a_node_starts_and_stops_without_posix(nats_server: EmbeddedServer) -> None:
    argv = ("node", "--nats", nats_server.url, "--id", "desk", "--engine", "ollama", "--url", "http://127.0.0.1:9")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SCRIPT, *argv, stdout=pipe, stderr=pipe, env=clean_environ()
    )
    assert process.stdout is not None
    told = b""
    while b"ready" not in told and (line := await process.stdout.readline()):
        told += line
    process.send_signal(signal.SIGINT)
    _, log = await asyncio.wait_for(process.communicate(), 30)
    assert b"ready" in told, log.decode()
    assert b"Traceback" not in log, log.decode()
    assert process.returncode == 0
