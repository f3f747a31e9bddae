"""The judge of the faults' benchmark: what it says of calls, jobs and engines whose instants are known."""

from __future__ import annotations

import pytest

pytest.importorskip("bench.faults", reason="the benchmarks are not part of the wheel")

from bench.faults.cases import FEW, every_case
from bench.faults.judge import LOST, Jobs, Sample, Span, hangs, judge, longest_gap, until_service

SPAN = Span(began_s=10.0, undone_s=20.0, asked_until_s=30.0, ended_s=42.0)


def call(began_s: float, *heard_s: float, ended_s: float | None = None, error: str = "", wanted: int = 2) -> Sample:
    """A short call, or one of its pieces came at such times."""
    made = Sample(way="nats", prompt=f"at {began_s}", wanted=wanted, is_short=True, began_s=began_s)
    for number, at in enumerate(heard_s, start=1):
        made.hear(at, f" {wanted - number}")
    if ended_s is not None:
        made.end(ended_s, error)
    return made


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(call(9.0, ended_s=19.0), False, id="it ended while the fault lasted"),
        pytest.param(call(9.0, ended_s=24.0), False, id="it ended soon after the fault"),
        pytest.param(call(9.0, 24.0, ended_s=41.0), False, id="it went on soon after the fault"),
        pytest.param(call(9.0, 12.0, 26.0, ended_s=27.0), True, id="it went on late"),
        pytest.param(call(9.0, ended_s=26.0, error="stalled"), True, id="it failed late"),
        pytest.param(call(9.0), True, id="it never ended"),
        pytest.param(call(19.0, ended_s=24.0, error=LOST), False, id="a server took its request along"),
        pytest.param(call(21.0, ended_s=26.0, error=LOST), True, id="its request was lost after the fault"),
        pytest.param(call(40.0), False, id="it had no time to end"),
        pytest.param(call(36.0), True, id="it began after the fault and never ended"),
    ],
)
def test_a_call_hangs_that_gives_no_sign_for_five_seconds_after_the_fault(made: Sample, expected: bool) -> None:
    assert hangs(made, SPAN) is expected


def test_the_longest_gap_is_between_answers_from_the_fault_to_the_last_call() -> None:
    calls = [call(8.0, ended_s=11.0), call(12.0, ended_s=14.0, error="node_lost"), call(17.0, ended_s=18.0)]
    assert longest_gap(calls, SPAN) == 12.0, "from the last answer on there was none"
    assert longest_gap([*calls, call(25.0, ended_s=26.0)], SPAN) == 8.0
    assert longest_gap([], SPAN) == 20.0


def test_service_is_back_with_the_first_answer_to_a_call_that_began_after_the_fault() -> None:
    assert until_service([call(9.0, ended_s=11.0), call(10.5, ended_s=13.0)], SPAN) == 3.0
    assert until_service([call(10.5, ended_s=13.0, error="no_nodes")], SPAN) is None


def test_errors_wrong_answers_losses_and_doubled_work_are_counted() -> None:
    calls = [call(11.0, 11.2, 11.4, ended_s=11.5), call(12.0, 12.2, ended_s=12.5), call(13.0, ended_s=13.1, error="x")]
    jobs = Jobs(acked=3, lost=("a",), wrong=("b",), answered=2, written=4, settled_s=1.0)
    told = judge(calls, jobs, {"p": 1, "q": 3, "r": 2}, SPAN)
    assert told["errors"] == {"nats: x": 1}
    assert (told["wrong"], told["jobs_lost"], told["jobs_wrong"]) == (1, 1, 1)
    assert (told["results_doubled"], told["work_doubled"]) == (2, 3)
    assert told["calm_s"] == 3.1, "the last call that was disturbed"


def test_a_call_ends_once() -> None:
    made = call(1.0, ended_s=2.0, error="no_nodes")
    made.end(3.0)
    assert (made.ended_s, made.error) == (2.0, "no_nodes")


def test_every_case_has_a_name_of_its_own_that_can_be_part_of_a_jobs_id() -> None:
    names = [case.name for case in every_case()]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() and len(name) < 50 for name in (*names, *(c.name for c in FEW)))
