"""`sollol join`: makes this machine a member of a fleet, with the token that `sollol invite` printed."""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from sollol_agents.cli import exit_codes, running
from sollol_agents.cli.commands.service import install
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.output import say
from sollol_agents.cli.settings.section import config_home
from sollol_agents.registrar.config import write_secret
from sollol_bus.errors import BusError, ConfigError, NoResponders, SollolError, error_from
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode, encode, error_of
from sollol_bus.trust import tokens
from sollol_schemas import subjects
from sollol_schemas.inboxes import NEWCOMER_INBOX_PREFIX
from sollol_schemas.members import JoinReply, JoinRequest, Member
from sollol_schemas.subjects import Role

_WITHIN_S: Final = 10.0
_NOT_OURS: Final = (
    "the certificate there is not the one of the fleet that invited you: somebody may be in between, or the fleet was "
    "made anew; ask for a new token: sollol invite"
)


class Joined(NamedTuple):
    """What a fleet gave to a new member."""

    address: str
    ca: str
    member: Member
    creds: str


def join(
    token: Annotated[str, Parameter(help="What `sollol invite` printed.")],
    *,
    start: Annotated[bool, Parameter(help="As a node: begin to work at once, as `sollol node` does.")] = True,
    service: Annotated[
        bool,
        Parameter(has_negative=False, show_default=False, help="As a node: write a service of this machine for it."),
    ] = False,
    force: Annotated[
        bool, Parameter(has_negative=False, show_default=False, help="Leave the fleet to which this machine belongs.")
    ] = False,
) -> int:
    """Makes this machine a member of a fleet.

    It dials the fleet's server, checks that it is the one that invited, fetches credentials and writes them, readable
    for you alone, where every `sollol` command finds them. A node then begins to work with the engine on this machine.
    """
    settings = config_home() / "sollol.toml"
    if settings.exists() and not force:
        raise ConfigError(
            f"{settings} exists: this machine belongs to a fleet; --force leaves that one, and another folder in "
            "XDG_CONFIG_HOME keeps both, for every command that is run with it"
        )
    known = tokens.read(token)
    kept: list[Joined] = []

    async def main() -> int:
        kept.append(await _joined(known))
        return exit_codes.OK

    code = running.run(main)
    if code != exit_codes.OK:
        return code
    _write(settings, kept[0])
    member = kept[0].member
    say(f"{member.name} is a member of the fleet at {kept[0].address}; its credentials are in {settings.parent}")
    if member.role is not Role.NODE:
        say("try: sollol nodes")
        return exit_codes.OK
    if service:
        return install("node")
    if not start:
        say("start it with: sollol node")
        return exit_codes.OK
    return running.become("node")


async def _joined(token: tokens.Token) -> Joined:
    """Credentials from the first address of a token at which a server answers.

    Raises:
        SollolError: There is none, it is not the one that invited, or it does not admit.
    """
    unreachable = []
    for address in token.addresses:
        try:
            ca = await _authority_at(address, token.fingerprint)
        except (ConfigError, BusError) as error:
            unreachable.append(f"{address}: {error.message}")
            continue
        return await _admitted(address, ca, token.secret)
    raise SollolError("no server of the fleet answers here\n" + "\n".join(f"  {line}" for line in unreachable))


async def _authority_at(address: str, fingerprint: bytes) -> str:
    """The certificate of the fleet's authority, once it is the one that the token names; no secret is said before."""
    from sollol_bus.trust import certificates  # noqa: PLC0415 nobody else needs what reads certificates

    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    bus = await Bus.connect(_at(address), tls=anybody)
    try:
        ca = (await _asked(bus, JoinRequest())).ca
    finally:
        await bus.close()
    try:
        is_meant = certificates.fingerprint(ca) == fingerprint
    except ValueError:
        is_meant = False
    if not is_meant:
        raise SollolError(_NOT_OURS)
    return ca


async def _admitted(address: str, ca: str, secret: str) -> Joined:
    """What the fleet gives to whoever shows a secret, over a connection that only its server can have."""
    from sollol_bus.trust.claims import Kind, creds_text, new_seed, public_key  # noqa: PLC0415

    seed = new_seed(Kind.USER)
    bus = await Bus.connect(_at(address), tls=ssl.create_default_context(cadata=ca))
    try:
        asked = JoinRequest(secret=secret, key=public_key(seed), machine=socket.gethostname()[:64])
        reply = await _asked(bus, asked)
    finally:
        await bus.close()
    if reply.member is None:
        raise SollolError("the fleet did not say as whom it admits this machine")
    return Joined(address, ca, reply.member, creds_text(reply.claims, seed))


def _at(address: str) -> BusConfig:
    return BusConfig(url=f"tls://{address}", name="join", inbox_prefix=NEWCOMER_INBOX_PREFIX)


async def _asked(bus: Bus, request: JoinRequest) -> JoinReply:
    try:
        reply = await bus.request(subjects.JOIN, encode(request), timeout_s=_WITHIN_S)
    except NoResponders as error:
        raise SollolError(
            "nobody admits members there now: is `sollol up` running where the fleet was made?"
        ) from error
    body = error_of(reply)
    if body is not None:
        raise error_from(body)
    return decode(reply.data, JoinReply)


def _write(settings: Path, joined: Joined) -> None:
    folder = settings.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    creds, ca = folder / "member.creds", folder / "fleet-ca.pem"
    write_secret(creds, joined.creds)
    write_secret(ca, joined.ca)
    text = (
        "# This machine is a member of a fleet. Keep this file to yourself.\n"
        f"[nats]\nurl = {json.dumps(f'tls://{joined.address}')}\nuser = {json.dumps(joined.member.name)}\n"
        f"creds_file = {json.dumps(str(creds))}\ntls_ca_file = {json.dumps(str(ca))}\n"
    )
    if joined.member.role is Role.NODE:
        text += f"\n[node]\nnode_id = {json.dumps(joined.member.name)}\n"
    write_secret(settings, text)
