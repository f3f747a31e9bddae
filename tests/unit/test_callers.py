"""Who belongs to which team, what ceilings a caller has, and how that is changed. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_bus.errors import BadRequest, SollolError
from sollol_bus.trust import callers
from sollol_bus.trust.authority import invited, new_authority
from sollol_bus.trust.callers import Roster, adopted, gone, lacks, named
from sollol_schemas.callers import Standing, Standings, name_of_key, word_of
from sollol_schemas.keys import ApiKey
from sollol_schemas.subjects import Role

NONE = Standings(callers={})
names = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)


def standings(**by_name: Standing) -> Standings:
    return Standings(callers=by_name)


def test_a_caller_without_a_team_is_a_team_of_its_own() -> None:
    roster = Roster(standings(a=Standing(team="t"), b=Standing(team="t"), c=Standing()))
    assert [roster.team_of(name) for name in ("a", "b", "c", "stranger")] == ["t", "t", "c", "stranger"]
    assert roster.words_beside("a") == tuple(sorted((word_of("a"), word_of("b"))))
    assert roster.words_beside("c") == (word_of("c"),)
    assert roster.words_beside("stranger") == (word_of("stranger"),)


@given(st.dictionaries(names, st.builds(Standing, team=st.sampled_from(["", "t", "u"])), max_size=8), names)
def test_two_callers_see_each_other_or_neither_does(table: dict[str, Standing], asker: str) -> None:
    roster = Roster(Standings(callers=table))
    for other in table:
        assert (word_of(other) in roster.words_beside(asker)) == (word_of(asker) in roster.words_beside(other)) or (
            asker not in table
        )
        assert roster.name_of(word_of(other)) == other


@given(st.integers(0, 10), st.integers(0, 10))
def test_a_priority_is_lowered_to_the_ceiling_and_never_raised(asked: int, highest: int) -> None:
    roster = Roster(standings(a=Standing(max_priority=highest)))
    assert roster.priority_for("a", asked) == min(asked, highest)
    assert roster.priority_for("stranger", asked) == asked
    assert roster.priority_for("", asked) == asked


def test_what_is_not_said_of_a_caller_stays_as_it_was() -> None:
    made = named("a", team="t", max_concurrent=2)(NONE)
    changed = named("a", max_priority=3, team=None)(made)
    assert changed.callers["a"] == Standing(team="t", max_concurrent=2, max_priority=3)


@pytest.mark.parametrize("wrong", [{"max_priority": 11}, {"max_concurrent": -1}, {"team": "a b"}])
def test_a_ceiling_out_of_its_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        named("a", **wrong)(NONE)


def test_who_is_gone_keeps_its_name_and_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "CALLERS_MAX", 2)
    full = gone("a")(named("b")(named("a")(NONE)))
    assert full.callers["a"].is_gone
    full = named("c")(full)
    assert set(full.callers) == {"b", "c"}
    with pytest.raises(BadRequest, match="revoke some"):
        named("d")(full)


def test_ceilings_that_older_versions_kept_with_keys_are_taken_over_once() -> None:
    key = ApiKey(key_id="abc", name="old", secret_sha256="", created_at="", max_priority=3, max_concurrent=2)
    assert lacks(NONE, [key])
    moved = adopted([key])(NONE)
    assert moved.callers[name_of_key("abc")] == Standing(title="old", max_priority=3, max_concurrent=2)
    assert not lacks(moved, [key])
    changed = named(name_of_key("abc"), max_priority=9)(moved)
    assert adopted([key])(changed) == changed


def test_no_member_can_be_called_as_a_key_is() -> None:
    with pytest.raises(SollolError, match="API keys are called so"):
        invited(new_authority(), name_of_key("0123456789ab"), Role.CLIENT, "s", now=0.0)
