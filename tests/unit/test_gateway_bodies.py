"""Small bodies of requests that are not inference."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from sollol_agents.gateway.http.bodies import body_of
from sollol_bus.errors import SollolError


async def test_a_body_that_stops_in_its_middle_is_given_up() -> None:
    pieces: list[dict[str, Any]] = [{"type": "http.request", "body": b'{"a":', "more_body": True}]

    async def receive() -> dict[str, Any]:
        if not pieces:
            await asyncio.Event().wait()
        return pieces.pop()

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(SollolError) as refused:
        await body_of(request, within_s=0.01)
    assert refused.value.body.http_status == 408
