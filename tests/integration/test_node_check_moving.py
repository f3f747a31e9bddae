"""What holds agents to the protocol of nodes finds the one rule of answers that move that an agent breaks."""

from __future__ import annotations

import pytest

from sollol_agents.lab.conformance import moving
from sollol_agents.lab.conformance.bus import PlayedBus
from sollol_agents.lab.conformance.findings import Kept
from sollol_agents.lab.testing.checked_node import Living, seen
from sollol_agents.lab.testing.played_node import PlayedNode, PlayedRun
from sollol_bus.transport.connection import Bus
from sollol_schemas.errors import ErrorCode


class Repeats(PlayedNode):
    def rest(self, run: PlayedRun, texts: list[str]) -> list[str]:
        return texts


class AgreesAndGoesOn(PlayedNode):
    def end(self, attempt_id: str, code: ErrorCode = ErrorCode.CANCELLED) -> None:
        if code is not ErrorCode.MOVED:
            super().end(attempt_id, code)


class CutsAnybody(PlayedNode):
    def may_cut(self, attempt_id: str) -> bool:
        return True


class NeverGoesOn(PlayedNode):
    def rest(self, run: PlayedRun, texts: list[str]) -> list[str]:
        if run.said is not None:
            self.refuses(run)
        return texts

    def refuses(self, run: PlayedRun) -> None:
        run.said = {"text": "never said"}
        super().rest(run, [])


class NeverCuts(PlayedNode):
    def may_cut(self, attempt_id: str) -> bool:
        return False


BREAKING: dict[str, type[PlayedNode]] = {
    "continue": Repeats,
    "cut": AgreesAndGoesOn,
    "cut.refused": CutsAnybody,
}


def test_each_rule_has_a_node_that_breaks_it() -> None:
    assert list(BREAKING) == [rule.name for rule in moving.RULES]


@pytest.mark.parametrize("rule", BREAKING)
async def test_a_node_that_breaks_a_rule_fails_that_one_alone(
    rule: str, checked_bus: PlayedBus, nodes_bus: Bus
) -> None:
    kind = BREAKING[rule]
    found = await seen(checked_bus, Living(lambda life: kind(nodes_bus, f"i{life}")), moving.RULES)
    failed = {name: what for name, (kept, what) in found.items() if kept is Kept.FAILED}
    assert list(failed) == [rule], failed or found[rule]


async def test_who_cannot_go_on_says_so(checked_bus: PlayedBus, nodes_bus: Bus) -> None:
    found = await seen(checked_bus, Living(lambda life: NeverGoesOn(nodes_bus, f"i{life}")), moving.RULES)
    assert found["continue"] == (Kept.OK, "")


async def test_who_cuts_nothing_keeps_the_rules_too(checked_bus: PlayedBus, nodes_bus: Bus) -> None:
    found = await seen(checked_bus, Living(lambda life: NeverCuts(nodes_bus, f"i{life}")), moving.RULES)
    assert found["cut"] == (Kept.NOT_TRIED, "it answers with `bad_request`")
    assert found["cut.refused"] == (Kept.OK, "")
