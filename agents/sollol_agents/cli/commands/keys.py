"""`sollol keys create|list|revoke`: the API keys of the HTTP gateways."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.commands.ceilings import (
    HEADINGS,
    ConcurrentFlag,
    JobsFlag,
    PerMinuteFlag,
    PriorityFlag,
    TeamFlag,
    columns,
    given,
)
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import say, show_json, show_table
from sollol_agents.cli.settings import of_commands
from sollol_agents.gateway.http.keys import KeyStore
from sollol_bus.transport.connection import BusConfig
from sollol_bus.trust.callers import Roster
from sollol_schemas.callers import name_of_key
from sollol_schemas.inboxes import CONTROL_INBOX_PREFIX
from sollol_schemas.keys import ApiKey

_OF_STANDING: Final = ("max_priority", "requests_per_minute", "max_concurrent", "max_jobs")

keys: Final = Commands(name="keys", help="Make, list or revoke API keys of the gateways.")


@keys.command("create")
@of_commands.for_clients()
def create(
    name: Annotated[str, Parameter(help="What the key is for; told in refusals and listings.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    admin: Annotated[
        bool, Parameter(has_negative=False, show_default=False, help="May pull, create, copy, push and delete models.")
    ] = False,
    team: TeamFlag = None,
    max_priority: PriorityFlag = None,
    per_minute: PerMinuteFlag = None,
    concurrent: ConcurrentFlag = None,
    jobs: JobsFlag = None,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Makes a key and prints it; it is kept nowhere, so that it cannot be shown again."""
    standing = given(team, max_priority, per_minute, concurrent, jobs)

    async def make(store: KeyStore) -> tuple[ApiKey, str]:
        return await store.create(name, is_admin=admin, **standing)

    def tell(made: tuple[ApiKey, str]) -> None:
        key, secret = made
        if json_:
            show_json({**_shown(key, Roster()), **standing, "key": secret})
        else:
            say(secret)

    return _with_store(bus, log, make, tell)


@keys.command("list")
@of_commands.for_clients()
def list_(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists the keys, without their secrets."""

    async def load(store: KeyStore) -> tuple[tuple[ApiKey, ...], Roster]:
        return (await store.load()).keys, Roster(await store.standings.load())

    def tell(found: tuple[tuple[ApiKey, ...], Roster]) -> None:
        ring, roster = found
        if json_:
            show_json([_shown(key, roster) for key in ring])
        else:
            show_keys(ring, roster)

    return _with_store(bus, log, load, tell)


@keys.command("revoke")
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
            show_json(_shown(gone, Roster()))
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


def _shown(key: ApiKey, roster: Roster) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(key)
    caller = name_of_key(key.key_id)
    standing = {name: getattr(roster.of(caller), name) for name in _OF_STANDING}
    del fields["secret_sha256"]
    return {**fields, "caller": caller, **standing, "team": roster.team_of(caller)}


def show_keys(ring: tuple[ApiKey, ...], roster: Roster) -> None:
    """The keys as a table, each with its caller's ceilings."""
    rows = []
    for key in ring:
        caller = name_of_key(key.key_id)
        standing = columns(roster.team_of(caller), roster.of(caller))
        rows.append((key.key_id, key.name, "yes" if key.is_admin else "-", *standing, key.created_at))
    show_table(
        ("KEY", "NAME", "ADMIN", *HEADINGS, "CREATED"),
        rows,
        numbers=HEADINGS[1:],
        first_to_go=("CREATED", *reversed(HEADINGS)),
        empty="no keys; `sollol keys create NAME` makes one",
    )
