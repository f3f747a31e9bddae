"""The mode `cheap`: the cheapest candidate, in money, that answers in time.

In time is before the caller's deadline, even with an answer twice as long as expected, or, where the caller gave none,
within a patience counted from its arrival. A price that is not known is never cheaper than one that is. Where nothing
has a price, nothing cheaper is in time, or several cost the same, the strategy in use picks among those that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sollol_agents.scorer.choice.cost import Cost, end_of
from sollol_agents.scorer.choice.expense import comparable, sure_end
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.strategies.base import Choice
from sollol_schemas.prices import told

SAME_RATIO = 0.001
"""Expenses that differ by less are the same."""
_NOTABLE_S = 0.05


def cheapest(
    waiting: Waiting,
    costs: Sequence[Cost],
    now: float,
    patience_s: float,
    strategy: Callable[[Sequence[Cost]], Choice],
) -> Choice:
    """The candidate to take, out of at least one.

    Args:
        waiting: The request.
        costs: Every candidate.
        now: The present instant.
        patience_s: How long it may take where the caller gave no deadline.
        strategy: Picks among candidates that are equal in money.
    """
    priced, currency = comparable(costs)
    if not priced:
        return _explained(strategy(costs), "no node has a price: as fast")
    is_stated = waiting.request.routing.deadline_s is not None
    limit_at = waiting.deadline_at if is_stated else waiting.enqueued_at + patience_s
    left_s = max(0.0, limit_at - now)

    def is_in_time(cost: Cost) -> bool:
        return (sure_end(waiting, cost) if is_stated else end_of(cost) + cost.estimate.rtt_s) <= limit_at

    in_time = [(money, cost) for money, cost in priced if is_in_time(cost)]
    if not in_time:
        unpriced = [c for c in costs if is_in_time(c)]
        if unpriced:
            return _explained(strategy(unpriced), f"no node with a price answers within {left_s:.0f} s")
        return _explained(strategy(costs), f"no node is sure to answer within {left_s:.0f} s: as fast")
    least = min(money for money, _ in in_time)
    equal = [cost for money, cost in in_time if money <= least * (1.0 + SAME_RATIO)]
    choice = strategy(equal)
    return choice._replace(reason=_reason(choice.cost, least, priced, currency, now=now, left_s=left_s))


def _explained(choice: Choice, why: str) -> Choice:
    return choice._replace(note=why)


def _reason(
    chosen: Cost, money: float, priced: Sequence[tuple[float, Cost]], currency: str, *, now: float, left_s: float
) -> str:
    """What it costs and how much later it is than the soonest of the others with a price."""
    waits = "" if chosen.is_free else f"waits {max(0.0, chosen.start - now):.1f} s for {_name(chosen)}: "
    dearer = [(other, cost) for other, cost in priced if cost is not chosen]
    if not dearer:
        return f"{waits}{told(money, currency)}, the only node with a price"
    other, soonest = min(dearer, key=lambda one: end_of(one[1]))
    later_s = end_of(chosen) - end_of(soonest)
    time = f"{later_s:.1f} s later" if later_s > _NOTABLE_S else f"{-later_s:.1f} s sooner"
    if abs(later_s) <= _NOTABLE_S:
        time = "as soon"
    compared = f"{told(money, currency)} instead of {told(other, currency)} on {_name(soonest)}, {time}"
    return f"{waits}{compared}; {left_s:.0f} s are allowed"


def _name(cost: Cost) -> str:
    return cost.horizon.node.node_id
