"""From each feedback a scorer learns once, whoever keeps its place, and a failure of the model's own teaches little."""

from __future__ import annotations

import random

from sollol_agents.lab.testing.messages import decision, outcome
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.knowledge.quality import PRIOR
from sollol_agents.scorer.office.takeover import everything_learned, forget_quality, take_up
from sollol_schemas.errors import ErrorCode, Owner
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.feedback import FeedbackEvent, FeedbackHistory
from sollol_schemas.instants import instant
from sollol_schemas.learned import LearnedPosition

UNIX_S = 1_800_000_000.0


def _core() -> SchedulerCore:
    return SchedulerCore(ScorerConfig(), random.Random(1), 0.0)


def _at(second: int) -> str:
    return instant(UNIX_S + second)


def _event(score: float, *, replaces: float | None = None, group: str = "") -> FeedbackEvent:
    return FeedbackEvent(
        request_id="r1", model="Llama3", group=group, category="testing", score=score, replaces=replaces, caller="w"
    )


def _answers(core: SchedulerCore) -> float:
    return core.qualities.expected("llama3:latest", "testing").answers


def test_an_event_that_comes_again_teaches_once() -> None:
    core = _core()
    assert core.feedback.take(_event(0.0), 1.0, stream_seq=5, stored_at=_at(100))
    assert not core.feedback.take(_event(0.0), 1.0, stream_seq=5, stored_at=_at(100))
    assert not core.feedback.take(_event(0.0), 1.0, stream_seq=4, stored_at=_at(90))
    assert round(_answers(core), 3) == 1.0
    assert core.feedback.take(_event(0.0), 1.0, stream_seq=1, stored_at=_at(200)), "of a stream that was begun anew"
    assert core.feedback.take(_event(0.0), 1.0, stream_seq=2, stored_at=_at(150)), "the server's clock was set back"


def test_a_later_rating_of_the_same_request_replaces_the_former() -> None:
    core = _core()
    core.feedback.take(_event(1.0), 1.0, stream_seq=1, stored_at=_at(1))
    core.feedback.take(_event(0.0, replaces=1.0), 2.0, stream_seq=2, stored_at=_at(2))
    other = _core()
    other.feedback.take(_event(0.0), 1.0, stream_seq=1, stored_at=_at(1))
    assert core.qualities.expected("llama3:latest", "testing") == other.qualities.expected("llama3:latest", "testing")


def test_a_successor_goes_on_where_the_document_ends() -> None:
    core = _core()
    core.trials.follow({"g": "llama3:latest"})
    core.feedback.take(_event(0.0, group="g"), 1.0, stream_seq=7, stored_at=_at(70))
    successor = _core()
    take_up(successor, everything_learned(core, 2.0, UNIX_S), 500.0, age_s=10.0)
    assert successor.feedback.heard == LearnedPosition(stream_seq=7, stored_at=_at(70))
    assert successor.qualities.expected("llama3:latest") == core.qualities.expected("llama3:latest")
    assert successor.trials.snapshot() == core.trials.snapshot() != ()
    assert not successor.feedback.take(_event(0.0), 500.0, stream_seq=7, stored_at=_at(70))


def test_what_the_recorder_kept_is_learnt_only_where_nobody_left_anything() -> None:
    history = FeedbackHistory(events=(_event(0.0), _event(0.0)), stream_seq=9, stored_at=_at(90))
    core = _core()
    assert core.feedback.take_history(history, 1.0, UNIX_S) == 2
    assert core.feedback.take_history(history, 1.0, UNIX_S) == 0
    assert not core.feedback.take(_event(0.0), 1.0, stream_seq=9, stored_at=_at(90))
    assert 1.9 < _answers(core) <= 2.0
    assert _core().feedback.take_history(FeedbackHistory(), 1.0, UNIX_S) == 0


def test_forgotten_quality_is_that_of_a_model_nobody_rated() -> None:
    core = _core()
    core.trials.follow({"g": "llama3:latest"})
    core.feedback.take(_event(0.0, group="g"), 1.0, stream_seq=1, stored_at=_at(1))
    forget_quality(core, "other:latest")
    assert _answers(core) == 1.0
    forget_quality(core, "llama3:latest")
    assert core.qualities.expected("llama3:latest", "testing") == _core().qualities.expected("m", "testing")
    assert [trial.candidate.count for trial in core.trials.snapshot()] == [0]
    core.feedback.take(_event(0.0), 1.0, stream_seq=2, stored_at=_at(2))
    forget_quality(core, "")
    assert _answers(core) == 0.0


def test_what_a_model_made_and_nobody_could_use_teaches_a_little_and_once() -> None:
    core, failed = _core(), _failed()
    core.on_outcome(failed, 1.0)
    after_one = core.qualities.expected("m:latest", "testing")
    core.on_outcome(failed, 1.0)
    assert core.qualities.expected("m:latest", "testing") == after_one
    assert 0.1 < after_one.answers < 0.5
    assert after_one.mean < PRIOR


def test_an_answer_or_a_failing_engine_teaches_nothing_about_quality() -> None:
    core = _core()
    core.on_outcome(outcome("r1-1", "n1", model="m"), 1.0)
    core.on_outcome(outcome("r2-1", "n1", model="m", code=ErrorCode.ENGINE_FAILED), 1.0)
    assert core.qualities.snapshot(1.0) == ()


def _failed() -> Outcome:
    return Outcome(
        decision=decision("r9-1", node_id="n1", model="m", coding_category="testing"),
        status=OutcomeStatus.FAILED,
        reported_by=ReportedBy.NODE,
        code=ErrorCode.ENGINE_REJECTED,
        owner=Owner.OUTPUT,
    )
