"""`sollol discover`: which of the addresses that a person names have engines, and how each joins the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import counted, note, say, show_json, show_table
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.cli.settings.sections import DISCOVERY_TIMEOUT
from sollol_agents.node.config import USUAL_PORTS, NodeConfig, bus_id_from, node_id_of
from sollol_agents.node.engines.probing import Probed, probe
from sollol_agents.node.machine.remote import host_of
from sollol_bus.errors import ConfigError
from sollol_schemas.telemetry import EngineKind

_MOST_ADDRESSES: Final = 1024
_AT_ONCE: Final = 32
_TIMEOUT_S: Final = 2.0
_TIMEOUT_MAX_S: Final = 600.0
_HERE: Final = ("localhost", "127.0.0.1", "::1")


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that was found, and the command that makes it a node."""

    engine: Probed
    command: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    engines: tuple[Engine, ...]
    others: tuple[Probed, ...]
    """Addresses without an engine, with the reason."""


@of_commands.with_output
@with_settings(of_commands.KNOWN, log=of_commands.QUIET_LOG)
def discover(
    addresses: Annotated[
        list[str],
        Parameter(name="ADDRESS", help="Host, host:port or URL; a host alone: ports 11434, 8080, 1234 and 8000."),
    ],
    *,
    log: LogConfig,
    timeout_s: Annotated[
        float | None,
        Parameter(help=f"Seconds to wait for each answer (default 2; env {DISCOVERY_TIMEOUT})."),
    ] = None,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Looks for engines at the addresses that you name, never elsewhere, and tells how each joins the fleet.

    Ends with 1 when there is none.
    """
    log_lines.set_up(log)
    within_s = waits_s(timeout_s)
    urls = urls_of(addresses)
    report: Report | None = None

    async def main() -> int:
        nonlocal report
        report = report_of(await _probe_all(urls, within_s))
        return exit_codes.OK if report.engines else exit_codes.FAILED

    code = running.run(main)
    if report is not None:
        if json_:
            show_json(report)
        else:
            show(report, len(urls))
    return code


def urls_of(addresses: Iterable[str]) -> tuple[str, ...]:
    """The URLs to look at, each once, in the order of the addresses.

    Raises:
        ConfigError: An address is none, or stands for a whole network, or there are too many.
    """
    urls = tuple(dict.fromkeys(url for address in addresses for url in _urls_of(address.strip())))
    if not urls:
        raise ConfigError("name at least one address: sollol discover gpu-box 10.0.0.9:11434")
    if len(urls) > _MOST_ADDRESSES:
        raise ConfigError(f"{len(urls)} addresses are too many; at most {_MOST_ADDRESSES} at a time")
    return urls


def _urls_of(address: str) -> list[str]:
    if "://" not in address:
        _refuse_network(address)
        with contextlib.suppress(ValueError):  # a name, IPv4, or with a port
            address = f"[{ipaddress.IPv6Address(address)}]"
    url = address if "://" in address else f"http://{address}"
    shown = address.rpartition("@")[2]
    try:
        host, port = host_of(url), _port_of(url)
    except ValueError as error:
        raise ConfigError(f"{shown!r} is no address: {error}") from error
    if not host or not url.startswith(("http://", "https://")):
        raise ConfigError(f"{shown!r} is no address; give a host, host:port or http(s) URL")
    if "://" in address or port:
        return [url]
    authority, slash, path = url.removeprefix("http://").partition("/")
    return [f"http://{authority}:{usual}{slash}{path}" for usual in USUAL_PORTS]


def _port_of(url: str) -> int | None:
    return urlsplit(url).port


def _refuse_network(address: str) -> None:
    if "*" in address or "," in address:
        raise ConfigError(f"{address!r} is a pattern; name each address")
    if "/" not in address:
        return
    try:
        ipaddress.ip_network(address, strict=False)
    except ValueError:
        return
    raise ConfigError(f"{address!r} is a network, and networks are not searched; name each address")


def report_of(found: Sequence[Probed]) -> Report:
    """The engines with their commands, and the rest."""
    engines = [one for one in found if one.kind is not None]
    hosts = [host_of(one.url) for one in engines]
    return Report(
        engines=tuple(
            Engine(engine=one, command=command_for(one, is_alone=hosts.count(host_of(one.url)) == 1)) for one in engines
        ),
        others=tuple(one for one in found if one.kind is None),
    )


def command_for(found: Probed, *, is_alone: bool) -> str:
    """The command that makes this engine a node; `is_alone`: no other engine was found on its host."""
    host = host_of(found.url)
    name = node_id_of(NodeConfig()) if host in _HERE else _id_of(host)
    if not is_alone:
        name = f"{name[:50]}-{_port_of(found.url) or 'web'}"
    engine = ["--engine", "openai"] if found.kind is EngineKind.OPENAI else []
    return shlex.join(["sollol", "node", "--id", name, *engine, "--url", found.url])


def _id_of(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bus_id_from(host)
    return bus_id_from(f"node-{host}".replace(".", "-").replace(":", "-"))


def show(report: Report, asked: int) -> None:
    """A table of the engines on stdout, a line for everything else on stderr."""
    if report.engines:
        rows = [_row(one) for one in report.engines]
        show_table(("ADDRESS", "ENGINE", "MODELS", "LOADED"), rows, numbers=("MODELS",))
        say()
        say("to join, run:")
        for engine in report.engines:
            say(f"  {engine.command}")
    heard = {host_of(one.engine.url) for one in report.engines}
    for one in report.others:
        # the usual ports of a host with an engine at another of them need no remark
        if not one.is_silent or host_of(one.url) not in heard:
            note(f"{one.url}: {one.detail}")
    if not report.engines:
        note(f"no engine at {counted(asked, 'address', 'addresses')}; start one there, or name its port")


def _row(one: Engine) -> tuple[str, ...]:
    found = one.engine
    return (
        found.url,
        f"{found.kind} {found.version}".strip(),
        "-" if found.models is None else str(found.models),
        ", ".join(found.loaded) or "-",
    )


def waits_s(asked: float | None) -> float:
    """How long an answer is waited for.

    Raises:
        ConfigError: The flag or the environment says something else than 0 to 600 seconds.
    """
    source = "--timeout-s" if asked is not None else DISCOVERY_TIMEOUT
    try:
        within_s = asked if asked is not None else float(os.environ.get(DISCOVERY_TIMEOUT) or _TIMEOUT_S)
    except ValueError:
        within_s = 0.0
    if not 0 < within_s <= _TIMEOUT_MAX_S:
        raise ConfigError(f"{source} must be above 0 and at most {_TIMEOUT_MAX_S:g}")
    return within_s


async def _probe_all(urls: Sequence[str], timeout_s: float) -> list[Probed]:
    turns = asyncio.Semaphore(_AT_ONCE)
    async with _progress(len(urls)) as tell, asyncio.TaskGroup() as group:

        async def one(url: str) -> Probed:
            async with turns:
                found = await probe(NodeConfig(url=url), timeout_s=timeout_s)
            tell()
            return found

        tasks = [group.create_task(one(url)) for url in urls]
    return [task.result() for task in tasks]


@contextlib.asynccontextmanager
async def _progress(total: int) -> AsyncIterator[Callable[[], None]]:
    """Counts on stderr while a person watches; leaves no trace."""
    is_shown, done = sys.stderr.isatty(), 0

    def tell() -> None:
        nonlocal done
        done += 1
        if is_shown:
            print(f"\r{done} of {counted(total, 'address', 'addresses')} asked", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if is_shown and done:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
