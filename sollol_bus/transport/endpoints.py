"""What an actor is asked on the bus, and how often: one endpoint for each row of the subject table that it serves.

A request counts when it comes. It is over with the first message to its reply subject, or when that is said: from then
on its time and its error are counted. What is never answered has no time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from sollol_bus.transport.messages import Msg
from sollol_bus.transport.subscription import Subscription
from sollol_schemas.headers import SERVICE_ERROR, SERVICE_ERROR_CODE
from sollol_schemas.subjects import AS, ENGINE, MEMBERS, SUBJECTS, V1, Subject, by_members

_MOST_OPEN: Final = 16_384
"""So many unanswered requests are known at a time; the time of older ones is not measured."""
_ENGINE: Final = ("EngineRequest", "EngineChunk")
"""The contract's names of a request and an answer in the engine's dialect."""


class Endpoint:
    """One subject that an actor serves.

    Args:
        subject: The subject, or pattern.
        queue: Its queue group; empty for none.
    """

    __slots__ = ("errors", "last_error", "name", "processing_ns", "queue", "requests", "row", "subject", "taken_by")

    def __init__(self, subject: str, queue: str) -> None:
        self.subject = subject
        self.queue = queue
        self.row = row_of(subject)
        """Its row of the subject table; None: it has none."""
        pattern = subject if self.row is None else self.row.address
        words = pattern.removeprefix(f"{V1}.").split(".")
        self.name = "-".join(word for word in words if word[0] not in "{*>")
        """What it is called; as it may be in the names of services."""
        self.requests = 0
        self.errors = 0
        self.last_error = ""
        self.processing_ns = 0
        self.taken_by: tuple[Subscription, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether requests are taken there now."""
        return any(not subscription.is_over for subscription in self.taken_by)

    @property
    def is_for_members(self) -> bool:
        """Whether clients or observers ask there, and under their own names elsewhere."""
        return self.row is not None and bool(set(MEMBERS) & set(self.row.by)) and not self.subject.startswith(AS)

    def metadata(self) -> dict[str, str]:
        """What the contract says of it: its messages by name, and where members ask under their own names."""
        row = self.row
        if row is None:
            return {}
        request, response = (
            engines if told == ENGINE else told for told, engines in zip((row.payload, row.reply), _ENGINE, strict=True)
        )
        told = {"request_schema": request, "response_schema": response, "roles": " ".join(row.by)}
        if self.is_for_members:
            told["members_subject"] = by_members(self.subject)
        return {name: text for name, text in told.items() if text}


class Endpoints:
    """The endpoints of one connection.

    Args:
        clock_ns: A steady clock.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.open: OrderedDict[str, tuple[Endpoint, int]] = OrderedDict()
        """By the reply subjects of requests that are not over: where each came in, and when. To be read only."""
        self._clock_ns = clock_ns
        self._known: dict[str, Endpoint] = {}

    def __iter__(self) -> Iterator[Endpoint]:
        """Those that are taking requests now."""
        return (endpoint for endpoint in self._known.values() if endpoint.is_open)

    def counting(
        self, subject: str, queue: str, handler: Callable[[Msg], None]
    ) -> tuple[Endpoint, Callable[[Msg], None]]:
        """The endpoint of a subject, and a handler that counts what comes there; one served before goes on counting."""
        endpoint = self._known.get(subject)
        if endpoint is None:
            endpoint = self._known[subject] = Endpoint(subject, queue)
        waiting, clock_ns = self.open, self._clock_ns

        def take(msg: Msg) -> None:
            endpoint.requests += 1
            if msg.reply:
                waiting[msg.reply] = (endpoint, clock_ns())
                if len(waiting) > _MOST_OPEN:
                    waiting.popitem(last=False)
            handler(msg)

        return endpoint, take

    def answered(self, reply: str, headers: dict[str, str] | None) -> None:
        """A message goes to the reply subject of a request that is not over."""
        is_error = headers is not None and SERVICE_ERROR_CODE in headers
        self.over(reply, (headers or {}).get(SERVICE_ERROR, "error") if is_error else "")

    def over(self, reply: str, error: str = "") -> None:
        """A request is over, with an error or without; for the second time, or an unknown one, nothing happens."""
        found = self.open.pop(reply, None)
        if found is None:
            return
        endpoint, began_ns = found
        endpoint.processing_ns += self._clock_ns() - began_ns
        if error:
            endpoint.errors += 1
            endpoint.last_error = error


def row_of(subject: str) -> Subject | None:
    """The row of the subject table that a subject, or a pattern, belongs to, plain or under a member's name."""
    tokens = subject.split(".")
    if subject.startswith(AS):
        del tokens[2:4]
    for row in SUBJECTS:
        of_row = row.all.split(".")
        if len(of_row) == len(tokens) and all(a in ("*", b) for a, b in zip(of_row, tokens, strict=True)):
            return row
    return None
