"""Answers that go on: where they may, what is expected of them, and what they teach."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL, gpu, grant_request, loaded, model
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, reasons, refused
from sollol_agents.scorer.choice.continuing import as_read, why_not
from sollol_agents.scorer.knowledge.lognormal import MEAN_FACTOR, mean_residual, mean_rest
from sollol_bus.trust.callers import Roster
from sollol_schemas.callers import Standing, Standings, word_of
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.continuation import Continuation
from sollol_schemas.decision import RejectionReason
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.execution import Figures
from sollol_schemas.grant import GrantRequest
from sollol_schemas.groups import Group, GroupMember, Groups
from sollol_schemas.telemetry import InFlight

PRINT = "ollama:0123456789ab"


def said(tokens: int = 80, fingerprint: str = PRINT, **more: Any) -> Continuation:
    return Continuation(fingerprint=fingerprint, said_tokens=tokens, **more)


def chat(prompt: int = 100, limit: int | None = None) -> TaskContext:
    return TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=prompt, max_output_tokens=limit)


def fleet_of(**fingerprints: str) -> Fleet:
    fleet = Fleet()
    for node_id, fingerprint in fingerprints.items():
        fleet.node(node_id, installed=(model(fingerprint=fingerprint),))
    return fleet


def test_an_answer_goes_on_only_where_engine_weights_and_template_are_the_same() -> None:
    fleet = fleet_of(same=PRINT, other="ollama:ba9876543210", none="")
    effects = fleet.ask("r", continuation=said())
    grant = granted(effects)["r"]
    assert grant.decision.node_id == "same"
    assert (grant.decision.fingerprint, grant.decision.continued_tokens) == (PRINT, 80)
    assert reasons(effects) == dict.fromkeys(("other", "none"), RejectionReason.CANNOT_CONTINUE)


def test_where_no_fingerprint_is_asked_for_any_engine_will_do_that_goes_on_with_answers() -> None:
    fleet = fleet_of(other="ollama:ba9876543210", none="")
    assert fleet.place("r", continuation=said(fingerprint="")) == "other"


def test_what_has_said_nothing_begins_anew_anywhere() -> None:
    assert fleet_of(none="").place("r", continuation=said(0)) == "none"


def test_no_softness_lets_another_model_go_on_with_an_answer() -> None:
    fleet = fleet_of(other="ollama:ba9876543210")
    asked = grant_request("r", continuation=said())
    soft = fleet.ask("r", continuation=said(), routing=type(asked.routing)(soft=True))
    assert refused(soft)["r"].code is ErrorCode.NO_ELIGIBLE_NODE
    assert "cannot_continue" in str(refused(soft)["r"].details)


def test_requests_of_different_fingerprints_are_of_different_classes() -> None:
    fleet = fleet_of(one=PRINT, two="ollama:ba9876543210")
    for node_id in ("one", "two"):
        fleet.place(f"busy-{node_id}", continuation=said(fingerprint=fleet.told[node_id]["installed"][0].fingerprint))
    assert queued(fleet.ask("r1", continuation=said())) == ["r1"]
    assert queued(fleet.ask("r2", continuation=said(fingerprint="ollama:ba9876543210"))) == ["r2"]
    fleet.end("busy-two-1", "two")
    assert list(granted(fleet.effects[-4:])) == ["r2"]


def test_a_node_that_drains_goes_on_with_an_answer_only_while_no_other_can() -> None:
    fleet = fleet_of(open=PRINT, drained=PRINT)
    fleet.load("drained", is_draining=True, takes_rests=True)
    assert fleet.place("busy") == "open", "what begins runs on no node that drains"
    assert queued(fleet.ask("r", continuation=said())) == ["r"], "it waits for the one that does not"
    fleet.load("open", "busy-1", is_draining=True, takes_rests=True)
    fleet.tick()
    assert fleet.where("r") == "drained"
    assert refused(fleet.ask("new"))["new"].code is ErrorCode.NO_ELIGIBLE_NODE
    assert refused(fleet.ask("begun", continuation=said(0)))["begun"].code is ErrorCode.NO_ELIGIBLE_NODE


def test_a_node_that_leaves_goes_on_with_nothing_and_the_refusal_says_so() -> None:
    fleet = fleet_of(a=PRINT, b=PRINT)
    for node_id in ("a", "b"):
        fleet.load(node_id, is_draining=True)
    refusal = refused(fleet.ask("r", continuation=said()))["r"]
    assert refusal.code is ErrorCode.NO_ELIGIBLE_NODE
    assert "draining on 2: a (it leaves, or finishes only its own), b (it leaves" in refusal.message


def test_what_was_said_is_read_and_not_made_again() -> None:
    fresh = granted(fleet_of(n=PRINT).ask("r", prompt=1000))["r"].decision.forecast
    on = granted(fleet_of(n=PRINT).ask("r", prompt=1000, continuation=said(150)))["r"].decision.forecast
    assert on.prompt_tokens == fresh.prompt_tokens + 150
    assert on.first_token_s > fresh.first_token_s
    median = fresh.output_tokens / MEAN_FACTOR
    assert on.output_tokens == pytest.approx(median * mean_residual(150 / median), abs=0.1)


def test_what_is_left_of_a_limit_is_all_that_is_expected() -> None:
    forecast = granted(fleet_of(n=PRINT).ask("r", context=chat(limit=100), continuation=said(90)))[
        "r"
    ].decision.forecast
    assert forecast.output_tokens == 10


def test_the_ledger_knows_what_may_be_moved() -> None:
    fleet = fleet_of(n=PRINT)
    fleet.ask("r", number=11, is_resumable=True, continuation=said(cuts=1))
    attempt = fleet.core.fleet.attempt("r-11")
    assert attempt is not None
    assert (attempt.is_resumable, attempt.cuts, attempt.continued_tokens, attempt.fingerprint) == (True, 1, 80, PRINT)


def test_an_attempt_that_goes_on_has_as_much_left_as_one_that_came_as_far_by_itself() -> None:
    whole, on = fleet_of(n=PRINT), fleet_of(n=PRINT)
    whole.ask("r")
    on.ask("r", continuation=said(100))
    left = []
    for fleet, made in ((whole, 150), (on, 50)):
        seen = InFlight(attempt_id="r-1", model=MODEL, output_tokens=made, has_first_token=True)
        fleet.load("n", in_flight=(seen,))
        attempt = fleet.core.fleet.attempt("r-1")
        assert attempt is not None
        left.append(attempt.base_left_s(fleet.now, 1.0))
    assert left[0] == pytest.approx(left[1])


def figures(prompt: int, output: int, continued: int) -> Figures:
    return Figures(
        actual_s=3.0,
        ttft_s=0.3,
        prompt_tokens=prompt,
        prompt_s=0.3,
        output_tokens=output,
        decode_s=output / 50,
        continued_tokens=continued,
    )


def test_the_whole_answer_teaches_its_length_and_what_was_done_the_speeds() -> None:
    whole, on = fleet_of(n=PRINT), fleet_of(n=PRINT)
    for fleet, asked, told in (
        (whole, {}, figures(100, 600, 0)),
        (on, {"continuation": said(580)}, figures(680, 20, 580)),
    ):
        for number in range(6):
            fleet.ask(f"r{number}", **asked)
            fleet.end(f"r{number}-1", "n", figures=told, task_type="generation")
    for fleet in (whole, on):
        assert fleet.core.lengths.median_tokens(MODEL, "generation", 100) > 400
    assert on.core.fleet.nodes["n"].speeds.decode_tps(MODEL, 4.9e9) == pytest.approx(
        whole.core.fleet.nodes["n"].speeds.decode_tps(MODEL, 4.9e9), rel=0.05
    )


def test_a_moved_attempt_is_nobodys_failure() -> None:
    fleet = fleet_of(n=PRINT)
    before = fleet.core.fleet.nodes["n"].record.bound
    for number in range(8):
        fleet.ask(f"r{number}", is_resumable=True)
        fleet.end(f"r{number}-1", "n", code=ErrorCode.MOVED)
    node = fleet.core.fleet.nodes["n"]
    assert node.record.bound == before
    assert not any(breaker.failures for breaker in node.breakers.by_model.values())
    assert fleet.place("later") == "n"


def test_a_fingerprint_that_no_message_carries_counts_as_none() -> None:
    fleet = fleet_of(n="x" * 65)
    assert granted(fleet.ask("r"))["r"].decision.fingerprint == ""


def of_group(*prints: tuple[str, str]) -> Fleet:
    """Nodes with two models of a group each; the first one has the fingerprint that is told."""
    fleet = Fleet()
    fleet.core.binder.book.know(
        Groups(groups=(Group(name="both", members=(GroupMember(model=MODEL), GroupMember(model="small:1b"))),))
    )
    for node_id, fingerprint in prints:
        models = (model(fingerprint=fingerprint), model("small:1b", 1.0, fingerprint="ollama:ffffffffffff"))
        fleet.node(node_id, installed=models, loaded=(loaded(), loaded("small:1b", 1.2)))
    return fleet


def test_the_model_that_began_goes_on_and_the_decision_still_names_the_group() -> None:
    fleet = of_group(("n", PRINT))
    grant = granted(fleet.ask("r", name="both", continuation=said(model=MODEL)))["r"]
    assert (grant.decision.group, grant.decision.model) == ("both", MODEL)
    assert grant.decision.alternatives == 1, "when the whole of it is no good another model may be asked"
    assert grant.decision.reason.startswith(f"{MODEL} of both: it began the answer; ")


def test_no_other_model_of_the_group_goes_on_with_what_one_began() -> None:
    fleet = of_group(("n", PRINT))
    fleet.place("running", name="both", continuation=said(model=MODEL))
    assert queued(fleet.ask("r", name="both", continuation=said(model=MODEL))) == ["r"]
    fleet.beat_all(5.0)
    fleet.node("n", installed=(model("small:1b", 1.0, fingerprint="ollama:ffffffffffff"),))
    refusal = refused(fleet.tick(0.5) + fleet.effects)["r"]
    assert refusal.code in (ErrorCode.UNKNOWN_MODEL, ErrorCode.NO_ELIGIBLE_NODE)


def test_nodes_of_a_group_that_cannot_go_on_say_so() -> None:
    fleet = of_group(("n", "ollama:ba9876543210"))
    refusal = refused(fleet.ask("r", name="both", continuation=said(model=MODEL)))["r"]
    assert refusal.code is ErrorCode.NO_ELIGIBLE_NODE
    assert "cannot go on with the answer on n" in refusal.message


LAPTOP = word_of("laptop")


def limited(**standing: Any) -> Fleet:
    fleet = Fleet()
    fleet.node(slots=4, installed=(model(fingerprint=PRINT),), gpus=(gpu(),))
    fleet.core.ceilings.know(Roster(Standings(callers={"laptop": Standing(**standing)})))
    return fleet


def test_going_on_costs_a_caller_none_of_its_minute() -> None:
    fleet = limited(requests_per_minute=1.0)
    fleet.ask("r", caller=LAPTOP, is_resumable=True)
    fleet.end("r-1", "gpu1", code=ErrorCode.NODE_LOST)
    fleet.node()
    again = fleet.ask("r", number=11, caller=LAPTOP, is_resumable=True, continuation=said())
    assert "r" in granted(again)


def test_who_says_that_it_goes_on_is_counted_unless_it_was_let_in() -> None:
    fleet = limited(requests_per_minute=1.0)
    fleet.ask("r", caller=LAPTOP, is_resumable=True)
    assert (
        refused(fleet.ask("other", number=11, caller=LAPTOP, continuation=said()))["other"].code is ErrorCode.QUEUE_FULL
    )
    fleet.end("r-1", "gpu1")
    assert refused(fleet.ask("r", number=11, caller=LAPTOP, continuation=said()))["r"].code is ErrorCode.QUEUE_FULL


@given(
    st.integers(1, 10**6),
    st.one_of(st.none(), st.integers(1, 10**6)),
    st.one_of(st.none(), st.builds(said, st.integers(0, 10**6))),
)
def test_what_is_read_and_what_is_left_add_up(prompt: int, limit: int | None, continued: Continuation | None) -> None:
    request = GrantRequest(
        request_id="r", number=1, context=chat(prompt, limit), routing=grant_request().routing, continuation=continued
    )
    read = as_read(request).context
    tokens = continued.said_tokens if continued is not None else 0
    assert read.prompt_tokens == prompt + tokens
    assert (read.max_output_tokens is None) is (limit is None)
    if limit is not None and read.max_output_tokens is not None:
        assert read.max_output_tokens == max(1, limit - tokens)


@given(st.floats(0, 1e5), st.floats(0, 1e6))
def test_something_is_left_of_every_answer_that_has_a_length(median: float, made: float) -> None:
    assert mean_rest(median, made) >= 0
    assert (mean_rest(median, made) > 0) is (median > 0)


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 100))
def test_why_not_says_so_exactly_where_the_texts_differ(has: str, wanted: str, tokens: int) -> None:
    refusal = why_not(model(fingerprint=has), said(tokens, wanted))
    assert (refusal == "") is (tokens == 0 or (has != "" and wanted in ("", has)))


@pytest.mark.parametrize(
    ("continued", "first"),
    [(said(resumed=1), "rest"), (said(resumed=1, cuts=1), "small"), (said(resumed=2, cuts=1), "rest")],
    ids=["broken off", "moved on purpose", "broken off after a move"],
)
def test_what_broke_off_goes_ahead_of_small_requests_that_wait(continued: Continuation, first: str) -> None:
    fleet = Fleet()
    fleet.node("a", installed=(model(fingerprint=PRINT),), slots=1)
    fleet.place("runs")
    fleet.ask("small", context=chat(limit=100))
    fleet.ask("rest", context=chat(limit=4000), continuation=continued)
    fleet.end("runs-1", "a")
    fleet.tick(0.1)
    assert [name for name in ("small", "rest") if fleet.where(name)] == [first]


@pytest.mark.parametrize(("continued", "place"), [(said(resumed=1), "slow"), (said(resumed=1, cuts=1), "")])
def test_what_broke_off_hardly_waits_for_a_better_node(continued: Continuation, place: str) -> None:
    fleet = Fleet()
    installed = (model(fingerprint=PRINT),)
    fleet.node("fast", installed=installed, slots=1, gpus=(gpu("RTX 4090"),))
    fleet.node("slow", installed=installed, slots=1, gpus=(gpu("RTX 3060"),))
    assert fleet.place("runs", context=chat(limit=150)) == "fast"
    assert fleet.place("rest", context=chat(limit=600), continuation=continued) == place


def test_the_rest_goes_where_the_conversation_is_cached() -> None:
    fleet, done = fleet_of(a=PRINT, b=PRINT, c=PRINT), Figures(prompt_tokens=6000, output_tokens=50)
    for number in range(6):
        begun = TaskContext(
            kind=RequestKind.CHAT,
            model=MODEL,
            prompt_tokens=6000,
            prefix_hashes=(f"h{number}",),
            prefix_tokens=(5000,),
        )
        before = fleet.place(f"earlier{number}", context=begun)
        fleet.end(f"earlier{number}-1", before, OutcomeStatus.SUCCESS, figures=done)
        lost = next(name for name in "abc" if name != before)
        assert fleet.place(f"rest{number}", context=begun, excluded=(lost,), continuation=said()) == before
        fleet.end(f"rest{number}-1", before, OutcomeStatus.SUCCESS, figures=done)


def test_rests_that_come_together_are_spread_over_all_free_slots() -> None:
    fleet = Fleet()
    for node_id in ("a", "b", "c", "d"):
        fleet.node(node_id, installed=(model(fingerprint=PRINT),), slots=2)
    placed = [fleet.place(f"r{n}", context=chat(limit=600), continuation=said(), excluded=("d",)) for n in range(6)]
    assert sorted(placed) == ["a", "a", "b", "b", "c", "c"]
    assert sorted(placed[:3]) == ["a", "b", "c"]


def test_the_rest_goes_where_it_was_when_its_node_was_not_at_fault() -> None:
    for node_id in ("a", "b", "c"):
        fleet = fleet_of(a=PRINT, b=PRINT, c=PRINT)
        assert fleet.place("rest", context=chat(800), continuation=said(node_id=node_id)) == node_id


def test_the_rest_does_not_go_where_it_was_when_that_node_is_excluded_or_full() -> None:
    fleet = fleet_of(a=PRINT, b=PRINT)
    assert fleet.place("rest", continuation=said(node_id="a"), excluded=("a",)) == "b"
    full = Fleet()
    for node_id in ("a", "b"):
        full.node(node_id, installed=(model(fingerprint=PRINT),), slots=1)
    first = full.place("runs", context=chat(limit=600))
    other = next(name for name in "ab" if name != first)
    assert full.place("rest", continuation=said(node_id=first)) == other
