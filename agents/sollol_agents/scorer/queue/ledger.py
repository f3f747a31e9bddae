"""Which request holds which grant: asking again finds it, and what no node took is void."""

from __future__ import annotations

import math

from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_schemas.grant import Granted, GrantRequest
from sollol_schemas.ids import attempt_id


class GrantLedger:
    """Grants by request id, from the grant until its slot is free again."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._attempt_of: dict[str, str] = {}
        self._waited: dict[str, Waiting] = {}

    def __contains__(self, request_id: str) -> bool:
        """Whether a request holds a grant."""
        return request_id in self._attempt_of

    def note(self, attempt: Attempt, waiting: Waiting) -> None:
        """A request was granted a slot."""
        self._attempt_of[attempt.request_id] = attempt.attempt_id
        self._waited[attempt.request_id] = waiting

    def least_rank_now(self) -> float:
        """The least rank with which an answer came that runs now and may be cut; infinite without any."""
        running = (a.arrival_rank for n in self.fleet.nodes.values() for a in n.attempts.values() if a.is_resumable)
        self.fleet.least_rank = min(running, default=math.inf)
        return self.fleet.least_rank

    def held(self, request: GrantRequest, now: float) -> Granted | None:
        """The grant that this request holds already; one that cannot be used any more is void."""
        attempt = self._attempt(request.request_id)
        if attempt is None:
            return None
        is_same = attempt.attempt_id == attempt_id(request.request_id, request.number)
        is_refused = attempt.node_id in request.busy or attempt.node_id in request.excluded
        if is_same and not is_refused:
            return attempt.grant
        if is_refused or not attempt.is_confirmed:
            self.void(attempt, now)
        return None

    def asked(self, attempt: Attempt) -> Waiting | None:
        """The request as it waited for this attempt; None when another scorer granted it."""
        is_its = self._attempt_of.get(attempt.request_id) == attempt.attempt_id
        return self._waited.get(attempt.request_id) if is_its else None

    def release(self, request_id: str, number: int | None, now: float) -> Waiting | None:
        """The request wants no slot: a grant that no node took is void, unless it is for an attempt after `number`.

        Returns:
            The request as it waited, when its grant is void now.
        """
        attempt = self._attempt(request_id)
        if attempt is None or attempt.is_confirmed or (number is not None and attempt.number > number):
            return None
        waiting = self._waited.get(request_id)
        self.void(attempt, now)
        return waiting

    def release_all_of(self, dispatcher: str, now: float) -> None:
        """A dispatcher died: what it was granted and no node took is void."""
        for node in self.fleet.nodes.values():
            for attempt in list(node.attempts.values()):
                if attempt.dispatcher == dispatcher and not attempt.is_confirmed:
                    self.void(attempt, now)

    def void(self, attempt: Attempt, now: float) -> None:
        """Frees the slot of a grant that is not used."""
        self.fleet.release(attempt.attempt_id, now, is_loaded=False)
        self._return_trial(attempt)
        self.forget(attempt)

    def drop(self, attempt: Attempt) -> None:
        """An attempt left its slot without an outcome."""
        self.forget(attempt)
        if not attempt.is_confirmed:
            self._return_trial(attempt)

    def _return_trial(self, attempt: Attempt) -> None:
        node = self.fleet.nodes.get(attempt.node_id)
        if node is not None and attempt.is_trial:
            node.breakers.cancel(attempt.model, is_trial=True)
            node.reshape()

    def forget(self, attempt: Attempt) -> None:
        """The attempt ended."""
        if self._attempt_of.get(attempt.request_id) == attempt.attempt_id:
            del self._attempt_of[attempt.request_id]
            self._waited.pop(attempt.request_id, None)

    def clear(self) -> None:
        """Out of office: dispatchers ask the successor."""
        self._attempt_of.clear()
        self._waited.clear()

    def _attempt(self, request_id: str) -> Attempt | None:
        return self.fleet.attempt(self._attempt_of.get(request_id, ""))
