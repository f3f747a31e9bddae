"""Requests that come round again: this fleet's own nodes ask them, having a gateway in place of an engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from sollol_agents.gateway.http.errors import Header
from sollol_agents.requests.hops import MOST_HOPS, header_of, marks_in
from sollol_bus.errors import BusError, error_from
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.control import ControlPing, ControlReply
from sollol_schemas.errors import ErrorBody, ErrorCode

log = logging.getLogger(__name__)

_VIA: Final = h.VIA.lower().encode()
_ANSWER_S: Final = 1.0
_PING: Final = encode(ControlPing())


class Hops:
    """Knows what has been here before.

    Args:
        bus: The gateway's connection.
        instance: The gateway's own mark.
    """

    def __init__(self, bus: Bus, instance: str) -> None:
        self._bus = bus
        self._instance = instance

    async def passed_on(self, headers: Iterable[Header]) -> str:
        """The way of a request as it goes on from here.

        Raises:
            SollolError: It has been here before, or seems never to arrive.
        """
        text = ",".join(value.decode("latin-1") for name, value in headers if name == _VIA)
        marks = marks_in(text)
        if not marks:
            return self._instance
        if self._instance in marks or len(marks) > MOST_HOPS or any(await asyncio.gather(*map(self._is_ours, marks))):
            raise _came_round(marks[-1].partition(".")[0])
        return header_of(*marks, self._instance)

    async def _is_ours(self, mark: str) -> bool:
        """Whether the node that made a mark belongs to this fleet."""
        node_id, dot, instance = mark.partition(".")
        if not dot:
            return False
        try:
            reply = await self._bus.request(subjects.NODE_CONTROL.of(node_id), _PING, timeout_s=_ANSWER_S)
            return decode(reply.data, ControlReply).instance == instance
        except BusError as error:
            log.debug("node %s is none of this fleet: %s", node_id, error)
            return False


def _came_round(node_id: str) -> Exception:
    message = (
        f"this request came round: node {node_id!r} has a gateway of its own fleet for an engine, or one that leads "
        "back here; give it the engine's own address with `sollol node --url`"
    )
    return error_from(ErrorBody(code=ErrorCode.FORBIDDEN, status=508, message=message))
