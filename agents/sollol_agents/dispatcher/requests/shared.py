"""A request that may be served together with others of its kind."""

from __future__ import annotations

import time

import msgspec

from sollol_agents.dispatcher.requests.active import ActiveRequest
from sollol_bus.errors import NotConnected, PayloadTooLarge
from sollol_bus.transport.messages import encode
from sollol_schemas import headers as h
from sollol_schemas.decision import Decision
from sollol_schemas.execution import Figures
from sollol_schemas.ids import attempt_id


class SharedRequest(ActiveRequest):
    """As any other request, but that it may wait for the answer of one that stands for several."""

    is_in_batch = False
    """Whether another request stands for it, or will in a moment: then it asks for no slot of its own."""

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a slot of its own."""
        return not self.is_in_batch and super().is_waiting

    @property
    def is_over(self) -> bool:
        """Whether its caller has been answered, or is gone."""
        return self._is_over

    @property
    def left_s(self) -> float:
        """Seconds until its deadline."""
        return self._deadline_mono_s - time.monotonic()

    def go_alone(self) -> None:
        """Asks for a slot of its own after all."""
        self.is_in_batch = False
        if not self._is_over:
            self._tools.scorer.ask(self)

    def answer(self, body: bytes, decision: Decision | None, figures: Figures, content_type: str) -> bool:
        """Gives the caller its part of the answer; False where that cannot be, and it has to go alone."""
        request = self.request
        head: dict[str, str] = {}
        if decision is not None:
            told = {"request_id": request.request_id, "attempt_id": attempt_id(request.request_id, 1)}
            text = f"{decision.reason}; together with others, as request {decision.request_id}"
            head[h.DECISION] = encode(msgspec.structs.replace(decision, **told, reason=text)).decode()
        if content_type:
            head[h.CONTENT_TYPE] = content_type
        end = {h.FIGURES: encode(figures).decode()}
        try:
            if request.wants_stream:
                self._bus.publish(request.reply_to, body, headers=head or None)
                self._bus.publish(request.reply_to, b"", headers=end | {h.CHUNKS: "1"})
            else:
                self._bus.publish(request.reply_to, body, headers=head | end)
        except (NotConnected, PayloadTooLarge):
            return False
        self._finish()
        return True
