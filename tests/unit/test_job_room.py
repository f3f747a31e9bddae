"""How many jobs a caller has, told by the subjects of what is stored, and whether one more may come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sollol_bus.trust.callers import Roster
from sollol_bus.trust.job_room import count_by_owner, refusal_of_job
from sollol_schemas import subjects
from sollol_schemas.callers import Standing, Standings
from sollol_schemas.errors import ErrorCode
from sollol_schemas.owners import owner_of, reference

OWNERS = st.sampled_from(["", "alice", "bob", "key-3f9c"])
REFS = st.builds(reference, OWNERS, st.sampled_from(["a", "b-1", "story"]))
PLACES = st.sampled_from([subjects.JOB_SUBMIT, subjects.JOB_DELAYED, subjects.JOB_DUE])


@given(st.lists(st.tuples(PLACES, st.integers(0, 10), REFS), max_size=20))
def test_every_job_counts_once_and_for_its_owner_wherever_it_lies(
    stored: list[tuple[subjects.Subject, int, str]],
) -> None:
    counts = count_by_owner(place.of(priority, ref) for place, priority, ref in stored)
    refs = {ref for _, _, ref in stored}
    assert counts.total() == len(refs)
    assert all(counts[owner] == sum(owner_of(ref) == owner for ref in refs) for owner in counts)


@given(st.integers(0, 5), st.integers(0, 7))
def test_a_caller_may_have_jobs_up_to_its_ceiling(most: int, count: int) -> None:
    roster = Roster(Standings(callers={"alice": Standing(max_jobs=most)}))
    refused = refusal_of_job("alice", roster, count)
    assert (refused is not None) == (0 < most <= count)
    assert refusal_of_job("bob", roster, count) is None
    assert refusal_of_job("", roster, count) is None


def test_a_refusal_says_which_ceiling_it_was_and_how_to_change_it() -> None:
    roster = Roster(Standings(callers={"key-3f9c": Standing(title="scripts", max_jobs=2)}))
    refused = refusal_of_job("key-3f9c", roster, 2)
    assert refused is not None
    assert (refused.code, refused.http_status) == (ErrorCode.QUEUE_FULL, 429)
    assert "scripts" in refused.message
    assert "2 jobs" in refused.message
    assert "sollol fleet limit key-3f9c --jobs NUMBER" in refused.message
    assert refused.details["retry_after_s"] == 2.0
