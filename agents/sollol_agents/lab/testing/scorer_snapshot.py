"""The scorer's state as plain data in one canonical order, so that two scorers can be compared.

Two cores that took the same ordered log have the same snapshot. A leader and a standby that heard the same
fleet differ in `office` alone: only the leader is asked for slots.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.reliability import Record

_DIGITS = 9


def snapshot(core: SchedulerCore) -> dict[str, Any]:
    """Everything the core knows: `fleet` and `lengths`, learnt from the fleet, and `office`, from dispatchers."""
    return {
        "fleet": {node.node_id: _node(node) for node in _sorted_nodes(core)},
        "lengths": {"/".join(key): _rounded(n, mu) for key, n, mu in sorted(core.lengths.cells())},
        "office": {
            "strategy": core.strategy,
            "settings": msgspec.to_builtins(core.config),
            "waiting": [w.request_id for w in sorted(core.waiting, key=lambda w: (w.priority == 0, w.key))],
            "demand": {model: _rounded(rate, at) for model, rate, at in sorted(core.demand.rates())},
            "unconfirmed": sorted(
                a.attempt_id for n in _sorted_nodes(core) for a in n.attempts.values() if not a.is_confirmed
            ),
        },
    }


def canonical_bytes(facts: dict[str, Any]) -> bytes:
    """A snapshot, or a part of one, as JSON with sorted keys: equal states give equal bytes."""
    return msgspec.json.encode(facts, order="sorted")


def _sorted_nodes(core: SchedulerCore) -> list[Node]:
    return sorted(core.fleet.nodes.values(), key=lambda n: n.node_id)


def _node(node: Node) -> dict[str, Any]:
    confirmed = [a for a in node.attempts.values() if a.is_confirmed]
    return {
        "state": node.state.value,
        "instance": node.instance,
        "revision": node.revision,
        "slots": node.slots,
        "is_draining": node.is_draining,
        "is_failing": node.is_failing,
        "attempts": {a.attempt_id: [a.model, a.has_first_token, a.tokens] for a in confirmed},
        "memory": {name: resident.is_loading for name, resident in node.residents.by_name.items()},
        "record": _record(node.record),
        "model_records": {model: _record(record) for model, record in node.model_records.items()},
        "breakers": {
            model: [b.state.value, b.failures] for model, b in node.breakers.by_model.items() if b.is_worth_telling
        },
        "speeds": {
            name: _rounded(known.prompt_tps, known.decode_tps, known.load_s)
            for name, known in node.speeds.models().items()
        },
        "beta": _rounded(node.speeds.beta),
    }


def _record(record: Record) -> list[float]:
    return _rounded(record.attempts, record.successes, record.dispersion)


def _rounded(*values: float) -> list[float]:
    return [round(value, _DIGITS) for value in values]
