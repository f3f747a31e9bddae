"""`sollol keys create|list|revoke`: the API keys of the HTTP gateways."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import say, show_json, show_table
from sollol_agents.cli.settings import of_commands
from sollol_agents.gateway.http.keys import KeyStore
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.inboxes import CONTROL_INBOX_PREFIX
from sollol_schemas.keys import ApiKey
from sollol_schemas.routing import PRIORITY_NAMES

keys: Final = App(name="keys", help="Make, list or revoke API keys of the gateways.")


@keys.command
@of_commands.for_clients()
def create(
    name: Annotated[str, Parameter(help="What the key is for; told in refusals and listings.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    admin: Annotated[
        bool, Parameter(negative="", show_default=False, help="May pull, create, copy, push and delete models.")
    ] = False,
    max_priority: Annotated[str, Parameter(help="Highest priority of its requests, 0 to 10 or a name.")] = "10",
    per_minute: Annotated[float, Parameter(help="Requests per minute; 0: no ceiling.")] = 0.0,
    concurrent: Annotated[int, Parameter(help="Requests open at a time; 0: no ceiling.")] = 0,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Makes a key and prints it; it is kept nowhere, so that it cannot be shown again."""
    highest = PRIORITY_NAMES.get(max_priority.lower(), max_priority)

    async def make(store: KeyStore) -> tuple[ApiKey, str]:
        return await store.create(
            name,
            is_admin=admin,
            max_priority=int(highest) if str(highest).isdigit() else -1,
            requests_per_minute=per_minute,
            max_concurrent=concurrent,
        )

    def tell(made: tuple[ApiKey, str]) -> None:
        key, secret = made
        if json_:
            show_json({**_shown(key), "key": secret})
        else:
            say(secret)

    return _with_store(bus, log, make, tell)


@keys.command(name="list")
@of_commands.for_clients()
def list_(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists the keys, without their secrets."""

    async def load(store: KeyStore) -> tuple[ApiKey, ...]:
        await store.prepare()
        return (await store.load()).keys

    def tell(found: tuple[ApiKey, ...]) -> None:
        if json_:
            show_json([_shown(key) for key in found])
        else:
            _show_table(found)

    return _with_store(bus, log, load, tell)


@keys.command
@of_commands.for_clients()
def revoke(
    key: Annotated[str, Parameter(help="The key's id or name, as `sollol keys list` shows it.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Revokes a key; every gateway refuses it within a moment."""

    def tell(gone: ApiKey) -> None:
        if json_:
            show_json(_shown(gone))
        else:
            say(f"{gone.name} ({gone.key_id}) is revoked")

    return _with_store(bus, log, lambda store: store.revoke(key), tell)


def _with_store(
    bus: BusConfig, log: LogConfig, ask: Callable[[KeyStore], Awaitable[Any]], tell: Callable[[Any], None]
) -> int:
    log_lines.set_up(log)
    if bus.user is None:
        bus = msgspec.structs.replace(bus, inbox_prefix=CONTROL_INBOX_PREFIX)

    async def main() -> int:
        async with running.connected(bus) as client:
            tell(await ask(KeyStore(client.bus)))
        return exit_codes.OK

    return running.run(main)


def _shown(key: ApiKey) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(key)
    del fields["secret_sha256"]
    return fields


def _show_table(found: tuple[ApiKey, ...]) -> None:
    rows = [
        (
            key.key_id,
            key.name,
            "yes" if key.is_admin else "-",
            str(key.max_priority),
            f"{key.requests_per_minute:g}" if key.requests_per_minute else "-",
            str(key.max_concurrent or "-"),
            key.created_at,
        )
        for key in found
    ]
    show_table(("KEY", "NAME", "ADMIN", "MAX PRIORITY", "PER MINUTE", "CONCURRENT", "CREATED"), rows)
