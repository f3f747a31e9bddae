"""Rules: what outlasts a connection or a process, and how a node leaves."""

from __future__ import annotations

import asyncio

from sollol_agents.lab.conformance.attempts import Go
from sollol_agents.lab.conformance.findings import BrokenRule, NotTried
from sollol_agents.lab.conformance.fleet import Cut, PlayedFleet, Process
from sollol_agents.lab.conformance.rule import Rule
from sollol_schemas.errors import ErrorCode
from sollol_schemas.stores import NodeClaim

_BEGUN = 2
_OTHER = NodeClaim(node_id="other", instance="another", host="elsewhere")


async def _cut(fleet: PlayedFleet) -> Cut:
    """What ran when the connection was broken, once; several rules look at it."""
    if fleet.cut is not None:
        return fleet.cut
    if fleet.server.cut is None:
        raise NotTried("its connection can be broken on a server that is started here alone: do without --nats")
    if fleet.state.slots < _BEGUN:
        raise NotTried("it has too few slots")
    await fleet.until(lambda: fleet.state.revision)
    streaming, silent = fleet.long(), fleet.long(go=Go(accepted=None, start=None))
    await fleet.must(
        lambda: len(streaming.heard) >= _BEGUN and silent.accepted, lambda: f"no stream: {streaming.how}; {silent.how}"
    )
    if streaming.is_over:
        raise NotTried("its answers are too short to be cut off")
    fleet.server.cut()
    fleet.cut = Cut(streaming, silent, len(fleet.claims), len(fleet.beats))
    return fleet.cut


async def _returns(fleet: PlayedFleet) -> None:
    cut = await _cut(fleet)
    await fleet.must(lambda: len(fleet.beats) > cut.beats, lambda: "no heartbeat came after its connection was broken")
    await fleet.must(
        lambda: len(fleet.claims) > cut.claims, lambda: "it did not claim its id after its connection was broken"
    )
    asked = fleet.claims[cut.claims][1]
    if asked is not None and asked.is_starting:
        raise BrokenRule("a process that has joined claims its id with `is_starting`")


async def _breaks_streams(fleet: PlayedFleet) -> None:
    stream = (await _cut(fleet)).streaming
    await fleet.must(lambda: stream.is_over, lambda: f"the end of a stream that broke was not reported: {stream.how}")
    if stream.code is not ErrorCode.CONNECTION_LOST:
        raise BrokenRule(f"a stream that broke did not end with `connection_lost`: {stream.how}")
    await fleet.must(lambda: stream.outcomes, lambda: f"no outcome of a stream that broke: {stream.how}")


async def _asks_for_leave(fleet: PlayedFleet) -> None:
    stream = (await _cut(fleet)).streaming

    def tickets() -> list[str]:
        return [one.ticket for one in fleet.keeping.leaves if one.inbox == stream.reply_to]

    await fleet.must(tickets, lambda: f"it did not ask on sollol.v1.leave.{fleet.node_id} to speak to a caller again")
    if stream.exec_.ticket not in tickets():
        raise BrokenRule(f"it asked with the ticket {tickets()[0]!r}, its exec had {stream.exec_.ticket!r}")
    await fleet.must(
        lambda: stream.is_broken_off,
        lambda: f"the caller of a stream that broke did not get an error and then an empty message: {stream.how}",
    )


async def _stays_silent(fleet: PlayedFleet) -> None:
    silent = (await _cut(fleet)).silent
    silent.go = Go()
    await fleet.must(
        lambda: silent.is_over or silent.heard, lambda: f"the end of what had not spoken was not reported: {silent.how}"
    )
    await fleet.quiet()
    if silent.heard or silent.code is not ErrorCode.CONNECTION_LOST:
        raise BrokenRule(f"what had not spoken did not end in silence, with `connection_lost`: {silent.how}")


async def _keeps_to_its_rights(fleet: PlayedFleet) -> None:
    refused = await asyncio.to_thread(fleet.server.refused)
    if refused:
        raise BrokenRule(f"the server refused: {'; '.join(sorted(set(refused))[:3])}")


def _process(fleet: PlayedFleet) -> Process:
    if fleet.process is None:
        raise NotTried("it was not started here: use --run")
    return fleet.process


async def _leaves(fleet: PlayedFleet) -> None:
    process = _process(fleet)
    attempt = fleet.chat(fleet.pace.last)
    await fleet.until(lambda: len(attempt.heard) >= _BEGUN)
    await process.end()
    await fleet.until(lambda: fleet.loads and fleet.loads[-1].has_left)
    if not fleet.loads or not fleet.loads[-1].has_left:
        raise BrokenRule("its last load message does not say `has_left`")
    if fleet.told[-1] is not fleet.loads[-1]:
        raise BrokenRule("it went on telling after `has_left`")
    if not any(one.is_draining for one in fleet.told[-_TOLD_LATELY:-1]):
        raise BrokenRule("it did not tell that it drains")
    if not (attempt.is_over and attempt.has_end and attempt.outcomes):
        raise BrokenRule(f"what ran was left without an end or an outcome: {attempt.how}")
    if attempt.code not in {None, ErrorCode.ACTOR_STOPPED}:
        raise BrokenRule(f"what ran was neither finished nor broken off with `actor_stopped`: {attempt.how}")


async def _started_again(fleet: PlayedFleet) -> int:
    process, claims = _process(fleet), len(fleet.claims)
    fleet.is_gone = False
    await process.start()
    if not await fleet.until(lambda: len(fleet.claims) > claims or fleet.is_gone, fleet.pace.join_s):
        raise BrokenRule("started again, it did not claim its id")
    return claims


async def _yields_at_start(fleet: PlayedFleet) -> None:
    fleet.keeping.owner, told = _OTHER, len(fleet.told)
    await _started_again(fleet)
    await fleet.must(
        lambda: fleet.is_gone, lambda: "its claim was answered with the process that has the id: it goes on"
    )
    if len(fleet.told) > told:
        raise BrokenRule("it told of itself although another process has its id")


async def _yields_later(fleet: PlayedFleet) -> None:
    fleet.keeping.owner, told = None, len(fleet.told)
    await _started_again(fleet)
    if not await fleet.until(lambda: len(fleet.told) > told, fleet.pace.join_s):
        raise NotTried("started again, it did not join")
    fleet.keeping.owner = _OTHER
    if fleet.server.cut is not None:
        fleet.server.cut()  # after which it claims its id at once
    await fleet.must(lambda: fleet.is_gone, lambda: "another process got its id, and it goes on")


_TOLD_LATELY = 20

RULES = (
    Rule("reconnect.claim", "It comes back when its connection broke, and claims its id again.", _returns),
    Rule("reconnect.stream", "It reports `connection_lost` of a stream that broke, once it is back.", _breaks_streams),
    Rule("reconnect.leave", "It asks for leave, with the ticket, and ends the stream that broke.", _asks_for_leave),
    Rule("reconnect.silent", "What had not spoken when its connection broke never does.", _stays_silent),
)
LAST = (
    Rule("leave", "Asked to end, it finishes what runs, and says `has_left` as its last word.", _leaves),
    Rule("claim.taken", "It ends when another process has its id.", _yields_at_start),
    Rule("claim.lost", "It ends when another process got its id meanwhile.", _yields_later),
    Rule("rights", "It says and hears nothing else than the protocol has.", _keeps_to_its_rights),
)
