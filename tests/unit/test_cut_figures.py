"""Figures of attempts, as a node reports them: with the digits that outcomes have."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import decision
from sollol_agents.node.attempts.outcome import figures_of
from sollol_bus.transport.messages import decode, encode
from sollol_schemas.events import Outcome
from sollol_schemas.execution import AttemptDone, Figures

seconds = st.floats(0, 1e4)
maybe = st.none() | seconds


@given(
    told=st.builds(
        Figures, prompt_s=maybe, decode_s=maybe, load_s=seconds, slot_wait_s=seconds, output_tokens=st.none()
    ),
    first_s=seconds,
    after_s=seconds,
    more=st.fixed_dictionaries({"co_runners": seconds, "energy_j": maybe, "gpu_share": st.none() | st.floats(0, 1)}),
)
def test_an_outcome_made_of_a_report_is_the_one_that_a_node_would_make(
    told: Figures, first_s: float, after_s: float, more: dict[str, Any]
) -> None:
    figures = figures_of(
        told,
        accepted_at=5.0,
        began_at=5.0,
        first_at=5.0 + first_s,
        last_at=5.0 + first_s + after_s,
        now=9e9,
        output_chunks=3,
        chunks=7,
        **more,
    )
    report = AttemptDone(attempt_id="r-1", figures=figures)
    heard = decode(encode(report), AttemptDone)
    made = Outcome.of_report(decision(), report)
    assert encode(Outcome.of_report(decision(), heard).as_event(is_cut=True)) == encode(made.as_event())
    for name in ("actual_s", "ttft_s", "load_s", "slot_wait_s", "prompt_s", "decode_s"):
        value = getattr(figures, name)
        assert value is None or len(repr(value).partition(".")[2]) <= 5


def test_what_is_nothing_is_left_out_of_a_report() -> None:
    figures = figures_of(
        Figures(), accepted_at=5.0, began_at=5.0, first_at=5.0, last_at=5.0, now=5.0, output_chunks=0, co_runners=1e-9
    )
    assert msgspec.json.decode(encode(figures)).keys() <= {"ttft_s", "prompt_s", "decode_s"}
