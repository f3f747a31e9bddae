"""Nodes whose speed nobody measured: one answer at a time is moved there, until it is seen to be as fast as expected.

A prior is a guess from the hardware. All answers of a busy node would follow it to a node that joined a second ago, and
be late together where it is wrong. Pure.
"""

from __future__ import annotations

from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.nodes import Node

LEAST_TOKENS = 8
"""So many tokens after the first that were seen, an answer tells how fast its node is."""
LEAST_SHARE = 0.5
"""Share of the expected speed at which a prior is believed."""
_ON_ITS_WAY_S = 5.0  # from a cut until its answer runs where it was moved to


class Untried:
    """Remembers what was sent to nodes that were not measured yet."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        """Nodes that an answer is on its way to, until it should have come."""

    def may_take(self, node: Node, model: str, now: float) -> bool:
        """Whether one more answer of a model may be moved to a node."""
        if is_measured(node, model):
            return True
        is_on_its_way = self._until.get(node.node_id, 0.0) > now
        return not is_on_its_way and not any(attempt.cuts for attempt in node.attempts.values())

    def note(self, node: Node, model: str, now: float) -> None:
        """An answer is moved to a node."""
        self._until = {node_id: until for node_id, until in self._until.items() if until > now}
        if not is_measured(node, model):
            self._until[node.node_id] = now + _ON_ITS_WAY_S


def is_measured(node: Node, model: str) -> bool:
    """Whether a node's speed rests on more than its hardware: on what it measured, or on answers that stream there."""
    if node.speeds.is_measured(model):
        return True
    company = 1.0 + node.speeds.beta * (len(node.attempts) - 1)
    return any(_is_as_fast(attempt, company) for attempt in node.attempts.values() if attempt.model == model)


def _is_as_fast(attempt: Attempt, company: float) -> bool:
    """Whether an answer streams about as fast as expected, beside what runs there."""
    tokens, seconds = attempt.progress()
    return tokens >= LEAST_TOKENS and tokens * company >= LEAST_SHARE * attempt.decode_tps * seconds
