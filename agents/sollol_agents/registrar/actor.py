"""The registrar at the bus: the only one that changes who belongs to the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final

import msgspec

from sollol_agents.registrar.config import AUTHORITY, CA, SYSTEM_CREDENTIALS, RegistrarConfig, write_secret
from sollol_bus.actor import Actor
from sollol_bus.errors import BusError, ConfigError, NotConnected, SollolError
from sollol_bus.transport.acting import tell_act
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_bus.trust import tokens
from sollol_bus.trust.authority import (
    Authority,
    admitted,
    claims_of_fleet,
    claims_of_member,
    invited,
    new_secret,
    without,
)
from sollol_bus.trust.callers import named
from sollol_bus.trust.certificates import fingerprint
from sollol_bus.trust.claims import public_key
from sollol_bus.trust.standings import StandingStore
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.inboxes import NEWCOMER_INBOX_PREFIX
from sollol_schemas.instants import seconds_of
from sollol_schemas.members import (
    FleetReply,
    FleetRequest,
    Invite,
    Invited,
    JoinReply,
    JoinRequest,
    Revoke,
)
from sollol_schemas.subjects import Role

log = logging.getLogger(__name__)

_PUSH: Final = "$SYS.REQ.CLAIMS.UPDATE"
_NEWCOMERS: Final = f"{NEWCOMER_INBOX_PREFIX}."
_OPERATORS: Final = "_INBOX"
_MOST_AT_ONCE: Final = 32
"""Questions in hand, of newcomers and of operators each: strangers keep no operator from revoking."""


class Registrar(Actor[RegistrarConfig]):
    """Admits whoever shows the secret of an invitation, and revokes members of the fleet.

    It holds the keys that sign, so there is one, on the machine where the fleet was made. While it is away nobody can
    join; whoever belongs to the fleet stays connected.
    """

    name: ClassVar[str] = "registrar"
    drain_timeout_s = 2.0

    def __init__(self, config: RegistrarConfig, bus_config: BusConfig) -> None:
        super().__init__(config, bus_config)
        self._changing = asyncio.Lock()
        self._in_hand = {_NEWCOMERS: 0, _OPERATORS: 0}
        self._ca = ""
        self._authority: Authority | None = None

    async def on_start(self) -> None:
        """Reads the authority and makes the server know whom it revoked."""
        try:
            self._ca, kept = await asyncio.to_thread(self._read)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; `sollol fleet init` makes it") from error
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self.config.file(AUTHORITY)} cannot be read: {error}") from error
        self._authority = kept
        await self._push(kept)
        self.spawn(self._let_observers_see(), name="observers")
        self.bus.on_reconnect(self._on_reconnect)
        self.take(subjects.JOIN, lambda msg: self._answer(msg, self._join, _NEWCOMERS), queue=subjects.REGISTRARS)
        self.take(
            subjects.ADMIN_FLEET, lambda msg: self._answer(msg, self._administer, _OPERATORS), queue=subjects.REGISTRARS
        )
        await self.register("Admits members to the fleet, and revokes them.")

    @property
    def authority(self) -> Authority:
        """Who belongs to the fleet now."""
        assert self._authority is not None
        return self._authority

    def _read(self) -> tuple[str, Authority]:
        ca = self.config.file(CA).read_text(encoding="ascii")
        return ca, msgspec.json.decode(self.config.file(AUTHORITY).read_bytes(), type=Authority)

    def _answer(self, msg: Msg, handle: Callable[[Msg], Awaitable[msgspec.Struct]], inboxes: str) -> None:
        if not msg.reply.startswith(inboxes) or not msg.reply.isascii() or any(c in msg.reply for c in "*> "):
            return  # whoever asks would have us speak elsewhere, with our rights
        if self._in_hand[inboxes] >= _MOST_AT_ONCE:
            busy = ErrorBody(code=ErrorCode.QUEUE_FULL, message="too many ask at once; try again in a moment")
            self.bus.respond_error(msg.reply, busy)
            return
        self._in_hand[inboxes] += 1
        self.spawn(self._answer_in_turn(msg, handle, inboxes), name="question")

    async def _answer_in_turn(self, msg: Msg, handle: Callable[[Msg], Awaitable[msgspec.Struct]], inboxes: str) -> None:
        try:
            async with self._changing:
                reply = await handle(msg)
            self.bus.publish(msg.reply, encode(reply))
        except NotConnected:
            log.info("nobody can be told while the bus is away", extra={"action": "answer_lost"})
        except SollolError as error:
            with contextlib.suppress(NotConnected):
                self.bus.respond_error(msg.reply, error.body)
        finally:
            self._in_hand[inboxes] -= 1

    async def _join(self, msg: Msg) -> JoinReply:
        request = decode(msg.data, JoinRequest)
        if not request.secret:
            return JoinReply(ca=self._ca)
        now = self.bus.clock.now_unix()
        try:
            changed, member = admitted(self.authority, request.secret, request.key, machine=request.machine, now=now)
        except SollolError as error:
            log.warning("not admitted: %s", error, extra={"action": "join_refused"})
            raise
        is_renewed = changed.revoked != self.authority.revoked
        await self._keep(changed)
        if member.role is Role.OBSERVER:
            self.spawn(self._let_observers_see(), name="observers")
        if is_renewed:
            await self._push_or_say(changed)  # the new credentials hold in any case
        log.info("%s joined as a %s", member.name, member.role, extra={"action": "member_joined"})
        return JoinReply(ca=self._ca, member=member, claims=claims_of_member(changed, member, now=now))

    async def _let_observers_see(self) -> None:
        """Notes of observers of whom nothing is noted yet that they are told of everybody's requests."""
        store = StandingStore(self.bus)
        try:
            for member in self.authority.members.values():
                if member.role is Role.OBSERVER and member.name not in (await store.load()).callers:
                    await store.change(named(member.name, sees_all=True))
        except SollolError as error:
            log.warning("observers are not noted: %s", error, extra={"action": "observers_unnoted"})

    async def _administer(self, msg: Msg) -> FleetReply:
        request: FleetRequest = decode(msg.data, FleetRequest)  # type: ignore[arg-type]  # a union decodes too
        now = self.bus.clock.now_unix()
        token = ""
        match request:
            case Invite(name=name, role=role, is_again=again):
                secret = new_secret()
                await self._keep(invited(self.authority, name, role, secret, now=now, again=again))
                token = tokens.written(tokens.Token(self.authority.addresses, fingerprint(self._ca), secret))
                log.info("%s was invited as a %s", name, role, extra={"action": "member_invited"})
                act = "fleet.rotate" if again else "fleet.invite"
                tell_act(self.bus, act, name, {"role": role.value}, asked=msg.headers or {})
            case Revoke(name=name):
                changed = without(self.authority, name, now=now)
                await self._keep(changed)
                await self._push(changed)
                log.info("%s was revoked", name, extra={"action": "member_revoked"})
                tell_act(self.bus, "fleet.revoke", name, asked=msg.headers or {})
            case _:
                pass
        waiting = (
            one for one in self.authority.invitations.values() if not one.is_used and seconds_of(one.expires_at) > now
        )
        return FleetReply(
            members=tuple(self.authority.members.values()),
            invited=tuple(Invited(name=one.name, role=one.role, expires_at=one.expires_at) for one in waiting),
            token=token,
        )

    async def _keep(self, changed: Authority) -> None:
        """What is not on the disk did not happen."""
        text = msgspec.json.encode(changed).decode()
        try:
            await asyncio.to_thread(write_secret, self.config.file(AUTHORITY), text)
        except OSError as error:
            message = f"{self.config.file(AUTHORITY)}: {error.strerror}; nothing was changed"
            raise SollolError(body=ErrorBody(code=ErrorCode.INTERNAL, message=message)) from error
        self._authority = changed

    def _on_reconnect(self) -> None:
        self.spawn(self._push_again(), name="push")

    async def _push_again(self) -> None:
        """A server that started anew may have lost what was pushed to it."""
        async with self._changing:
            await self._push_or_say(self.authority)

    async def _push_or_say(self, authority: Authority) -> None:
        try:
            await self._push(authority)
        except SollolError as error:
            log.warning("the server was not told whom the fleet revoked: %s", error, extra={"action": "push_failed"})

    async def _push(self, authority: Authority) -> None:
        """Makes the running server know the fleet's claims; it cuts whoever they revoke, and nobody else.

        Raises:
            BusError: It did not take them.
        """
        creds = str(self.config.file(SYSTEM_CREDENTIALS))
        own = msgspec.structs.replace(
            self._bus_config, name="registrar-system", user=None, creds_file=creds, inbox_prefix="_INBOX"
        )
        system = await Bus.connect(own)
        try:
            claims = claims_of_fleet(authority, now=self.bus.clock.now_unix())
            reply = await system.request(_PUSH, claims.encode(), timeout_s=5.0)
        finally:
            await system.close()
        account = public_key(authority.account_seed)
        if f'"{account}"' not in reply.data.decode(errors="replace") or b'"error"' in reply.data:
            raise BusError(
                "the NATS server did not take the fleet's claims: " + reply.data.decode(errors="replace")[:200]
            )
