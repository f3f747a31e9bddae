"""Feedback on requests that nobody knows does not keep the recorder from other questions."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from sollol_agents.recorder import feedback
from sollol_agents.recorder.feedback import FeedbackDesk
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas.feedback import FeedbackReply, FeedbackRequest
from sollol_schemas.queries import WhyReply


class Archive:
    """Knows of no request, and counts how often it is asked for each."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    async def why(self, request_id: str, *, job: str) -> WhyReply:
        self.asked[request_id] = self.asked.get(request_id, 0) + 1
        return WhyReply(request_id=request_id)

    async def count_waiting_feedback(self, _caller: str) -> tuple[int, int]:
        return 0, 0


class Store:
    async def transact(self, *_: Any) -> None: ...


async def test_a_crowd_of_feedback_on_unknown_requests_is_looked_for_once_and_waits() -> None:
    clock = SimpleNamespace(now_unix=lambda: 0.0)
    desk, archive = FeedbackDesk(cast("Bus", SimpleNamespace(clock=clock)), per_minute=0), Archive()
    replies: list[FeedbackReply] = []

    async def rate(request_id: str) -> None:
        msg = cast("Msg", SimpleNamespace(data=encode(FeedbackRequest(request_id=request_id, score=1.0)), headers={}))
        replies.append(await desk.take(cast("Any", archive), cast("Any", Store()), msg))

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(rate(f"r{number:02}"))
    assert all(reply.is_waiting for reply in replies)
    assert len(replies) == 40
    patient = [request_id for request_id, times in archive.asked.items() if times > 1]
    assert len(patient) == feedback._LOOKING_MAX
