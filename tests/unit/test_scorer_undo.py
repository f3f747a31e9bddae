"""Which running answers are moved, and why."""

from __future__ import annotations

from typing import Any

from sollol_agents.lab.testing.messages import MODEL, gpu, model, running
from sollol_agents.lab.testing.scorer_stage import Fleet, granted
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.continuation import CUTS_MAX, Continuation, CutReason
from sollol_schemas.decision import Forecast
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import LearnedSpeed, Movable

SAME = "ollama:0123456789ab"
MEASURED = (LearnedSpeed(model=MODEL, prompt_tps=2000.0, decode_tps=100.0, samples=5),)
SLOW, FAST = (gpu("RTX 3060", 12, 6),), (gpu("RTX 4090"),)


def stage(**settings: Any) -> Fleet:
    """A core that knows one slow node with a fingerprint."""
    fleet = Fleet(**settings)
    node(fleet, "slow", SLOW)
    return fleet


def node(fleet: Fleet, node_id: str, gpus: Any, *, fingerprint: str = SAME, **more: Any) -> None:
    fleet.node(node_id, **({"gpus": gpus, "installed": (model(fingerprint=fingerprint),), "slots": 1} | more))


def ask(fleet: Fleet, request_id: str, priority: int = 5, **more: Any) -> str:
    """Asks for a long answer whose caller goes on; returns the node that is granted."""
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=100, task_type="generation")
    fields: dict[str, Any] = {"context": context, "routing": Routing(priority=priority), "is_resumable": True}
    return fleet.place(request_id, **(fields | more))


def run(fleet: Fleet, node_id: str, *attempts: str, seconds: float = 3.0, tokens: int = 20) -> None:
    """Lets attempts stream for a while."""
    fleet.now += seconds
    seen = running(*attempts, output_tokens=tokens, has_first_token=True)
    fleet.load(node_id, in_flight=seen)


def test_an_answer_goes_over_to_a_node_that_joins_and_ends_it_much_sooner() -> None:
    fleet = stage()
    assert ask(fleet, "r") == "slow"
    run(fleet, "slow", "r-1")
    assert fleet.core.undo.cuts(fleet.now) == []
    node(fleet, "fast", FAST)
    (cut,) = fleet.core.undo.cuts(fleet.now)
    assert (cut.attempt_id, cut.node_id, cut.to, cut.reason) == ("r-1", "slow", "fast", CutReason.REBALANCE)
    assert cut.left_s - cut.moved_s > max(2.0, 0.3 * cut.left_s)
    assert "left here" in cut.text
    assert fleet.core.undo.cuts(fleet.now) == [], "a cut is named once"


def test_no_more_answers_go_over_to_a_node_like_theirs_than_half() -> None:
    fleet = Fleet()
    node(fleet, "full", SLOW, slots=8)
    names = [f"r{number}" for number in range(8)]
    for name in names:
        assert ask(fleet, name) == "full"
    run(fleet, "full", *(f"{name}-1" for name in names))
    usual_tps = fleet.core.fleet.nodes["full"].attempts["r0-1"].decode_tps
    node(fleet, "free", SLOW, slots=8, speeds=(LearnedSpeed(model=MODEL, decode_tps=usual_tps, samples=5),))
    cuts = fleet.core.undo.cuts(fleet.now)
    assert 1 <= len(cuts) <= 4, [cut.text for cut in cuts]
    left = [cut.left_s for cut in cuts]
    assert left == sorted(left, reverse=True), "who stays is quicker for each that goes"
    assert left[-1] < left[0]


def full_beside_a_faster_one(**more: Any) -> tuple[Fleet, list[str]]:
    """Eight answers on a slow node, and a fast one that joins; returns the answers that are moved at once."""
    fleet = Fleet()
    node(fleet, "full", SLOW, slots=8)
    names = [f"r{number}" for number in range(8)]
    for name in names:
        assert ask(fleet, name) == "full"
    run(fleet, "full", *(f"{name}-1" for name in names))
    node(fleet, "fast", FAST, slots=8, **more)
    return fleet, [cut.request_id for cut in fleet.core.undo.cuts(fleet.now)]


def go_over(fleet: Fleet, request_id: str) -> None:
    """An answer is cut, and its caller asks for the rest."""
    fleet.end(f"{request_id}-1", "full", OutcomeStatus.FAILED, code=ErrorCode.MOVED)
    rest = Continuation(fingerprint=SAME, said_tokens=20, cuts=1)
    assert ask(fleet, request_id, number=2, continuation=rest) == "fast"


def stay(fleet: Fleet, *gone: str, seconds: float) -> None:
    """The others go on where they are."""
    run(fleet, "full", *(f"r{n}-1" for n in range(8) if f"r{n}" not in gone), seconds=seconds, tokens=30)


def test_one_answer_at_a_time_goes_over_to_a_node_that_nobody_measured() -> None:
    assert len(full_beside_a_faster_one(speeds=MEASURED)[1]) > 1
    fleet, (first,) = full_beside_a_faster_one()
    go_over(fleet, first)
    run(fleet, "fast", f"{first}-2", seconds=1.0, tokens=2)
    stay(fleet, first, seconds=1.0)
    assert fleet.core.undo.cuts(fleet.now) == [], "one token is no measure"
    fast = fleet.core.fleet.nodes["fast"].attempts[f"{first}-2"]
    run(fleet, "fast", f"{first}-2", seconds=1.0, tokens=2 + round(2.0 * fast.decode_tps))
    assert len(fleet.core.undo.cuts(fleet.now)) > 1


def test_no_more_answers_go_over_to_a_node_that_is_slower_than_its_hardware_promises() -> None:
    fleet, (first,) = full_beside_a_faster_one()
    go_over(fleet, first)
    for seconds in range(10):
        run(fleet, "fast", f"{first}-2", seconds=0.5, tokens=2 + 10 * seconds)
        stay(fleet, first, seconds=0.5)
        assert fleet.core.undo.cuts(fleet.now) == [], seconds


def test_nothing_else_goes_over_while_the_first_is_on_its_way() -> None:
    fleet, (first,) = full_beside_a_faster_one()
    fleet.end(f"{first}-1", "full", OutcomeStatus.FAILED, code=ErrorCode.MOVED)
    stay(fleet, first, seconds=1.0)
    assert fleet.core.undo.cuts(fleet.now) == []


def test_no_answer_goes_over_to_a_node_that_would_load_or_tells_another_fingerprint() -> None:
    for more in ({"loaded": ()}, {"fingerprint": "ollama:ba9876543210"}, {"fingerprint": ""}):
        fleet = stage()
        ask(fleet, "r")
        run(fleet, "slow", "r-1")
        node(fleet, "fast", FAST, **more)
        assert fleet.core.undo.cuts(fleet.now) == [], more


def test_no_answer_is_cut_whose_caller_does_not_go_on_or_that_was_moved_too_often() -> None:
    often = Continuation(fingerprint=SAME, said_tokens=20, cuts=CUTS_MAX)
    for more in ({"is_resumable": False}, {"continuation": often}):
        fleet = stage()
        ask(fleet, "r", **more)
        run(fleet, "slow", "r-1", seconds=12.0)
        node(fleet, "fast", FAST)
        assert fleet.core.undo.cuts(fleet.now) == [], more


def taken_over(fleet: Fleet, node_id: str = "slow", **movable: Any) -> None:
    """A node tells a scorer that just took office what it runs, which somebody else granted."""
    told = Movable(**({"deadline_s": 500.0} | movable))
    forecast = Forecast(total_s=60.0, prompt_tokens=100, output_tokens=2000.0)
    seen = running("r-1", output_tokens=20, has_first_token=True, elapsed_s=12.0, forecast=forecast, movable=told)
    fleet.load(node_id, in_flight=seen)


def test_a_successor_in_office_moves_what_its_predecessor_granted() -> None:
    fleet = stage()
    taken_over(fleet, cuts=1)
    assert fleet.core.undo.cuts(fleet.now) == []
    node(fleet, "fast", FAST)
    (cut,) = fleet.core.undo.cuts(fleet.now)
    assert (cut.attempt_id, cut.to, cut.reason, cut.cuts) == ("r-1", "fast", CutReason.REBALANCE, 2)


def test_a_successor_gives_an_urgent_request_the_slot_of_what_its_predecessor_granted() -> None:
    fleet = stage()
    taken_over(fleet, priority=1)
    assert ask(fleet, "urgent", priority=9) == ""
    (cut,) = fleet.core.undo.cuts(fleet.now)
    assert (cut.attempt_id, cut.reason, cut.in_favour_of) == ("r-1", CutReason.PRIORITY, "urgent")


def test_a_successor_leaves_alone_what_it_knows_too_little_of_or_what_was_moved_too_often() -> None:
    for told in (None, Movable(deadline_s=500.0, cuts=CUTS_MAX)):
        fleet = stage()
        forecast = Forecast(total_s=60.0, prompt_tokens=100, output_tokens=2000.0)
        seen = running("r-1", output_tokens=20, has_first_token=True, elapsed_s=12.0, forecast=forecast, movable=told)
        fleet.load("slow", in_flight=seen)
        node(fleet, "fast", FAST)
        assert fleet.core.undo.cuts(fleet.now) == [], told


def test_settings_switch_each_use_off() -> None:
    fleet = stage(undo_to_rebalance=False)
    ask(fleet, "r")
    run(fleet, "slow", "r-1")
    node(fleet, "fast", FAST)
    assert fleet.core.undo.cuts(fleet.now) == []


def test_a_node_that_refuses_is_left_alone_for_a_while() -> None:
    fleet = stage()
    ask(fleet, "r")
    run(fleet, "slow", "r-1")
    node(fleet, "fast", FAST)
    (cut,) = fleet.core.undo.cuts(fleet.now)
    fleet.core.undo.refused(cut.attempt_id, fleet.now)
    fleet.now += 1.0
    assert fleet.core.undo.cuts(fleet.now) == []
    run(fleet, "slow", "r-1", seconds=10.0)
    (cut,) = fleet.core.undo.cuts(fleet.now)
    assert cut.cuts == 1, "what was refused does not count"


def long_answers(fleet: Fleet) -> None:
    """Answers turn out to be long."""
    for _ in range(30):
        fleet.core.lengths.learn(MODEL, "generation", 100, 3000)


def short(tokens: int) -> TaskContext:
    return TaskContext(
        kind=RequestKind.CHAT, model=MODEL, prompt_tokens=100, task_type="generation", max_output_tokens=tokens
    )


def fast_is_taken() -> Fleet:
    """A fast node with a long answer of low rank, beside a slow one that is free."""
    fleet = stage()
    long_answers(fleet)
    node(fleet, "fast", FAST)
    assert ask(fleet, "low", priority=1) == "fast"
    run(fleet, "fast", "low-1")
    return fleet


def test_a_request_starts_on_the_slow_node_where_nobody_asks_for_cuts() -> None:
    assert ask(fast_is_taken(), "urgent", priority=9, context=short(400)) == "slow"


def test_an_urgent_request_is_held_for_a_fast_slot_rather_than_start_on_a_slow_node() -> None:
    fleet = fast_is_taken()
    assert fleet.core.undo.cuts(fleet.now) == []
    assert ask(fleet, "urgent", priority=9, context=short(400)) == ""
    (cut,) = fleet.core.undo.cuts(fleet.now)
    assert (cut.attempt_id, cut.in_favour_of) == ("low-1", "urgent")
    effects = fleet.end("low-1", "fast", OutcomeStatus.FAILED, code=ErrorCode.MOVED)
    assert granted(effects)["urgent"].decision.node_id == "fast"


def test_whoever_asks_while_nothing_runs_has_nothing_to_look_at_and_takes_the_next_cuts() -> None:
    fleet = stage()
    long_answers(fleet)
    node(fleet, "fast", FAST)
    assert not fleet.core.undo.may_cut(fleet.now)
    assert ask(fleet, "low", priority=1) == "fast"
    run(fleet, "fast", "low-1")
    assert ask(fleet, "urgent", priority=9, context=short(400)) == "", "held though nobody looked since it runs"
    assert fleet.core.undo.may_cut(fleet.now)
    assert not stage(undo_for_priority=False, undo_to_rebalance=False).core.undo.may_cut(fleet.now)


def test_a_successor_holds_an_urgent_request_for_the_slot_of_what_its_predecessor_granted() -> None:
    fleet = stage()
    long_answers(fleet)
    node(fleet, "fast", FAST)
    taken_over(fleet, "fast", priority=1)
    assert fleet.core.undo.cuts(fleet.now) == []
    assert ask(fleet, "urgent", priority=9, context=short(400)) == ""
    (cut,) = fleet.core.undo.cuts(fleet.now)
    assert (cut.attempt_id, cut.in_favour_of) == ("r-1", "urgent")


def test_what_ended_does_not_let_a_request_wait_for_a_slot_whose_answer_ranks_too_near() -> None:
    fleet = fast_is_taken()
    assert fleet.core.undo.cuts(fleet.now) == []
    nodes, low = fleet.core.fleet, fleet.core.fleet.attempt("low-1")
    assert low is not None
    assert nodes.least_rank == low.arrival_rank
    fleet.end("low-1", "fast")
    assert ask(fleet, "high", priority=8) == "fast"
    run(fleet, "fast", "high-1")
    assert ask(fleet, "urgent", priority=9, context=short(400)) == "slow"
    high, urgent = fleet.core.fleet.attempt("high-1"), fleet.core.fleet.attempt("urgent-1")
    assert high is not None
    assert urgent is not None
    assert nodes.least_rank == min(high.arrival_rank, urgent.arrival_rank)


def test_nothing_is_held_for_longer_than_a_cut_may_take() -> None:
    fleet = fast_is_taken()
    assert fleet.core.undo.cuts(fleet.now) == []
    assert ask(fleet, "urgent", priority=9, context=short(400)) == ""
    fleet.now += 2.5
    fleet.node("slow")
    fleet.tick()
    assert granted(fleet.effects)["urgent"].decision.node_id == "slow"


def test_an_answer_that_would_be_too_late_is_moved_though_others_wait() -> None:
    for deadline_s, is_moved in ((60.0, True), (600.0, False)):
        fleet = stage()
        long_answers(fleet)
        assert ask(fleet, "late", deadline_s=deadline_s) == "slow"
        run(fleet, "slow", "late-1")
        node(fleet, "fast", FAST)
        assert ask(fleet, "busy", context=short(200)) == "fast"
        ask(fleet, "waits", priority=1)
        moved = [c.attempt_id for c in fleet.core.undo.cuts(fleet.now)]
        assert moved == ["late-1"] * is_moved


def test_an_urgent_request_takes_the_place_of_the_least_urgent_answer_and_gets_its_slot() -> None:
    fleet = stage()
    node(fleet, "slow", SLOW, slots=2)
    ask(fleet, "low", priority=1)
    ask(fleet, "middle", priority=3)
    run(fleet, "slow", "low-1", "middle-1")
    assert ask(fleet, "urgent", priority=9) == ""
    (cut,) = fleet.core.undo.cuts(fleet.now)
    assert (cut.attempt_id, cut.reason, cut.in_favour_of) == ("low-1", CutReason.PRIORITY, "urgent")
    assert cut.gain_s > 0
    assert cut.to == "slow"
    assert cut.text.startswith("gives way and goes on here afterwards: "), "it is not moved to where it is"
    effects = fleet.end("low-1", "slow", OutcomeStatus.FAILED, code=ErrorCode.MOVED)
    assert granted(effects)["urgent"].decision.node_id == "slow"


def test_nothing_gives_way_to_a_request_of_its_own_rank_or_a_lower_one() -> None:
    for priority in (2, 5, 6):
        fleet = stage()
        ask(fleet, "r", priority=5)
        run(fleet, "slow", "r-1")
        ask(fleet, "other", priority=priority)
        assert fleet.core.undo.cuts(fleet.now) == [], priority


def test_an_answer_that_is_soon_over_is_left_alone() -> None:
    fleet = stage()
    ask(fleet, "r", priority=1, context=TaskContext(kind=RequestKind.CHAT, model=MODEL, max_output_tokens=40))
    run(fleet, "slow", "r-1", tokens=30)
    ask(fleet, "urgent", priority=10)
    assert fleet.core.undo.cuts(fleet.now) == []


def test_of_many_answers_and_nodes_the_right_ones_are_worked_out() -> None:
    fleet = stage()
    for number in range(40):
        node(fleet, f"n{number}", SLOW)
    places = {f"r{n}": ask(fleet, f"r{n}", priority=1 if n == 37 else 5) for n in range(41)}
    for request_id, node_id in places.items():
        fleet.load(node_id, in_flight=running(f"{request_id}-1", output_tokens=20, has_first_token=True))
    fleet.beat_all(2.0)
    for request_id, node_id in places.items():
        fleet.load(node_id, in_flight=running(f"{request_id}-1", output_tokens=20, has_first_token=True))
    ask(fleet, "urgent", priority=9)
    cuts = fleet.core.undo.cuts(fleet.now)
    assert [cut.request_id for cut in cuts] == ["r37"]
    assert cuts[0].in_favour_of == "urgent"


def test_requests_of_many_kinds_get_their_turn_though_few_are_looked_at_together() -> None:
    fleet = Fleet()
    long_answers(fleet)
    for number in range(6):
        node(fleet, f"n{number}", SLOW, slots=4)
    places: dict[str, list[str]] = {}
    for number in range(24):
        places.setdefault(ask(fleet, f"r{number}", priority=1, deadline_s=80_000.0), []).append(f"r{number}-1")
    fleet.now += 3.0
    for node_id, attempts in places.items():
        fleet.load(node_id, in_flight=running(*attempts, output_tokens=20, has_first_token=True))
    urgent = [f"u{number}" for number in range(6)]
    for name in urgent:
        assert ask(fleet, name, priority=9, context=short(400), excluded=(f"x{name}",)) == ""
    first = [cut.in_favour_of for cut in fleet.core.undo.cuts(fleet.now)]
    assert len(first) == 4, "no more than were looked at"
    fleet.now += 0.1
    then = [cut.in_favour_of for cut in fleet.core.undo.cuts(fleet.now)]
    assert sorted(first + then) == urgent
