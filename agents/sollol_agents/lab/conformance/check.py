"""The run: every rule in order, and what was seen of each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from sollol_agents.lab.conformance import answering, controlling, joining, lasting, moving, speaking
from sollol_agents.lab.conformance.findings import BrokenRule, Finding, Kept, NotTried
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.conformance.rule import Rule

PARTS: Final[tuple[tuple[Rule, ...], ...]] = (
    joining.FIRST,
    answering.RULES,
    speaking.RULES,
    moving.RULES,
    controlling.RULES,
    lasting.RULES,
    joining.LAST,
    lasting.LAST,
)
RULES: Final = tuple(rule for part in PARTS for rule in part)
"""In the order in which they are tried: each leaves the node as the next one needs it."""

_TELL_WHY: Final = ("claim.asked", "telemetry.form")
"""They may say why a node did not join."""


async def held_to(fleet: PlayedFleet, rules: tuple[Rule, ...] = RULES) -> AsyncIterator[Finding]:
    """What is seen of each of these rules; the node joins meanwhile, in `join_s` at most."""
    await fleet.until(lambda: fleet.beats or fleet.is_gone, fleet.pace.join_s)
    for rule in rules:
        kept, seen = Kept.OK, ""
        try:
            if not fleet.beats and rule.name not in _TELL_WHY:
                raise NotTried("no heartbeat came")  # noqa: TRY301 as a rule would
            await rule.check(fleet)
        except BrokenRule as broken:
            kept, seen = Kept.FAILED, str(broken)
        except NotTried as why:
            kept, seen = Kept.NOT_TRIED, str(why)
        yield Finding(rule=rule.name, says=rule.says, kept=kept, seen=seen)
        await fleet.settle()
