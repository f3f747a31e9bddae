"""The systems that are compared: nginx before the engines, and the whole of this one before the same engines."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench.live.stack import EngineCommand, live_stack
from bench.processes import Process, running
from sollol_bus.sdk.client import Client

NGINX: Final = {"nginx": "", "nginx least_conn": "least_conn;"}
"""nginx's ways to choose, by the name that rows have: round robin is its default."""
_LISTENS_WITHIN_S: Final = 10.0
_CONFIGURATION: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 16m;
    upstream engines {{
        {choice}
{servers}
        keepalive 64;
    }}
    server {{
        listen unix:{folder}/nginx.sock;
        location / {{
            proxy_pass http://engines;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            proxy_buffering off;
            proxy_read_timeout {patience_ms}ms;
            add_header X-Upstream $upstream_addr always;
        }}
    }}
}}
"""
"""What its own guide recommends for engines; which server was taken is told, and callers' patience is nginx's, too."""


class System(NamedTuple):
    """Where callers ask, and how its answers say who served them."""

    name: str
    url: str
    socket: str = ""
    """Path of the socket where it listens; empty: at the URL."""
    engine_urls: tuple[str, ...] = ()
    client: Client | None = None


def has_nginx() -> bool:
    """Whether nginx is installed."""
    return shutil.which("nginx") is not None


@asynccontextmanager
async def system(
    name: str, engines: Sequence[EngineCommand], folder: Path, *, patience_s: float
) -> AsyncIterator[System]:
    """A fresh system before fresh engines.

    Args:
        name: One of `NGINX`, or a strategy of this one.
        engines: The engines that it is put before.
        folder: For its files.
        patience_s: After so many seconds its callers give up.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    if name not in NGINX:
        async with live_stack(engines, strategy=name, folder=folder, has_gateway=True) as stack:
            urls = tuple(p.address("engine") for p in stack.processes if p.name.endswith("-engine"))
            yield System(name, stack.http_url, engine_urls=urls, client=stack.client)
        return
    async with AsyncExitStack() as floor:
        starts = [_engine(floor, engine, folder) for engine in engines]
        urls = tuple(p.address("engine") for p in await asyncio.gather(*starts))
        socket = await floor.enter_async_context(_nginx(NGINX[name], urls, folder, patience_s))
        yield System(name, "http://nginx", socket=str(socket), engine_urls=urls)


async def _engine(floor: AsyncExitStack, engine: EngineCommand, folder: Path) -> Process:
    return await floor.enter_async_context(running(f"{engine.node_id}-engine", engine.arguments, log_dir=folder))


@asynccontextmanager
async def _nginx(choice: str, urls: Sequence[str], folder: Path, patience_s: float) -> AsyncIterator[Path]:
    servers = "\n".join(f"        server {url.removeprefix('http://')};" for url in urls)
    file = folder / "nginx.conf"
    text = _CONFIGURATION.format(folder=folder, choice=choice, servers=servers, patience_ms=round(1000 * patience_s))
    await asyncio.to_thread(file.write_text, text)
    program = shutil.which("nginx") or "nginx"
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(folder), "-e", str(folder / "nginx-error.log"), "-c", str(file)
    )
    try:
        socket = folder / "nginx.sock"
        async with asyncio.timeout(_LISTENS_WITHIN_S):
            while not await asyncio.to_thread(socket.exists):
                if process.returncode is not None:
                    raise RuntimeError(f"nginx ended: {(folder / 'nginx-error.log').read_text()[-1000:]}")
                await asyncio.sleep(0.02)
        yield socket
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
