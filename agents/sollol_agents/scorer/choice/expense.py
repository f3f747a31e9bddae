"""What a request would cost in money on a node: its share of the node's hours and of the energy, as nodes charge it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sollol_agents.scorer.choice.cost import LATE, Cost, end_of
from sollol_agents.scorer.choice.waiting import Waiting


def expense_of(cost: Cost) -> float | None:
    """Predicted money, in the currency of the node; None: not known.

    Whoever runs at the same time shares the node's seconds, as in the node's own figures.
    """
    telemetry = cost.horizon.node.telemetry
    if not telemetry.price.is_known:
        return None
    h, e = cost.horizon, cost.estimate
    load_s = e.profile.load_s if cost.load is not None else 0.0
    company = sum(end > cost.start for end, _ in h.finishes)
    busy_s = (load_s + e.work_s / h.pace + cost.slowdown_s) / (1.0 + min(company, max(0, h.slots - 1)))
    watts = telemetry.power.busy_w
    return telemetry.price.of(busy_s, None if watts is None else watts * busy_s)


def comparable(costs: Sequence[Cost]) -> tuple[list[tuple[float, Cost]], str]:
    """The candidates whose expense is known, in the currency that most of them have, and that currency.

    Nobody exchanges money here: what is in another currency counts as not known.
    """
    known = [(money, cost) for cost in costs if (money := expense_of(cost)) is not None]
    counts = Counter(cost.horizon.node.telemetry.price.currency for _, cost in known)
    currency = min(counts, key=lambda name: (-counts[name], name), default="")
    return [(money, cost) for money, cost in known if cost.horizon.node.telemetry.price.currency == currency], currency


def sure_end(waiting: Waiting, cost: Cost) -> float:
    """When the answer would be complete even if it became long: nine of ten are done by then.

    Where the caller limits the answer, it becomes no longer than that.
    """
    e, limit = cost.estimate, waiting.request.context.max_output_tokens
    more = (LATE - 1.0) * waiting.output_mean
    if limit is not None:
        more = min(more, max(0.0, limit - waiting.output_mean))
    return end_of(cost) + more / (e.profile.decode_tps * cost.horizon.pace) + e.rtt_s
