"""Groups of models as the gateway lists them, and as it reads them out of bodies."""

from __future__ import annotations

from typing import Any, cast

import pytest
from starlette.routing import Match, Router
from starlette.types import Scope

from sollol_agents.gateway.management.fleet import Fleet
from sollol_agents.gateway.management.group_rows import show_of, with_groups
from sollol_agents.gateway.management.model_lists import openai_model
from sollol_agents.gateway.pages.groups import GroupPages, group_in
from sollol_bus.errors import BadRequest
from sollol_bus.sdk.client import Client
from sollol_schemas.groups import Candidate, Group, GroupMember, GroupStrategy, GroupView, MemberView

AUTO = GroupView(group=Group(name="auto"), is_built_in=True, members=(MemberView(model="a:1b"), MemberView(model="b")))


def row(name: str, *nodes: str, **fields: Any) -> dict[str, Any]:
    usual = {"modified_at": "2026-01-01T00:00:00Z", "size": 10, "digest": "d", "capabilities": ["completion"]}
    return {"name": name, "model": name, **usual, "details": {"context_length": 4096}, "nodes": [*nodes], **fields}


ROWS = [
    row("a:1b", "desk"),
    row("b:latest", "desk", "den", size=90, capabilities=["completion", "tools"], details={"context_length": 2048}),
]


def group(name: str, *models: str) -> GroupView:
    return GroupView(group=Group(name=name, members=tuple(GroupMember(model=model) for model in models)))


def test_a_group_is_listed_behind_the_models_and_marked() -> None:
    listed = with_groups(ROWS, [AUTO, group("coding", "b", "nonesuch")])
    assert [one["name"] for one in listed] == ["a:1b", "b:latest", "auto", "coding"]
    auto, coding = listed[2:]
    assert auto["group"] == {"strategy": "cost", "models": ["a:1b", "b:latest"], "is_built_in": True}
    assert coding["group"] == {"strategy": "cost", "models": ["b:latest"], "is_built_in": False}
    assert auto["nodes"] == ["desk", "den"]
    assert auto["capabilities"] == ["completion", "tools"]
    assert (auto["size"], auto["details"]["context_length"]) == (90, 2048)
    assert len(auto["digest"]) == 64
    assert auto["digest"] != coding["digest"]
    assert all("group" not in one for one in listed[:2])


def test_a_group_of_which_no_model_is_there_is_not_listed() -> None:
    assert with_groups(ROWS, [group("coding", "nonesuch")]) == ROWS
    assert with_groups([], [AUTO]) == []


def test_a_model_called_auto_is_meant_where_nobody_set_the_group() -> None:
    rows = [*ROWS, row("auto:latest", "desk")]
    assert with_groups(rows, [AUTO]) == rows


def test_a_group_that_was_set_stands_before_a_model_of_its_name() -> None:
    listed = with_groups([*ROWS, row("coding:latest", "den")], [group("coding", "a:1b")])
    assert [(one["name"], "group" in one) for one in listed[2:]] == [("coding", True)]


def test_a_candidate_on_trial_is_among_the_models_of_a_group() -> None:
    view = GroupView(
        group=Group(name="g", members=(GroupMember(model="a:1b"),), candidate=Candidate(model="b", share=0.1))
    )
    assert with_groups(ROWS, [view])[2]["group"]["models"] == ["a:1b", "b:latest"]


def test_openai_lists_a_group_as_its_owner_has_it() -> None:
    listed = openai_model(with_groups(ROWS, [AUTO])[2])
    assert (listed["id"], listed["owned_by"], listed["group"]["models"]) == ("auto", "sollol", ["a:1b", "b:latest"])
    assert "group" not in openai_model(ROWS[0])


def test_the_details_of_a_group_say_its_models() -> None:
    shown = show_of(with_groups(ROWS, [AUTO])[2])
    assert shown["group"]["models"] == ["a:1b", "b:latest"]
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["group.context_length"] == 2048


@pytest.mark.parametrize(
    "body",
    [
        {"models": ["a", "b"]},
        {"models": {"a": 1, "b": 1.0}},
        {"members": [{"model": "a"}, {"model": "b"}]},
        {"name": "g", "models": ["a", "b"], "strategy": "cost"},
    ],
    ids=["names", "weights", "members", "named again"],
)
def test_a_body_may_name_its_models_in_several_ways(body: dict[str, Any]) -> None:
    assert group_in(body, "g") == Group(name="g", members=(GroupMember(model="a"), GroupMember(model="b")))


def test_a_body_may_say_all_that_a_group_has() -> None:
    body = {"name": "g", "models": {"a": 2}, "strategy": "cheap_first", "patience_s": 5, "candidate": "c", "share": 0.2}
    assert group_in(body, "") == Group(
        name="g",
        members=(GroupMember(model="a", weight=2.0),),
        strategy=GroupStrategy.CHEAP_FIRST,
        patience_s=5.0,
        candidate=Candidate(model="c", share=0.2),
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "needs models"),
        ({"models": []}, "needs models"),
        ({"models": "a"}, "list of names"),
        ({"models": ["a", "a"]}, "twice"),
        ({"models": [1]}, "model"),
        ({"models": {"a": "heavy"}}, "weight"),
        ({"models": {"a": 1000}}, "weight"),
        ({"models": ["a"], "modles": 1}, "unknown"),
        ({"models": ["a"], "strategy": "best"}, "strategy"),
        ({"models": ["a"], "name": "other"}, "path"),
        ({"models": ["a"], "name": 3}, "name"),
        ({"models": ["a"], "candidate": "b", "share": 2}, "share"),
        ({"models": ["a"] * 33}, "members"),
        ({"models": ["a"], "patience_s": -1}, "patience_s"),
        ({"models": ["x" * 300]}, "model"),
    ],
)
def test_a_body_that_makes_no_group_is_refused_with_what_is_wrong(body: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        group_in(body, "g")


def test_a_group_whose_name_has_a_slash_has_pages_of_its_own() -> None:
    router = Router(GroupPages(cast("Client", None), cast("Fleet", None)).routes())
    asked = [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/reset")]
    for method, more in asked:
        scope: Scope = {"type": "http", "method": method, "path": f"/api/groups/team/coding{more}", "path_params": {}}
        found = [route.matches(scope) for route in router.routes]
        names = [inner["path_params"]["name"] for match, inner in found if match is Match.FULL]
        assert names[:1] == ["team/coding"], method


def test_what_resets_a_group_is_no_group() -> None:
    router = Router(GroupPages(cast("Client", None), cast("Fleet", None)).routes())
    for method in ("GET", "PUT", "DELETE"):
        scope: Scope = {"type": "http", "method": method, "path": "/api/groups/coding/reset", "path_params": {}}
        assert Match.FULL not in [route.matches(scope)[0] for route in router.routes], method
