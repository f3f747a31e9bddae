"""What outcomes teach: speeds, lengths, reliability, breakers and prefix caches.

Each attempt is counted once: a presumed loss that the node's own report replaces is not charged twice, and
what a former process of a node did is not charged to its successor. Only the faults of engines and nodes count; one
that a single caller can bring about again and again counts once.
"""

from __future__ import annotations

from typing import NamedTuple

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.fleet.attempts import Attempt, Tombstones
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.feedback import FeedbackLessons
from sollol_agents.scorer.knowledge.lengths import LengthTable
from sollol_agents.scorer.knowledge.priors import weight_bytes
from sollol_agents.scorer.knowledge.reliability import strayed
from sollol_schemas.errors import ErrorCode, Owner
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy

_UNTAKEN_S = 5.0  # a grant that no node took is forgotten here before its dispatcher tells that it was lost


class Lesson(NamedTuple):
    """What an outcome changed."""

    attempt: Attempt | None
    """The attempt whose slot came free, if one did."""
    breakers: tuple[str, ...] = ()
    """Models whose breaker on the node changed its state; the empty name is the node's own."""
    is_node_failing: bool = False


class Teacher:
    """Frees slots and teaches the fleet and the length table from outcomes."""

    def __init__(self, fleet: Fleet, lengths: LengthTable, feedback: FeedbackLessons) -> None:
        self._fleet = fleet
        self._lengths = lengths
        self._feedback = feedback
        self._counted = Tombstones(keep_s=900.0)

    def learn(self, outcome: Outcome, now: float) -> Lesson:
        """Takes one outcome, of whatever attempt, reported by whomever."""
        attempt_id, is_success = outcome.attempt_id, outcome.status is OutcomeStatus.SUCCESS
        node = self._fleet.node_of(attempt_id) or self._fleet.nodes.get(outcome.node_id)
        released = self._fleet.release(
            attempt_id,
            now,
            is_final=outcome.reported_by is ReportedBy.NODE,
            is_loaded=is_success or _came_to_life(outcome, self._fleet.attempt(attempt_id)),
        )
        attempt = released or self._fleet.departed(attempt_id)
        if outcome.owner is Owner.OUTPUT and attempt_id not in self._counted:
            self._feedback.learn_failure(outcome.decision, now)
            self._counted.add(attempt_id, now)
        if node is None or (outcome.decision.instance and outcome.decision.instance != node.instance):
            return Lesson(attempt)
        model = attempt.model if attempt is not None else canonical(outcome.decision.model)
        is_trial = attempt is not None and attempt.is_trial
        if outcome.code is ErrorCode.BUSY:
            node.is_full = True
        is_charged = not is_success and outcome.is_charged
        if not (is_charged or is_success) or attempt_id in self._counted:
            node.breakers.cancel(model, is_trial=is_trial)
            if is_trial:
                node.reshape()
            return Lesson(attempt)
        self._counted.add(attempt_id, now)
        is_echo = not is_trial and _is_echo(node, attempt, outcome, now)
        changed = self._count(node, model, outcome, is_success=is_success, is_trial=is_trial, is_echo=is_echo, now=now)
        if is_success:
            self._learn_success(node, model, outcome, attempt)
        else:
            node.mirror.forget(model)
        node.speed_version += 1
        return Lesson(attempt, changed, is_charged and _is_proven(outcome))

    @staticmethod
    def _count(
        node: Node, model: str, outcome: Outcome, *, is_success: bool, is_trial: bool, is_echo: bool, now: float
    ) -> tuple[str, ...]:
        before = round(100 * node.record.bound)
        is_models = outcome.code is ErrorCode.LOAD_FAILED
        records = (node.model_record(model),) if is_models else (node.record, node.model_record(model))
        if is_success or node.breakers.of(model).is_news(outcome.evidence):
            for record in records:
                record.count(is_success=is_success)
        if is_success and outcome.figures is not None:
            off = strayed(outcome.figures.actual_s, outcome.decision.forecast.total_s)
            for record in records:
                record.compare(off)
        changed: list[str] = []
        if not is_echo:
            changed = node.breakers.count(
                model, is_success=is_success, is_trial=is_trial, now=now, evidence=outcome.evidence, is_models=is_models
            )
        if changed or is_trial or round(100 * node.record.bound) != before:
            node.reshape()
        return tuple(changed)

    def _learn_success(self, node: Node, model: str, outcome: Outcome, attempt: Attempt | None) -> None:
        figures = outcome.figures
        if figures is None:
            return
        node.speeds.learn(model, weight_bytes(node.installed.get(model)), figures, node.pace.value)
        prompt = figures.prompt_tokens or 0
        output = figures.output_tokens or 0
        said = figures.continued_tokens or outcome.decision.continued_tokens
        limit = attempt.max_output_tokens if attempt is not None else None
        if output > 0 and (limit is None or output < limit):
            asked = _asked_tokens(attempt) or max(0, prompt - said)
            self._lengths.learn(model, outcome.decision.task_type or "generation", asked, said + output)
        if attempt is not None:
            _remember_prefix(node, attempt, prompt + output)


def _asked_tokens(attempt: Attempt | None) -> int:
    """Length of the prompt alone, as it was estimated; 0 when not known."""
    return attempt.prompt_tokens - attempt.continued_tokens if attempt is not None else 0


def _is_echo(node: Node, attempt: Attempt | None, outcome: Outcome, now: float) -> bool:
    """Whether an attempt was lost with others: a pause of a node loses all that it gets, and is one failure."""
    if outcome.code is not ErrorCode.NODE_LOST:
        return False
    began_at = now - _UNTAKEN_S if attempt is None else attempt.granted_at
    if began_at <= node.lost_at or node.seen_at <= node.lost_at:
        return True
    node.lost_at = now
    return False


def _is_proven(outcome: Outcome) -> bool:
    return outcome.evidence is None or outcome.evidence.is_confirmed


def _remember_prefix(node: Node, attempt: Attempt, tokens: int) -> None:
    installed = node.installed.get(attempt.model)
    if installed is None or not (attempt.session_id or attempt.prefix_hashes):
        return
    key = attempt.session_id or attempt.prefix_hashes[-1]
    total = tokens or attempt.prompt_tokens
    node.mirror.remember(attempt.model, key, total, attempt.prefix_hashes, node.model_slots(installed))


def _came_to_life(outcome: Outcome, attempt: Attempt | None) -> bool:
    """Whether the attempt's model was in memory when it ended without success."""
    if attempt is not None and attempt.has_first_token:
        return True
    return outcome.figures is not None and outcome.figures.ttft_s is not None
