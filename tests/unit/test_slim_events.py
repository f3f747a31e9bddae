"""A request leaves few bytes in the stream of events, and what is left explains it."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.recorder.archive import open_archive
from sollol_agents.recorder.rows import row_of
from sollol_agents.recorder.store import open_store
from sollol_agents.scorer.office.decision_events import decision_bytes
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import subjects
from sollol_schemas.decision import CandidateCost, Decision, DecisionEvent, Decisions, Forecast
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.slim import rounded, slim

BUDGET_BYTES = 1210
FRAME_BYTES = 30
"""What the server adds to each stored message."""

MADE = Decision(
    request_id="788ec31b45d6def1",
    attempt_id="788ec31b45d6def1-1",
    node_id="gpu-node-3",
    node_url="http://192.168.17.23:11434",
    instance="68f51c32a04e",
    model="qwen2.5:7b-instruct",
    task_type="generation",
    queue_s=0.0377,
    reason="least predicted cost, 4.21 s",
    rejected={"model_missing": 2},
    term=17,
    forecast=Forecast(
        total_s=4.2068, first_token_s=0.2388, gap_s=0.013333, load_s=0.0, prompt_tokens=512, output_tokens=219.4
    ),
)
EVENT = DecisionEvent(
    decision=MADE,
    candidates=tuple(
        CandidateCost(
            node_id=f"gpu-node-{n}",
            total_s=4.2 + n,
            completion_s=4.1 + n,
            load_s=float(f"{2.0 * (n > 3)}"),
            prefill_s=0.2391,
            decode_s=3.7221,
            slowdown_s=0.0184,
            risk_s=0.0,
            rtt_s=0.0008,
        )
        for n in (2, 3, 4, 5, 6)
    ),
)
OUTCOME = Outcome(
    decision=MADE,
    status=OutcomeStatus.SUCCESS,
    reported_by=ReportedBy.NODE,
    figures=Figures(
        actual_s=4.191849000391,
        ttft_s=0.2305782000123,
        load_s=0.0,
        slot_wait_s=2e-9,
        prompt_tokens=512,
        output_tokens=225,
        prompt_s=0.21333300000001,
        decode_s=3.8999999999,
        chunks=225,
        co_runners=0.246841777,
        gpu_share=1.0,
    ),
)


def test_a_request_leaves_no_more_than_its_budget() -> None:
    messages = {
        subjects.DECISIONS_EVENT: encode(Decisions(decisions=(decode(decision_bytes(EVENT), DecisionEvent),))),
        subjects.OUTCOME_EVENT.of("gpu-node-3") + f"Nats-Msg-Id: {MADE.attempt_id}": encode(OUTCOME.as_event()),
    }
    assert sum(len(subject) + len(data) + FRAME_BYTES for subject, data in messages.items()) <= BUDGET_BYTES


def test_a_decision_is_told_with_the_chosen_candidate_the_best_other_and_the_cost_of_a_third() -> None:
    told = decode(decision_bytes(EVENT), DecisionEvent)
    assert [c.node_id for c in told.candidates] == ["gpu-node-3", "gpu-node-2", "gpu-node-4"]
    assert [c.has_terms for c in told.candidates] == [True, True, False]
    chosen = told.candidates[0]
    assert (chosen.prefill_s, chosen.decode_s, chosen.rtt_s) == (0.2391, 3.7221, 0.0)
    assert (told.decision.reason, told.decision.rejected) == (MADE.reason, MADE.rejected)


def test_an_outcome_keeps_what_its_readers_learn_from() -> None:
    told = decode(encode(OUTCOME.as_event()), Outcome)
    made = told.decision
    assert (made.instance, made.task_type, made.mode, made.queue_s) == (MADE.instance, "generation", MADE.mode, 0.0377)
    assert (made.forecast, made.reason) == (Forecast(total_s=4.2068), "")
    assert told.figures == msgspec.structs.replace(
        OUTCOME.figures or Figures(),
        actual_s=4.19185,
        ttft_s=0.23058,
        slot_wait_s=0.0,
        prompt_s=0.21333,
        decode_s=3.9,
        chunks=0,
        co_runners=0.24684,
    )


async def test_why_puts_together_what_was_told_once(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "r.sqlite3")
    told = (
        (subjects.DECISIONS_EVENT, decision_bytes(EVENT), 1),
        (subjects.OUTCOME_EVENT.of("gpu-node-3"), encode(OUTCOME.as_event()), 2),
    )
    rows = [row_of(subject, data, stored_at_ns=at * 10**9, stream_seq=at) for subject, data, at in told]
    await store.write([row for row in rows if row is not None])
    archive = await open_archive(store.path)
    why, recent = await archive.why(MADE.request_id), await archive.recent(10)
    assert why.decisions[0].decided_at == "1970-01-01T00:00:01.000Z"
    assert why.outcomes == recent.outcomes
    (outcome,) = why.outcomes
    assert outcome.finished_at == "1970-01-01T00:00:02.000Z"
    assert (outcome.decision.reason, outcome.decision.instance) == (MADE.reason, MADE.instance)
    assert outcome.decision.forecast.prompt_tokens == MADE.forecast.prompt_tokens
    await archive.close()
    await store.close()


FLOATS = st.floats(0, 1e6, allow_nan=False).map(lambda x: x if x >= 1e-3 else 0.0)


@given(st.builds(Forecast, total_s=FLOATS, load_s=FLOATS, needs_load=st.booleans(), output_tokens=FLOATS))
def test_a_slim_message_says_the_same_to_the_digits_that_are_kept(forecast: Forecast) -> None:
    data = encode(slim(msgspec.structs.replace(MADE, forecast=forecast), 4))
    told = decode(data, Decision)
    for name in Forecast.__struct_fields__:
        assert abs(getattr(told.forecast, name) - getattr(forecast, name)) <= 0.5e-4 + 1e-9
    assert b":0.0," not in data
    assert b":0.0}" not in data


@given(st.floats())
def test_a_rounded_number_is_within_half_a_digit_of_it(value: float) -> None:
    kept = rounded(value, 4)
    if math.isfinite(value):
        assert abs(kept - value) <= 0.5e-4 + 1e-12 * abs(value)
        assert len(repr(kept).partition(".")[2]) <= 4 or abs(value) >= 1e9
    else:
        assert repr(kept) == repr(value)


def test_candidates_are_cut_when_they_are_told_not_when_they_are_worked_out() -> None:
    candidate = CandidateCost(node_id="gpu-node-3", total_s=4.20681234, completion_s=0.123456789, decode_s=4.000000001)
    told = decode(decision_bytes(DecisionEvent(decision=MADE, candidates=(candidate,))), DecisionEvent).candidates[0]
    assert (told.total_s, told.completion_s, told.decode_s) == (4.2068, 0.1235, 4.0)


COSTS = st.builds(
    CandidateCost,
    node_id=st.just("gpu-node-3"),
    total_s=FLOATS,
    completion_s=FLOATS,
    wait_s=FLOATS,
    decode_s=st.floats(0, 1.0),
    preference_s=st.floats(-5.0, 5.0),
    rtt_s=st.floats(0, 1e-4),
    is_busy=st.booleans(),
)


@given(COSTS, st.booleans())
def test_a_candidate_is_told_as_if_it_were_cut_field_by_field(cost: CandidateCost, with_terms: bool) -> None:
    told = cost.as_event(with_terms=with_terms)
    assert encode(told) == encode(slim(told, 4))
    assert told.total_s == rounded(cost.total_s, 4)
    kept = {name for name in ("wait_s", "decode_s", "preference_s", "rtt_s") if getattr(told, name)}
    for name in ("wait_s", "decode_s", "preference_s", "rtt_s"):
        is_minor = abs(getattr(cost, name)) < 0.01 * abs(cost.total_s) or not rounded(getattr(cost, name), 4)
        assert (name in kept) == (with_terms and not is_minor)


@given(st.builds(Forecast, total_s=FLOATS, first_token_s=FLOATS, output_tokens=FLOATS, gap_s=FLOATS), FLOATS)
def test_a_decision_is_told_without_what_only_the_node_needs(forecast: Forecast, queue_s: float) -> None:
    made = msgspec.structs.replace(MADE, forecast=forecast, queue_s=queue_s)
    data = encode(made.as_event())
    assert not any(zero in data for zero in (b":0.0,", b":0.0}"))
    told = decode(data, Decision)
    assert (told.node_url, told.instance, told.term, told.forecast.gap_s) == ("", "", 0, 0.0)
    assert (told.forecast.total_s, told.queue_s) == (forecast.total_s, queue_s)
    assert (told.reason, told.rejected, told.caller) == (MADE.reason, MADE.rejected, MADE.caller)
