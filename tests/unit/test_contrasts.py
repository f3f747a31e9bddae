"""Reasons say what the choice is better than, and by how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_schemas.contrasts import contrast
from sollol_schemas.decision import CandidateCost, Rejection, RejectionReason


def cost(node_id: str, total_s: float, **more: Any) -> CandidateCost:
    return CandidateCost(node_id=node_id, total_s=total_s, completion_s=max(total_s, 0.0), **more)


def rejected(**reasons: RejectionReason) -> list[Rejection]:
    return [Rejection(node_id=node_id, reason=reason) for node_id, reason in reasons.items()]


LAPTOP = cost("laptop", 1.5, decode_s=1.5)
DEN = cost("den", 1.53, decode_s=1.53)
COLD = cost("gaming-pc", 8.5, load_s=7.0, decode_s=1.5)
BUSY = cost("gaming-pc", 1.7, wait_s=1.2, decode_s=0.5, is_busy=True)
R = RejectionReason
EXAMPLES: dict[str, str] = {
    "a little": contrast(LAPTOP, [DEN, COLD]),
    "a load": contrast(LAPTOP, [COLD]),
    "speed": contrast(LAPTOP, [cost("cpu-box", 12.0, decode_s=12.0)]),
    "a prompt that it knows": contrast(
        cost("laptop", 0.5, decode_s=0.5, prefix_hit_tokens=900), [cost("den", 2.5, prefill_s=2.0, decode_s=0.5)]
    ),
    "neighbours": contrast(LAPTOP, [cost("den", 2.0, decode_s=1.5, slowdown_s=0.5)]),
    "failures": contrast(LAPTOP, [cost("den", 2.0, decode_s=1.5, risk_s=0.5)]),
    "distance": contrast(LAPTOP, [cost("den", 1.8, decode_s=1.5, rtt_s=0.3)]),
    "what is asked for": contrast(LAPTOP, [cost("den", 1.8, decode_s=1.5, preference_s=0.3)]),
    "a busy one": contrast(LAPTOP, [cost("den", 4.5, wait_s=3.0, decode_s=1.5, is_busy=True)]),
    "several things": contrast(LAPTOP, [cost("den", 3.5, decode_s=2.5, prefill_s=1.0)]),
    "a third whose terms nobody told": contrast(LAPTOP, [CandidateCost(node_id="den", total_s=3.5)]),
    "the same": contrast(LAPTOP, [cost("den", 1.5, decode_s=1.5)]),
    "the same thrice": contrast(LAPTOP, [cost(name, 1.5, decode_s=1.5) for name in ("den", "attic", "barn")]),
    "free, and waiting would gain little": contrast(cost("laptop", 2.0, decode_s=2.0), [BUSY]),
    "waiting": contrast(BUSY, [cost("laptop", 10.7, decode_s=10.7)]),
    "waiting for the only one": contrast(BUSY, [], rejected(den=R.MODEL_MISSING)),
    "waiting for one of many": contrast(BUSY, [], eligible=5),
    "waiting for one of two": contrast(BUSY, [cost("den", 1.7, wait_s=1.2, decode_s=0.5, is_busy=True)]),
    "the others are far behind": contrast(LAPTOP, [], eligible=4),
    "the other is far behind": contrast(LAPTOP, [], eligible=2),
    "alone": contrast(LAPTOP, []),
    "alone with the model": contrast(LAPTOP, [], rejected(den=R.MODEL_MISSING, attic=R.MODEL_MISSING)),
    "alone with the memory": contrast(LAPTOP, [], rejected(den=R.TOO_LITTLE_VRAM), min_vram_gib=32),
    "alone for two reasons": contrast(LAPTOP, [], rejected(den=R.DOWN, attic=R.MODEL_MISSING, barn=R.DRAINING)),
    "asked for": contrast(LAPTOP, [], rejected(den=R.NOT_CHOSEN_NODE, attic=R.DOWN)),
    "a long wait": contrast(cost("den", 300.0, wait_s=290.0, is_busy=True), [cost("laptop", 900.0, decode_s=900.0)]),
}


def test_reasons_read_as_they_were_kept(assert_kept: Callable[[str, str], None]) -> None:
    assert_kept("reasons", "".join(f"{name + ':':<38}{text}\n" for name, text in EXAMPLES.items()))


def test_every_reason_to_refuse_has_words_for_the_one_that_is_left() -> None:
    for reason in RejectionReason:
        assert contrast(LAPTOP, [], rejected(den=reason)).startswith("only node ")
        assert "there is" not in contrast(LAPTOP, [], rejected(den=reason))


SECONDS = st.floats(0, 1e6)
COSTS = st.builds(
    CandidateCost,
    node_id=st.sampled_from(["a", "b", "c", "d"]),
    total_s=st.floats(-10, 1e6),
    completion_s=SECONDS,
    wait_s=SECONDS,
    load_s=SECONDS,
    decode_s=SECONDS,
    is_busy=st.booleans(),
)
REJECTIONS = st.lists(st.builds(Rejection, node_id=st.just("z"), reason=st.sampled_from(RejectionReason)), max_size=9)


@given(COSTS, st.lists(COSTS, max_size=5), REJECTIONS, st.integers(1, 300))
def test_a_reason_is_one_short_line_that_a_header_can_carry(
    chosen: CandidateCost, others: list[CandidateCost], rejections: list[Rejection], eligible: int
) -> None:
    text = contrast(chosen, others, rejections, eligible=eligible)
    assert text.isascii()
    assert text.isprintable()
    assert 0 < len(text) <= 120


@pytest.mark.parametrize("others", [[DEN, COLD], [COLD, DEN]], ids=["in order", "in another order"])
def test_the_order_of_the_others_does_not_matter(others: list[CandidateCost]) -> None:
    assert contrast(LAPTOP, others) == "0.03 s before den; gaming-pc would load 7 s"
