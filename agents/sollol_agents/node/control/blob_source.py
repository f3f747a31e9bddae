"""A file that a gateway has, fetched piece by piece: the node asks for the next one only as the engine takes them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

from sollol_bus.errors import BusError, NotPermitted, SollolError, error_from
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, error_of
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.inboxes import is_client_inbox

_PIECE_S: Final = 60.0
_LEAVE_EVERY_S: Final = 0.5
_LEAVE_TIMES: Final = 30
"""Whoever has the file gives leave to ask anew when nothing was asked for some seconds."""


class BlobSource:
    """A file on its way to this node.

    Args:
        bus: The node's connection.
        source: The inbox on which pieces are asked for.
        digest: `sha256:` or `sha256-` and the digest that the file must have.

    Raises:
        SollolError: The source is no inbox of a client's.
    """

    def __init__(self, bus: Bus, source: str, digest: str) -> None:
        if not is_client_inbox(source):
            raise _refused("the source of a file must be an inbox")
        self._bus = bus
        self._source = source
        self._digest = digest
        self._coming: asyncio.Future[Msg | BusError]
        self._withdraw: Callable[[], None]

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The file; one piece is asked for ahead.

        Raises:
            SollolError: Whoever has it gave up or is gone, or the digest is not that of what came.
        """
        sha = hashlib.sha256()
        number = 0
        self._ask(number)
        try:
            while data := await self._piece(number):
                number += 1
                self._ask(number)
                sha.update(data)
                yield data
        finally:
            self._withdraw()
        if sha.hexdigest() != self._digest[len("sha256:") :]:
            raise _refused(f'digest mismatch, expected "{self._digest}", got "sha256:{sha.hexdigest()}"')

    async def _piece(self, number: int) -> bytes:
        """The piece that was asked for; asked again while the server lets nothing through to whoever has it."""
        for _ in range(_LEAVE_TIMES):
            try:
                return await _data_of(self._coming)
            except NotPermitted:
                await asyncio.sleep(_LEAVE_EVERY_S)
                self._ask(number)
        return await _data_of(self._coming)

    def _ask(self, number: int) -> None:
        future: asyncio.Future[Msg | BusError] = asyncio.get_running_loop().create_future()

        def settle(reply: Msg | BusError) -> None:
            if not future.done():
                future.set_result(reply)

        self._coming = future
        self._withdraw = self._bus.ask(self._source, b"%d" % number, settle, timeout_s=_PIECE_S)


async def _data_of(coming: asyncio.Future[Msg | BusError]) -> bytes:
    reply = await coming
    if isinstance(reply, BusError):
        raise reply
    failure = error_of(reply)
    if failure is not None:
        raise error_from(failure)
    return bytes(reply.data)


def _refused(message: str) -> SollolError:
    return error_from(ErrorBody(code=ErrorCode.BAD_REQUEST, message=message))
