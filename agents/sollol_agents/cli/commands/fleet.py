"""`sollol fleet`: makes a fleet that knows its members, lists them, renews and revokes them; `sollol invite`."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import psutil

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.commands.ceilings import (
    HEADINGS,
    ConcurrentFlag,
    JobsFlag,
    PerMinuteFlag,
    PriorityFlag,
    SeesAllFlag,
    TeamFlag,
    columns,
    given,
)
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import say, show_json, show_table
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.section import config_home
from sollol_agents.node.config import NodeConfig, node_id_of
from sollol_agents.registrar import config as files
from sollol_agents.registrar.config import write_secret
from sollol_bus.errors import ConfigError, NoResponders, NotConnected, SollolError, error_from
from sollol_bus.sdk.client import Client
from sollol_bus.transport.acting import signed, tell_act
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.messages import decode, encode, error_of
from sollol_bus.trust.callers import Roster, gone, named
from sollol_bus.trust.standings import StandingStore
from sollol_schemas import subjects
from sollol_schemas.callers import Standings
from sollol_schemas.ids import is_bus_id
from sollol_schemas.instants import seconds_of
from sollol_schemas.members import FleetReply, FleetRequest, Invite, ListMembers, Revoke
from sollol_schemas.subjects import Role

fleet: Final = Commands(
    name="fleet", help="Make a fleet that knows its members; list them, renew or revoke their credentials."
)

What = Literal["node", "client", "observer", "operator"]
_ROLES: Final = {"node": Role.NODE, "client": Role.CLIENT, "observer": Role.OBSERVER, "operator": Role.CONTROL}
_PORT: Final = 4222


@fleet.command("init")
def init(
    *,
    host: Annotated[
        list[str] | None,
        Parameter(
            has_negative=False, help="Name or address under which members reach this machine; repeat it for several."
        ),
    ] = None,
    port: Annotated[int, Parameter(help="Port of the NATS server.")] = _PORT,
    server_config: Annotated[
        Path | None, Parameter(help="For a NATS server of your own: write here what its configuration has to include.")
    ] = None,
    start: Annotated[bool, Parameter(help="Start the system afterwards, as `sollol up` does.")] = True,
) -> int:
    """Makes this machine the first of a fleet that knows its members, and starts the system there.

    It makes a certificate authority, a certificate of the server and the keys that sign credentials, all readable for
    you alone, and a settings file that `sollol` reads by itself from then on. Everything is encrypted, and nobody may
    do anything without credentials: `sollol invite node desk` prints what to paste on the next machine.

    With `--server-config` the NATS server is one of your own, on this machine; nothing is started.
    """
    settings = config_home() / "sollol.toml"
    folder = config_home() / "fleet"
    for path in (settings, folder):
        if path.exists():
            raise ConfigError(f"{path} exists: this machine belongs to a fleet; move it away to begin a new one")
    if server_config is not None and server_config.exists():
        raise ConfigError(f"{server_config} exists; name a file that does not")
    hosts = host or _own_hosts()
    node_id = node_id_of(NodeConfig())
    from sollol_agents.registrar.founding import found  # noqa: PLC0415 nobody else needs what signs

    folder.mkdir(mode=0o700, parents=True)
    server = found(folder, hosts, port, node_id, now=wall_s())
    if server_config is not None:
        write_secret(server_config.absolute(), server)
    write_secret(settings, _settings("" if server_config else server, folder, port, node_id))
    say(f"made a fleet in {folder}; members reach it at {', '.join(hosts)}, port {port}")
    if server_config is not None:
        say(f"let the NATS server's configuration include {server_config}, start it on port {port}, then: sollol up")
        return exit_codes.OK
    say("invite the next machine with: sollol invite node NAME")
    if not start:
        say("start it with: sollol up")
        return exit_codes.OK
    return running.become("up")


def _settings(server: str, folder: Path, port: int, node_id: str) -> str:
    """The settings of the first machine; `server` configures a NATS server that `sollol up` starts, if it does."""
    own = f'\n[server]\nhost = "0.0.0.0"\nextra_config = """\n{server}"""\n' if server else ""
    return (
        "# This machine made a fleet: its keys are named here. Keep this file to yourself.\n"
        f'[nats]\nurl = "tls://127.0.0.1:{port}"\nuser = {_text(files.CONTROL)}\n'
        f"creds_file = {_text(folder / files.CONTROL_CREDENTIALS)}\ntls_ca_file = {_text(folder / files.CA)}\n"
        f"\n[up]\nnats_port = {port}\n"
        f"\n[node]\nnode_id = {_text(node_id)}\n{own}"
    )


@fleet.command("list")
@of_commands.for_clients()
def list_(*, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Lists the members, and who was invited and has not come yet."""
    roster = Roster()

    async def load(client: Client) -> None:
        nonlocal roster
        roster = Roster(await StandingStore(client.bus).load())

    def tell(reply: FleetReply) -> None:
        asking = (Role.CLIENT, Role.OBSERVER)
        if json_:
            teams = {one.name: roster.team_of(one.name) for one in reply.members if one.role in asking}
            show_json({**msgspec.to_builtins(reply), "teams": teams})
            return

        def row(name: str, role: Role, machine: str, since: str) -> list[str]:
            has_team = role in asking
            shown = columns(roster.team_of(name), roster.of(name)) if has_team else ("-",) * len(HEADINGS)
            return [name, _word(role), *shown, machine, since]

        rows = [row(one.name, one.role, one.machine or "-", _day(one.joined_at)) for one in reply.members]
        rows += [row(one.name, one.role, "-", f"invited until {_day(one.expires_at)}") for one in reply.invited]
        show_table(["NAME", "ROLE", *HEADINGS, "MACHINE", "SINCE"], rows)

    return _ask(bus, log, ListMembers(), tell, then=load)


@fleet.command("limit")
@of_commands.for_clients()
def limit(
    name: Annotated[str, Parameter(help="A member, or an API key as `key-ID`.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    team: TeamFlag = None,
    max_priority: PriorityFlag = None,
    per_minute: PerMinuteFlag = None,
    concurrent: ConcurrentFlag = None,
    jobs: JobsFlag = None,
    sees_all: SeesAllFlag = None,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Changes the team and the ceilings of a caller, and shows them; they hold within a moment."""
    log_lines.set_up(log)
    _named(name)
    changes = given(team, max_priority, per_minute, concurrent, jobs, sees_all=sees_all)

    async def main() -> int:
        async with running.connected(bus) as client:
            store = StandingStore(client.bus)
            roster = Roster(await (store.change(named(name, **changes)) if changes else store.load()))
            if changes:
                tell_act(client.bus, "fleet.limit", name, changes)
        if json_:
            show_json({**msgspec.structs.asdict(roster.of(name)), "name": name, "team": roster.team_of(name)})
        else:
            show_table(["NAME", *HEADINGS], [[name, *columns(roster.team_of(name), roster.of(name))]])
        return exit_codes.OK

    return running.run(main)


@fleet.command("rotate")
@of_commands.for_clients()
def rotate(
    name: Annotated[str, Parameter(help="The member, as `sollol fleet list` shows it.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Prints a token with which a member fetches new credentials; its old ones count until then, and no longer."""

    def request(members: FleetReply) -> FleetRequest:
        found = next((one for one in members.members if one.name == name), None)
        if found is None:
            names = ", ".join(sorted(one.name for one in members.members))
            raise ConfigError(f"{name} is no member; there are: {names}")
        return Invite(name=name, role=found.role, is_again=True)

    return _ask(bus, log, request, lambda reply: _tell_token(reply, json_=json_))


@fleet.command("revoke")
@of_commands.for_clients()
def revoke(
    name: Annotated[str, Parameter(help="The member, as `sollol fleet list` shows it.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Cuts a member at once and admits it no more; the others stay connected."""

    def tell(reply: FleetReply) -> None:
        if json_:
            show_json(msgspec.to_builtins(reply))
        else:
            say(f"{name} is revoked")

    async def note(client: Client) -> None:
        await StandingStore(client.bus).change(gone(name))

    return _ask(bus, log, Revoke(name=_named(name)), tell, then=note)


@of_commands.for_clients()
def invite(
    role: Annotated[What, Parameter(help="What it may do: node, client, observer or operator.")],
    name: Annotated[str, Parameter(help="Its name in the fleet; a node's id.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    team: TeamFlag = None,
    max_priority: PriorityFlag = None,
    per_minute: PerMinuteFlag = None,
    concurrent: ConcurrentFlag = None,
    jobs: JobsFlag = None,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Prints the one command with which a machine joins; it is valid for an hour, and once.

    Team and ceilings are for those who ask: clients and observers. `sollol fleet limit` changes them later.
    """
    standing = given(team, max_priority, per_minute, concurrent, jobs)
    is_asking = role in ("client", "observer")
    if standing and not is_asking:
        raise ConfigError(f"a {role} has no team and no ceilings: it asks for nothing, or is an operator")
    change = named(name, sees_all=role == "observer", **standing)
    change(Standings(callers={}))  # refuses what is out of range before anybody is invited

    async def note(client: Client) -> None:
        if is_asking:
            await StandingStore(client.bus).change(change)

    return _ask(
        bus, log, Invite(name=_named(name), role=_ROLES[role]), lambda reply: _tell_token(reply, json_=json_), then=note
    )


def _tell_token(reply: FleetReply, *, json_: bool) -> None:
    if json_:
        show_json({"token": reply.token})
        return
    say("on that machine, within the hour:")
    say("")
    say(f"  sollol join {reply.token}")


def _ask(
    bus: BusConfig,
    log: LogConfig,
    request: FleetRequest | Callable[[FleetReply], FleetRequest],
    tell: Callable[[FleetReply], None],
    *,
    then: Callable[[Client], Awaitable[None]] | None = None,
) -> int:
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:

            async def asked(one: FleetRequest) -> FleetReply:
                try:
                    sign = signed(client.bus, subjects.ADMIN_FLEET)
                    reply = await client.bus.request(subjects.ADMIN_FLEET, encode(one), timeout_s=10.0, headers=sign)
                except NoResponders as error:
                    raise SollolError(
                        "no fleet that knows its members runs there: `sollol fleet init` makes one"
                    ) from error
                body = error_of(reply)
                if body is not None:
                    raise error_from(body)
                return decode(reply.data, FleetReply)

            reply = await asked(request(await asked(ListMembers())) if callable(request) else request)
            if then is not None:
                await then(client)
            tell(reply)
        return exit_codes.OK

    try:
        return running.run(main)
    except NotConnected as error:
        if (config_home() / "sollol.toml").exists():
            raise
        raise NotConnected(f"{error.message} `sollol fleet init` makes a fleet that can invite.") from error


def _named(name: str) -> str:
    """The name of a member as it was given.

    Raises:
        ConfigError: Nobody can have it.
    """
    if not is_bus_id(name):
        raise ConfigError(f"{name!r} cannot be a name: 1 to 64 letters, digits, _ or -")
    return name


def _own_hosts() -> list[str]:
    """This machine's name and the addresses by which others may reach it."""
    found = [socket.gethostname()]
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(one.address.partition("%")[0])
            if not (address.is_loopback or address.is_link_local):
                found.append(str(address))
    return found


def _word(role: Role) -> str:
    return "operator" if role is Role.CONTROL else role.value


def _day(at: str) -> str:
    return datetime.fromtimestamp(seconds_of(at), UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _text(value: object) -> str:
    return json.dumps(str(value))
