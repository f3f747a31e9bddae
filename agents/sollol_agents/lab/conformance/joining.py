"""Rules: how a node joins, and what it tells of itself."""

from __future__ import annotations

import time
from itertools import pairwise

from sollol_agents.lab.conformance.findings import BrokenRule, NotTried
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.conformance.keeping import REVISION
from sollol_agents.lab.conformance.rule import Rule
from sollol_schemas.control import ControlDrain
from sollol_schemas.inboxes import is_node_inbox

_LOADS_PER_S = 20
_LOADS_SPARE = 5
_TURNS = 30
_CLAIMS_AT_START = 2


async def _claims(fleet: PlayedFleet) -> None:
    if not fleet.claims:
        raise BrokenRule(f"nothing came on sollol.v1.claim.{fleet.node_id or '<id>'}")
    msg, asked = fleet.claims[0]
    if asked is None:
        raise BrokenRule(fleet.troubles[0])
    if asked.claim.node_id != fleet.node_id:
        raise BrokenRule(f"the subject is of {fleet.node_id}, the claim of {asked.claim.node_id}")
    if not is_node_inbox(msg.reply, fleet.node_id):
        raise BrokenRule(f"the reply subject {msg.reply!r} is not below _INBOX_node.{fleet.node_id}.")
    if not asked.is_starting:
        raise BrokenRule("the first claim does not say `is_starting`")


async def _claims_soon(fleet: PlayedFleet) -> None:
    if not fleet.claims:
        raise NotTried("it did not claim its id")
    if not await fleet.until(lambda: len(fleet.claims) > 1, fleet.pace.unkept_s):
        raise BrokenRule(f"its claim was answered with revision 0, and no other came within {fleet.pace.unkept_s:g} s")


async def _claims_again(fleet: PlayedFleet) -> None:
    if not fleet.claims:
        raise NotTried("it did not claim its id")
    await fleet.until(lambda: len(fleet.claims) > _CLAIMS_AT_START, fleet.pace.claim_s)
    times = [*fleet.keeping.claimed_at, time.monotonic()]
    longest = max(later - one for one, later in pairwise(times))
    if longest > fleet.pace.claim_s:
        raise BrokenRule(f"{longest:.1f} s between two claims")
    if any(asked is not None and asked.is_starting for _, asked in fleet.claims[1:]):
        raise BrokenRule("a process that has joined claims its id with `is_starting`")


async def _listens(fleet: PlayedFleet) -> None:
    await fleet.bus.flush()  # the server tells before that who does not listen
    if fleet.unheard:
        raise BrokenRule(f"at its first word of itself it did not listen on {', '.join(fleet.unheard)}")


async def _spaces_its_load(fleet: PlayedFleet) -> None:
    began_at, told = time.monotonic(), len(fleet.loads)
    for turn in range(_TURNS):
        await fleet.control(ControlDrain(is_draining=turn % 2 == 0))
    await fleet.until(lambda: len(fleet.loads) > told and not fleet.loads[-1].is_draining)
    count, took_s = len(fleet.loads) - told, time.monotonic() - began_at
    if count > took_s * _LOADS_PER_S + _LOADS_SPARE:
        raise BrokenRule(f"it told its load {count} times within {took_s:.1f} s")
    if not count or fleet.loads[-1].is_draining:
        raise BrokenRule("of many changes, the last one was not told")


async def _shows_its_revision(fleet: PlayedFleet) -> None:
    if not fleet.claims:
        raise NotTried("it did not claim its id")
    await fleet.must(
        lambda: fleet.beats and fleet.state.revision == REVISION,
        lambda: f"the claim was answered with {REVISION}, telemetry has {fleet.state.revision}",
    )


async def _tells_in_form(fleet: PlayedFleet) -> None:
    if fleet.troubles:
        raise BrokenRule(fleet.troubles[0])
    if not fleet.beats:
        raise BrokenRule(f"no heartbeat within {fleet.pace.join_s:g} s")
    others = {one.node_id for one in fleet.told} - {fleet.node_id}
    if others:
        raise BrokenRule(f"on the subject of {fleet.node_id} it calls itself {others.pop()}")
    claimed = {asked.claim.instance for _, asked in fleet.claims if asked is not None}
    instances = {one.instance for one in fleet.told}
    if len(instances | claimed) > 1:
        raise BrokenRule(f"it has several instances: {', '.join(sorted(instances | claimed))}")
    if not fleet.state.installed or not fleet.state.slots:
        raise BrokenRule("its heartbeat has no `installed` model, or no `slots`")


async def _counts(fleet: PlayedFleet) -> None:
    for one, later in pairwise(fleet.told):
        if later.seq <= one.seq:
            raise BrokenRule(f"seq {later.seq} of a {type(later).__name__} came after {one.seq}")


async def _beats(fleet: PlayedFleet) -> None:
    if not fleet.beats:
        raise NotTried("no heartbeat came")
    seen = len(fleet.beats)
    await fleet.until(lambda: len(fleet.beats) > seen, fleet.pace.beat_s)
    longest = max((later - one for (one, _), (later, _) in pairwise(fleet.beats)), default=fleet.pace.beat_s)
    if len(fleet.beats) == seen or longest > fleet.pace.beat_s:
        raise BrokenRule(f"up to {longest:.1f} s or more between two heartbeats")


async def _tells_its_load(fleet: PlayedFleet) -> None:
    attempt = fleet.long()
    await fleet.must(
        lambda: True in attempt.told_by_load, lambda: f"no load message has the attempt in `in_flight`; {attempt.how}"
    )
    fleet.cancel(attempt)
    await fleet.must(
        lambda: attempt.told_by_load[-1] is False, lambda: "no load message tells that its slot is free again"
    )


FIRST = (
    Rule("claim.asked", "It claims its id by request, before it tells of itself.", _claims),
    Rule("claim.unkept", "Where nobody keeps claims it joins all the same, and asks again soon.", _claims_soon),
    Rule("claim.revision", "Its telemetry has the revision of its claim.", _shows_its_revision),
    Rule("join.listens", "It listens on its subjects before it tells of itself.", _listens),
    Rule("load.told", "It tells its load when a slot is taken and when it is free again.", _tells_its_load),
)
LAST = (
    Rule("claim.again", "It makes sure of its claim every 5 s, and does not say then that it starts.", _claims_again),
    Rule(
        "load.pace", "It tells its load at most 20 times a second, and the last change in any case.", _spaces_its_load
    ),
    Rule("telemetry.form", "Telemetry and load are as the contract has them, of one id and instance.", _tells_in_form),
    Rule("telemetry.seq", "`seq` counts telemetry and load together.", _counts),
    Rule("telemetry.pace", "A heartbeat comes each second.", _beats),
)
"""They look at all that was told meanwhile."""
