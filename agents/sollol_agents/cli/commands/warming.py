"""`sollol warm`: computes a prompt's beginning on nodes before anybody waits for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.commands.requesting import KeepAlive, Model, named, number_or_text
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import note, seconds, show_json, show_table
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.warming import NODES_MAX, Warmed
from sollol_bus.transport.connection import BusConfig


@of_commands.for_clients()
def warm(
    model: Model,
    *,
    system: Annotated[str, Parameter(help="File with the system prompt, or - for stdin.")],
    node: Annotated[
        list[str] | None,
        Parameter(help="A node, repeatable: its id, host, address or URL; without: the best."),
    ] = None,
    nodes: Annotated[int, Parameter(help="How many of the best nodes, where none is named.")] = 1,
    keep_alive: KeepAlive = None,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Computes a system prompt on nodes, so that requests which begin with it start sooner there.

    It stays as long as the engine keeps it; the scorer knows where it lies. Ends with 1 when no node could do it.
    """
    log_lines.set_up(log)
    if not 1 <= nodes <= NODES_MAX:
        raise ConfigError(f"--nodes must be 1 to {NODES_MAX}")
    text = _read(system)
    fields: dict[str, Any] = {} if keep_alive is None else {"keep_alive": number_or_text(keep_alive)}
    found: list[Warmed] = []

    async def main() -> int:
        async with running.connected(named(bus)) as client:
            async for one in client.warm(model, text, nodes=tuple(node or ()), count=nodes, **fields):
                found.append(one)
                if not json_:
                    note(f"{one.node}: {_words(one)}")
        return exit_codes.OK if any(one.error is None for one in found) else exit_codes.FAILED

    code = running.run(main)
    if json_:
        show_json(found)
    elif found:
        show_warmed(found)
    return code


def _read(name: str) -> str:
    """The text in a file, or on stdin.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--system names a file, or - for stdin: {name!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--system {name}: {error}") from error


def show_warmed(found: Sequence[Warmed]) -> None:
    """Where the beginning lies now, and what that cost."""
    rows = [
        (
            one.node,
            str(one.prompt_tokens) if one.error is None else "-",
            "-" if one.cached_tokens is None else str(one.cached_tokens),
            seconds(one.load_s) if one.load_s else "-",
            seconds(one.actual_s) if one.error is None else "-",
            "" if one.error is None else one.error.message,
        )
        for one in sorted(found, key=lambda one: (one.error is not None, one.actual_s, one.node))
    ]
    show_table(
        ("NODE", "TOKENS", "CACHED BEFORE", "LOAD", "TOOK", "PROBLEM"),
        rows,
        numbers=("TOKENS", "CACHED BEFORE", "LOAD", "TOOK"),
    )


def _words(one: Warmed) -> str:
    if one.error is not None:
        return one.error.message
    return f"{one.prompt_tokens} tokens in {seconds(one.actual_s)}"
