"""What feedback teaches: the quality of models, and the trials of candidates; from each event once.

That an answer came teaches nothing about how good it was. Only what a model made and nobody could use does, a little:
a call of a tool that is no JSON, an answer that ended in the middle of what was asked for.
"""

from __future__ import annotations

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.knowledge.quality import Qualities
from sollol_agents.scorer.knowledge.trial import Trials
from sollol_schemas.decision import Decision
from sollol_schemas.feedback import FeedbackEvent, FeedbackHistory
from sollol_schemas.instants import seconds_of
from sollol_schemas.learned import LearnedPosition

_FAILURE_WEIGHT = 0.2


class FeedbackLessons:
    """Teaches qualities and trials.

    Args:
        qualities: What is learnt of models.
        trials: Of candidates.
    """

    def __init__(self, qualities: Qualities, trials: Trials) -> None:
        self.heard = LearnedPosition()
        """The last event that was learnt from."""
        self._qualities = qualities
        self._trials = trials

    @property
    def has_heard(self) -> bool:
        """Whether any feedback was ever learnt from, here or by a predecessor."""
        return self.heard != LearnedPosition()

    def take(self, event: FeedbackEvent, now: float, *, stream_seq: int, stored_at: str) -> bool:
        """Learns from an event of the stream, unless it was learnt from before; returns whether it was news."""
        if not self.heard.is_before(stream_seq, stored_at):
            return False
        self._learn(event, now)
        self.heard = LearnedPosition(stream_seq=stream_seq, stored_at=stored_at)
        return True

    def take_history(self, history: FeedbackHistory, now: float, unix_s: float) -> int:
        """Learns from what the recorder kept, where nothing was learnt yet; returns from how many events."""
        if self.has_heard or not history.events:
            return 0
        for event in history.events:
            self._learn(event, now - max(0.0, unix_s - seconds_of(event.at)))
        self.heard = LearnedPosition(stream_seq=history.stream_seq, stored_at=history.stored_at)
        return len(history.events)

    def learn_failure(self, decision: Decision, now: float) -> None:
        """A model made what could not be told as it was asked for."""
        model = canonical(decision.model)
        self._qualities.learn(model, decision.category, 0.0, now, weight=_FAILURE_WEIGHT, caller=decision.caller)

    def _learn(self, event: FeedbackEvent, now: float) -> None:
        model = canonical(event.model)
        if event.replaces is not None:
            self._qualities.correct(model, event.category, event.replaces, event.score, caller=event.caller)
            return
        self._qualities.learn(model, event.category, event.score, now, caller=event.caller)
        if event.group:
            self._trials.learn(event.group, model, event.score)
