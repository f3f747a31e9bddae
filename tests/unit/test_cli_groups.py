"""`sollol group` on the screen, and groups as programs and people name them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from sollol_agents.cli import __main__ as program
from sollol_agents.cli import exit_codes
from sollol_agents.cli.commands import groups, listings
from sollol_agents.cli.output import Form, on_screen
from sollol_agents.cli.table import width_of
from sollol_bus.errors import BadRequest, UnknownModel
from sollol_bus.sdk.group_making import group_of, only
from sollol_schemas.events import BreakerState
from sollol_schemas.groups import (
    Candidate,
    Group,
    GroupMember,
    GroupsReply,
    GroupStrategy,
    GroupView,
    MemberView,
    QualityView,
    TrialVerdict,
    TrialView,
)
from sollol_schemas.queries import ModelsReply, ModelView

BIG = "qwen2.5-coder:32b-instruct-q4_K_M"
AUTO = GroupView(
    group=Group(name="auto"),
    is_built_in=True,
    members=(MemberView(model="llama3.2:1b", nodes=2, size_bytes=1_321_098_329),),
)
CODING = GroupView(
    group=Group(
        name="coding",
        members=(GroupMember(model=BIG, weight=2.0), GroupMember(model="llama3.1:8b")),
        candidate=Candidate(model="devstral:24b", share=0.1),
    ),
    members=(
        MemberView(
            model="llama3.1:8b",
            nodes=3,
            size_bytes=4_920_753_328,
            answers=40,
            quality=QualityView(mean=0.61, spread=0.07, feedback=38.4),
            categories={
                "debugging": QualityView(mean=0.4, feedback=9.0),
                "testing": QualityView(mean=0.72, feedback=20.0),
                "coding": QualityView(mean=0.6, feedback=1.0),
            },
            breaker=BreakerState.OPEN,
            failures=5,
            opens_for_s=12.5,
        ),
        MemberView(model="devstral:24b", share=0.1, breaker=BreakerState.HALF_OPEN, failures=1),
        MemberView(
            model=BIG,
            weight=2.0,
            nodes=1,
            size_bytes=19_851_349_856,
            answers=1203,
            quality=QualityView(mean=0.92, spread=0.02, feedback=211.0),
        ),
    ),
    trial=TrialView(
        model="devstral:24b",
        verdict=TrialVerdict.BETTER,
        candidate_feedback=41,
        others_feedback=390,
        difference=0.1234,
        evidence=26.4,
    ),
)
REPLY = GroupsReply(groups=(AUTO, CODING))
SCREENS: dict[str, Callable[[], None]] = {
    "groups": partial(groups.show_groups, REPLY),
    "group_list": partial(groups.show_list, REPLY),
}


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_of_groups_looks_as_it_was_kept(
    name: str, capsys: pytest.CaptureFixture[str], assert_kept: Callable[[str, str], None]
) -> None:
    shown = []
    for width in (60, 80, 100, 120, 200):
        with on_screen(Form.TABLE, width):
            SCREENS[name]()
        text = capsys.readouterr().out
        assert all(width_of(line) <= width for line in text.splitlines())
        shown.append(f"{f' {width} ':=^{width}}\n{text}")
    assert_kept(name, "\n".join(shown))


def test_groups_are_listed_with_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    models = (ModelView(name="a", family="llama"), ModelView(name="auto", members=tuple(f"m{n}" for n in range(8))))
    with on_screen(Form.TABLE, 100):
        listings.show_models(ModelsReply(models=models))
    shown = capsys.readouterr().out
    assert "(group)" in shown
    assert "auto is a group: m0, m1, m2, m3, m4, m5 and 2 more" in shown


def test_no_groups_says_how_to_get_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    groups.show_groups(GroupsReply(groups=()))
    assert "`sollol group set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdict", "word"),
    [(TrialVerdict.UNDECIDED, "not decided"), (TrialVerdict.BETTER, "better"), (TrialVerdict.WORSE, "worse")],
)
def test_a_verdict_is_told_in_words(verdict: TrialVerdict, word: str) -> None:
    assert word in groups.trial_in_words(TrialView(model="m", verdict=verdict))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["coding"], "needs models"),
        (["coding", "a", "a"], "named twice"),
        (["coding", "a", "--weight", "a"], "MODEL=NUMBER"),
        (["coding", "a", "--weight", "b=2"], "it has a"),
    ],
    ids=["no models", "twice", "no number", "no member"],
)
def test_a_wrong_command_says_what_to_do(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["group", "set", *words, "--nats", "nats://127.0.0.1:1"]) == exit_codes.USAGE
    assert said in capsys.readouterr().err


def test_a_group_is_made_of_names_or_of_weights() -> None:
    made = group_of("coding", {"a": 2.0, "b": 1}, strategy="cheap_first", candidate="c", share=0.2)
    assert made == Group(
        name="coding",
        members=(GroupMember(model="a", weight=2.0), GroupMember(model="b")),
        strategy=GroupStrategy.CHEAP_FIRST,
        candidate=Candidate(model="c", share=0.2),
    )
    assert group_of("coding", ["a", "b"]).members == (GroupMember(model="a"), GroupMember(model="b"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(group_of, "g", ["a", "a"]), "twice"),
        (partial(group_of, "g", {"a": -1.0}), "weight"),
        (partial(group_of, "g", ["a"], strategy="best"), "cheap_first"),
        (partial(group_of, "g", ["a"], candidate="b", share=0.95), "share"),
        (partial(group_of, "g", [f"m{i}" for i in range(33)]), "members"),
        (partial(group_of, "", ["a"]), "name"),
    ],
    ids=["twice", "weight", "strategy", "share", "too many", "no name"],
)
def test_a_group_that_cannot_be_is_refused_with_what_is_wrong(make: Callable[[], Group], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        make()


def test_one_text_is_no_list_of_models() -> None:
    with pytest.raises(TypeError, match="list"):
        group_of("coding", "llama3.1:8b")


def test_a_group_is_found_by_any_spelling_that_means_it() -> None:
    assert only("coding:latest", REPLY) is CODING
    with pytest.raises(UnknownModel) as caught:
        only("nonesuch", REPLY)
    assert caught.value.details["groups"] == ["auto", "coding"]
