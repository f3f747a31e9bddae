"""Requests that name a group of models: bound to one of them, bound again, refused when none can serve them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sollol_agents.lab.testing.messages import MODEL, gpu, grant_request, loaded, model, outcome
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, queued, refused
from sollol_agents.scorer.office.group_views import groups_reply
from sollol_schemas.context import Ability, RequestKind, TaskContext
from sollol_schemas.decision import Decision, DecisionEvent
from sollol_schemas.errors import ErrorBody, ErrorCode, Owner
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.grant import RouteRequest
from sollol_schemas.groups import Candidate, Group, GroupMember, Groups, GroupStrategy
from sollol_schemas.routing import Routing, RoutingMode

BIG, SMALL = "big:14b", "small:1b"
TALKS = ("completion",)


def models(**more: Any) -> dict[str, Any]:
    """A card with room for both models, both in memory."""
    usual: dict[str, Any] = {
        "installed": (model(BIG, 9.0, capabilities=TALKS), model(SMALL, 1.0, capabilities=TALKS)),
        "loaded": (loaded(BIG, 9.5), loaded(SMALL, 1.2)),
        "gpus": (gpu(total_gb=48.0, free_gb=30.0),),
    }
    return usual | more


def fleet_with(*groups: Group, **settings: Any) -> Fleet:
    fleet = Fleet(**settings)
    fleet.core.binder.book.know(Groups(groups=groups))
    return fleet


def group(name: str = "coding", *names: str, **more: Any) -> Group:
    return Group(name=name, members=tuple(GroupMember(model=m) for m in names or (BIG, SMALL)), **more)


def decision(fleet: Fleet, request_id: str) -> Decision:
    return granted(fleet.effects)[request_id].decision


def event(fleet: Fleet, request_id: str) -> DecisionEvent:
    return next(e for e in fleet.effects if isinstance(e, DecisionEvent) and e.decision.request_id == request_id)


def teach(fleet: Fleet, name: str, score: float, times: int = 12, category: str = "generation") -> None:
    for _ in range(times):
        fleet.core.qualities.learn(name, category, score, fleet.now)


def test_a_group_is_served_by_the_model_with_the_better_balance_of_time_and_quality() -> None:
    fleet = fleet_with(group())
    fleet.node(**models())
    fleet.ask("quick", name="coding")
    assert decision(fleet, "quick").model == SMALL, "nothing is known of either: the quicker one"
    fleet.end("quick-1", "gpu1", model=SMALL)
    teach(fleet, SMALL, 0.1)
    teach(fleet, BIG, 0.95)
    fleet.ask("good", name="Coding:latest")
    made = decision(fleet, "good")
    assert (made.model, made.group) == (BIG, "coding")
    assert made.reason.startswith("big:14b of coding: a good answer in ")
    told = event(fleet, "good").models
    assert [m.model for m in told] == [BIG, SMALL]
    assert told[0].quality > told[1].quality
    assert told[0].total_s < told[1].total_s


def test_what_was_learnt_in_a_category_counts_there_most() -> None:
    fleet = fleet_with(group())
    fleet.node(**models(slots=2))
    teach(fleet, SMALL, 0.0, category="debugging")
    teach(fleet, SMALL, 1.0, 30, category="documentation")
    context: dict[str, Any] = {"kind": RequestKind.CHAT, "model": "coding", "prompt_tokens": 100}
    fleet.ask("d", context=TaskContext(**context, coding_category="debugging"))
    fleet.ask("w", context=TaskContext(**context, coding_category="documentation"))
    assert (decision(fleet, "d").model, decision(fleet, "w").model) == (BIG, SMALL)
    assert decision(fleet, "d").category == "debugging"


def test_a_request_that_names_a_model_is_decided_as_if_there_were_no_groups() -> None:
    plain, grouped = Fleet(), fleet_with(group())
    for fleet in (plain, grouped):
        fleet.node(**models(slots=2))
        for number in range(4):
            fleet.ask(f"r{number}", name=BIG)
    assert plain.effects == grouped.effects
    assert decision(plain, "r0").group == ""


def test_a_model_outside_the_group_is_never_taken() -> None:
    fleet = fleet_with(group("one", BIG))
    fleet.node(**models(loaded=(loaded(SMALL, 1.2),)))
    for number in range(30):
        fleet.ask(f"r{number}", name="one")
        if f"r{number}" in granted(fleet.effects):
            fleet.end(f"r{number}-1", "gpu1", model=BIG)
    assert {g.decision.model for g in granted(fleet.effects).values()} == {BIG}


@pytest.mark.parametrize(
    ("context", "found"),
    [
        ({"needs": (Ability.VISION,)}, "eye:7b"),
        ({"kind": RequestKind.EMBED, "task_type": "embedding", "needs": (Ability.EMBEDDING,)}, "vectors:1b"),
        ({"prompt_tokens": 50_000}, "long:8b"),
    ],
    ids=["pictures", "embeddings", "a long prompt"],
)
def test_auto_takes_a_model_that_can_do_it(context: dict[str, Any], found: str) -> None:
    fleet = Fleet()
    installed = (
        model("talk:1b", 1.0, capabilities=TALKS, context_length=8192),
        model("eye:7b", 5.0, capabilities=(*TALKS, "vision"), context_length=8192),
        model("vectors:1b", 0.3, capabilities=("embedding",), context_length=8192),
        model("long:8b", 5.0, capabilities=TALKS, context_length=131_072),
    )
    fleet.node(installed=installed, loaded=(loaded("talk:1b", 1.2, context_length=8192),))
    asked: dict[str, Any] = {
        "kind": RequestKind.CHAT,
        "model": "auto",
        "prompt_tokens": 100,
        "num_ctx": 65_536,
    } | context
    fleet.ask("r", context=TaskContext(**asked))
    assert decision(fleet, "r").model == found
    assert decision(fleet, "r").group == "auto"


def test_vectors_come_from_one_model_however_busy_it_is() -> None:
    fleet = fleet_with(group("vectors", "x:1b", "y:1b"))
    embedders = (model("y:1b", 0.1, capabilities=("embedding",)), model("x:1b", 3.0, capabilities=("embedding",)))
    fleet.node(installed=embedders, loaded=(loaded("y:1b", 0.2), loaded("x:1b", 3.2)), slots=2)
    context = TaskContext(
        kind=RequestKind.EMBED,
        model="vectors",
        task_type="embedding",
        needs=(Ability.EMBEDDING,),
        prompt_tokens=50_000,
    )
    for number in range(12):
        fleet.ask(f"r{number}", context=context)
    assert {g.decision.model for g in granted(fleet.effects).values()} == {"x:1b"}
    for _ in range(8):
        fleet.tick(0.3)
    assert {w.model for w in fleet.core.waiting} == {"x:1b"}


def test_a_conversation_stays_with_the_model_that_knows_its_prompt() -> None:
    fleet = fleet_with(group("twins", "b:1b", "a:1b"))
    twins = (model("a:1b", 4.0, capabilities=TALKS), model("b:1b", 4.0, capabilities=TALKS))
    fleet.node(**models(installed=twins, loaded=(loaded("a:1b", 4.5), loaded("b:1b", 4.5)), slots=1))
    said = {"routing": Routing(session_id="talk"), "name": "twins", "prompt": 8000}
    fleet.core.fleet.nodes["gpu1"].mirror.remember("a:1b", "talk", 7900, (), 1)
    fleet.ask("r", **said)
    assert decision(fleet, "r").model == "a:1b"
    fleet.end("r-1", "gpu1", model="a:1b")
    fleet.core.fleet.nodes["gpu1"].mirror.forget("a:1b")
    fleet.core.fleet.nodes["gpu1"].mirror.remember("b:1b", "talk", 7900, (), 1)
    fleet.core.fleet.nodes["gpu1"].speed_version += 1
    fleet.ask("s", **said)
    assert decision(fleet, "s").model == "b:1b"


def test_a_model_called_auto_stays_what_it_was_until_a_group_is_set() -> None:
    fleet = Fleet()
    fleet.node(installed=(model("auto"), model(SMALL, 1.0)), loaded=(), slots=2)
    fleet.ask("model", name="auto")
    assert (decision(fleet, "model").model, decision(fleet, "model").group) == ("auto", "")
    fleet.end("model-1", "gpu1", model="auto")
    fleet.core.binder.book.know(Groups(groups=(group("auto", SMALL),)))
    fleet.ask("group", name="auto")
    assert (decision(fleet, "group").model, decision(fleet, "group").group) == (SMALL, "auto")


def error(fleet: Fleet, request_id: str = "r") -> ErrorBody:
    return refused(fleet.effects)[request_id]


def test_a_group_whose_models_nobody_has_is_not_found() -> None:
    fleet = fleet_with(group("coding", "gone:1b", "away:2b"))
    fleet.node()
    fleet.ask("r", name="coding")
    assert error(fleet).code is ErrorCode.UNKNOWN_MODEL
    assert error(fleet).message == "no node has a model of group 'coding': gone:1b, away:2b"


def test_where_no_model_can_do_it_each_says_why() -> None:
    fleet = fleet_with(group("coding", BIG, "gone:1b"))
    fleet.node(**models())
    fleet.ask("r", context=TaskContext(kind=RequestKind.CHAT, model="coding", needs=(Ability.VISION,)))
    assert (error(fleet).code, error(fleet).http_status) == (ErrorCode.ENGINE_REJECTED, 400)
    assert "big:14b: it has no vision; gone:1b: no node has it" in error(fleet).message
    fleet.node(**models(slots=0))
    fleet.ask("full", name="coding")
    assert error(fleet, "full").code is ErrorCode.NO_ELIGIBLE_NODE
    assert error(fleet, "full").details["reasons"] == {BIG: "no slot for it on gpu1", "gone:1b": "no node has it"}


def test_a_wanted_node_that_has_one_of_the_models_decides_which() -> None:
    fleet = fleet_with(group("coding", SMALL, BIG))
    fleet.node("a", **models(installed=(model(SMALL, 1.0),), loaded=(loaded(SMALL, 1.2),)))
    fleet.node("b", **models(installed=(model(BIG, 20.0),), loaded=()))
    fleet.ask("r", name="coding", routing=Routing(node_id="b"))
    assert (decision(fleet, "r").node_id, decision(fleet, "r").model) == ("b", BIG)
    fleet.ask("gone", name="coding", routing=Routing(node_id="nowhere"))
    assert decision(fleet, "gone").model == SMALL


def test_an_unknown_model_is_told_which_groups_there_are() -> None:
    fleet = fleet_with(group())
    fleet.node()
    fleet.ask("r", name="codin")
    assert error(fleet).message == "model 'codin' not found"
    assert error(fleet).details["groups"] == ["auto", "coding"]
    told = groups_reply(fleet.core, 0.0, "codin")
    assert isinstance(told, ErrorBody)
    assert (told.http_status, told.message) == (404, "no group is called 'codin'; did you mean 'coding'?")


def test_what_waits_goes_over_to_a_model_that_is_clearly_better_and_keeps_its_place() -> None:
    fleet = fleet_with(group())
    fleet.node("a", **models(installed=(model(SMALL, 1.0),), loaded=(loaded(SMALL, 1.2),)))
    for number in range(30):
        fleet.ask(f"s{number}", name=SMALL)
    assert queued(fleet.ask("r", name="coding")) == ["r"]
    waiting = fleet.core.waiting.get("r")
    assert waiting is not None
    assert waiting.bound is not None
    assert waiting.request.context.model == SMALL
    born_at = waiting.enqueued_at
    fleet.now += 3.0
    fleet.node("b", **models(slots=0, installed=(model(BIG, 9.0),), loaded=(loaded(BIG, 9.5),)))
    fleet.node("b", slots=1)
    fleet.tick(0.3)
    made = decision(fleet, "r")
    assert (made.model, made.node_id) == (BIG, "b")
    assert "by now " in made.reason
    assert made.queue_s == pytest.approx(fleet.now - born_at, abs=0.01)
    later = fleet.core.binder.admitted(waiting.bound.asked, waiting, fleet.now + 100.0)
    assert (later.deadline_at, later.enqueued_at) == (waiting.deadline_at, born_at), "nothing gains by that"


def test_a_grant_is_never_given_again_for_another_model() -> None:
    fleet = fleet_with(group(strategy=GroupStrategy.ROUND_ROBIN))
    fleet.node(**models(slots=2))
    fleet.ask("r", name="coding")
    first = decision(fleet, "r")
    fleet.ask("r", name="coding")
    again = decision(fleet, "r")
    assert again == first
    fleet.ask("next", name="coding")
    assert decision(fleet, "next").model != first.model, "its turn is not over by a question asked twice"


def test_after_a_failure_another_model_may_serve_it_on_the_same_node() -> None:
    fleet = fleet_with(group())
    fleet.node(**models())
    fleet.ask("r", name="coding")
    failed = decision(fleet, "r").model
    fleet.end("r-1", "gpu1", OutcomeStatus.FAILED, model=failed)
    fleet.ask("r", name="coding", number=2, failed_models=(failed,))
    made = decision(fleet, "r")
    assert {made.model, failed} == {BIG, SMALL}
    assert event(fleet, "r") is not None
    fleet.end("r-2", "gpu1", OutcomeStatus.FAILED, model=made.model)
    fleet.ask("r", name="coding", number=3, failed_models=(BIG, SMALL))
    assert error(fleet).details["reasons"] == dict.fromkeys((BIG, SMALL), "it failed this request before")


def test_a_model_that_fails_everywhere_falls_out_until_it_was_tried() -> None:
    fleet = fleet_with(group())
    for node_id in ("a", "b"):
        fleet.node(node_id, **models(slots=4))
    failures = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("a", "a4"), ("b", "b1"), ("b", "b2")]
    breakers = fleet.core.binder.breakers
    for node_id, request_id in failures:
        assert breakers.opens_in_s(SMALL, fleet.now) == 0, "one node alone opens nothing"
        broken = outcome(f"{request_id}-1", node_id, code=ErrorCode.ENGINE_FAILED, model=SMALL, instance=f"{node_id}-a")
        fleet.note(fleet.core.on_outcome(_owned(broken), fleet.now))
        fleet.core.reset_breaker(node_id, "", fleet.now)  # the nodes' own breakers are another matter
    assert breakers.opens_in_s(SMALL, fleet.now) > 0
    fleet.ask("r", name="coding")
    assert decision(fleet, "r").model == BIG
    fell = {m.model: m.reason for m in event(fleet, "r").models}
    assert fell[SMALL] == "it failed lately, on whatever node"
    fleet.beat_all(31.0)
    fleet.ask("trial", name="coding")
    fleet.ask("meanwhile", name="coding")
    assert (decision(fleet, "trial").model, decision(fleet, "meanwhile").model) == (SMALL, BIG)
    fleet.end("trial-1", decision(fleet, "trial").node_id, model=SMALL)
    fleet.ask("after", name="coding")
    assert decision(fleet, "after").model == SMALL


def _owned(broken: Any) -> Any:
    return msgspec.structs.replace(broken, owner=Owner.ENGINE)


def test_a_node_that_is_lost_says_nothing_of_its_models() -> None:
    fleet = fleet_with(group())
    fleet.node(**models(slots=4))
    for number in range(12):
        lost = outcome(f"r{number}-1", "gpu1", code=ErrorCode.NODE_LOST, model=SMALL, instance="gpu1-a")
        fleet.note(fleet.core.on_outcome(lost, fleet.now))
    assert fleet.core.binder.breakers.failures(SMALL) == 0


def test_a_candidate_gets_its_share_and_nobody_elses_arm() -> None:
    fleet = fleet_with(group("coding", SMALL, candidate=Candidate(model=BIG, share=0.3)))
    fleet.node(**models())
    taken = []
    for number in range(200):
        fleet.ask(f"r{number}", name="coding")
        taken.append(decision(fleet, f"r{number}").model)
        fleet.end(f"r{number}-1", "gpu1", model=taken[-1])
    assert 0.2 < taken.count(BIG) / 200 < 0.4
    reason = next(decision(fleet, f"r{n}").reason for n in range(200) if taken[n] == BIG)
    assert "on trial beside the others of the group" in reason


def test_a_dry_run_is_nobodys_turn() -> None:
    fleet = fleet_with(group(strategy=GroupStrategy.ROUND_ROBIN))
    fleet.node(**models(slots=4))
    context = TaskContext(kind=RequestKind.CHAT, model="coding", prompt_tokens=10)
    asked = RouteRequest(request_id="dry", context=context, routing=Routing())
    answers = [fleet.core.route(asked, fleet.now) for _ in range(2)]
    fleet.ask("r", name="coding")
    said = {a.decision.model for a in answers if isinstance(a, DecisionEvent)}
    assert said == {decision(fleet, "r").model}


def test_a_job_waits_for_a_model_whose_nodes_are_away_and_takes_another_that_comes() -> None:
    fleet = fleet_with(group(), suspect_after_s=2.0, down_after_s=4.0)
    fleet.node("a", installed=(model(BIG, 9.0),), loaded=())
    fleet.node("c", installed=(model(MODEL),))
    fleet.now += 10.0
    fleet.node("c")
    fleet.tick()
    fleet.ask("job", name="coding", routing=Routing(routing_mode=RoutingMode.ASYNC))
    assert "job" not in refused(fleet.effects)
    fleet.node("b", **models(installed=(model(SMALL, 1.0),), loaded=()))
    fleet.tick(1.0)
    fleet.tick(0.3)
    assert decision(fleet, "job").model == SMALL


def test_the_grant_request_of_a_plain_model_is_untouched() -> None:
    fleet = fleet_with(group())
    request = grant_request("r", name=BIG)
    fleet.node(**models(slots=0))
    fleet.node(**models(slots=1))
    waiting = fleet.core.binder.admitted(request, None, fleet.now)
    assert waiting.request is request
    assert waiting.bound is None
