"""Other programs that may stand before an engine, each with one worker and nothing logged; where they are installed."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from bench.gateway.caller import CHAT, MODEL, Caller, body_for
from sollol_agents.lab.testing.ports import free_port

_READY_WITHIN_S = 90.0


class Running(NamedTuple):
    """A peer that answers."""

    url: str
    process: psutil.Process

    @property
    def cpu_s(self) -> float:
        """Processor seconds that it and its workers have used."""
        total = 0.0
        for one in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
        return total


class Peer(NamedTuple):
    """How one is started: its command, given the engine's address, its own port and a folder for its files."""

    name: str
    command: Callable[[str, int, Path], list[str]]
    environment: dict[str, str]


def installed(options: argparse.Namespace) -> list[Peer]:
    """The peers that can be started here."""
    found = []
    if nginx := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        found.append(Peer("nginx", lambda url, port, folder: _nginx(nginx, url, port, folder), {}))
    if haproxy := shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        found.append(Peer("haproxy", lambda url, port, folder: _haproxy(haproxy, url, port, folder), {}))
    if options.sglang_router is not None:
        router = str(options.sglang_router)
        found.append(Peer("sglang_router", lambda url, port, _: _sglang_router(router, url, port), {}))
    if options.litellm is not None:
        litellm = str(options.litellm)
        # no key on either side: what is compared is the way of a request, on a loopback address
        alone = {"LITELLM_LOG": "ERROR", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
        found.append(Peer("litellm", lambda url, port, folder: _litellm(litellm, url, port, folder), alone))
    return found


@asynccontextmanager
async def standing(peer: Peer, engine_url: str, folder: Path) -> AsyncIterator[Running]:
    """A peer before the engine, once it has answered a chat."""
    port = free_port()  # none of them can choose one itself and say so
    folder = folder / peer.name
    folder.mkdir()
    command = peer.command(engine_url, port, folder)
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env={**os.environ, **peer.environment}
        )
    try:
        url = f"http://127.0.0.1:{port}"
        await _answers(peer.name, url, process, log_file)
        yield Running(url, psutil.Process(process.pid))
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _answers(name: str, url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        try:
            async with Caller(url) as caller:
                await caller.post(CHAT, body_for(CHAT))
        except (OSError, RuntimeError, EOFError) as error:
            if process.returncode is not None or time.monotonic() > deadline:
                said = log.read_text()[-4000:]  # noqa: ASYNC240 the run is over
                raise RuntimeError(f"{name} was not ready: {error}\n{said}") from error
            await asyncio.sleep(0.2)
        else:
            return


def _nginx(program: str, engine_url: str, port: int, folder: Path) -> list[str]:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"  {kind}_temp_path {folder / kind};" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(f"""
worker_processes 1;
daemon off;
pid {folder / "pid"};
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
{temporary}
  keepalive_requests 10000000;
  upstream engine {{ server {urlsplit(engine_url).netloc}; keepalive 128; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_buffering off;
    }}
  }}
}}
""")
    return [program, "-e", "stderr", "-c", str(config)]


def _haproxy(program: str, engine_url: str, port: int, folder: Path) -> list[str]:
    config = folder / "haproxy.cfg"
    config.write_text(f"""
global
  nbthread 1
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend callers
  bind 127.0.0.1:{port}
  default_backend engine
backend engine
  server one {urlsplit(engine_url).netloc}
""")
    return [program, "-db", "-f", str(config)]


def _sglang_router(program: str, engine_url: str, port: int) -> list[str]:
    where = ["--worker-urls", engine_url, "--host", "127.0.0.1", "--port", str(port)]
    return [program, "launch", "--backend", "openai", *where, "--disable-health-check", "--log-level", "error"]


def _litellm(program: str, engine_url: str, port: int, folder: Path) -> list[str]:
    config = folder / "litellm.yaml"
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
        f"      api_base: {engine_url}/v1\n      api_key: none\n"
        "litellm_settings:\n  telemetry: false\n  num_retries: 0\n"
    )
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
