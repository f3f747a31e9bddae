"""What the scorer publishes about a decision stays within its bound on any fleet."""

from __future__ import annotations

from msgspec.structs import replace

from sollol_agents.scorer.office.decision_events import decision_bytes, stored_together
from sollol_bus.transport.messages import decode
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent, Decisions, Rejection, RejectionReason


def decision(candidates: int, rejections: int, detail: str = "") -> DecisionEvent:
    cost = CandidateCost(
        node_id="n" * 60,
        total_s=1234.5678,
        completion_s=1234.5678,
        wait_s=1.1,
        load_s=2.2,
        prefill_s=3.3,
        decode_s=4.4,
        slowdown_s=5.5,
        evict_s=6.6,
        risk_s=7.7,
    )
    refused = Rejection(node_id="n" * 60, reason=RejectionReason.NOT_RELIABLE_ENOUGH, detail=detail)
    return DecisionEvent(
        decision=Decision(
            request_id="r" * 56, attempt_id="r" * 56 + "-1", node_id="n" * 64, reason="because", model="llama3:8b"
        ),
        candidates=tuple(replace(cost, node_id=cost.node_id + str(i)) for i in range(candidates)),
        rejections=tuple(replace(refused, node_id=refused.node_id + str(i)) for i in range(rejections)),
    )


def test_a_small_decision_is_published_whole() -> None:
    told = decode(decision_bytes(decision(3, 2)), DecisionEvent)
    assert (len(told.candidates), len(told.rejections)) == (3, 2)


def test_a_large_decision_is_cut_to_four_kibibytes_and_keeps_its_best_candidate() -> None:
    data = decision_bytes(decision(8, 8, detail="x" * 1200))
    assert len(data) <= 4096
    told = decode(data, DecisionEvent)
    assert told.candidates[0].node_id.endswith("0")


def test_decisions_to_store_go_together_in_order_and_no_message_becomes_large() -> None:
    small = [decision_bytes(decision(n % 3, 0)) for n in range(40)]
    large = decision_bytes(decision(8, 8, detail="x" * 400))
    told = [*small, *[large] * 20, *small]
    messages = list(stored_together(told))
    assert all(len(data) <= (32 << 10) + 4096 + 200 for data in messages)
    together = [one for data in messages for one in decode(data, Decisions).decisions]
    assert together == [decode(data, DecisionEvent) for data in told]
    assert len(messages) < len(told) / 7
    assert list(stored_together([])) == []
