"""Files of models on their way from a client to a node's engine: `HEAD` and `POST /api/blobs/sha256:…`.

The node asks for one piece after the other, so that no more of a file is on the way than the engine takes, and a
client is read no faster than that. Nothing of it is kept here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect

from sollol_agents.gateway.management.fleet import Fleet
from sollol_bus.errors import BusError, SollolError, error_from
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.leave import LeaveOnSilence, give
from sollol_bus.transport.messages import Msg, is_no_responders
from sollol_schemas.control import ControlBlob, ControlEngine, EngineOperation
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.queries import NodeView

log = logging.getLogger(__name__)

PIECE_BYTES: Final = 256 << 10
_ASKED_WITHIN_S: Final = 120.0
_DIGEST: Final = re.compile(r"sha256[:-][0-9a-f]{64}")


class Sender:
    """Gives a file to whoever asks for its pieces, in order.

    Args:
        bus: The gateway's connection.
        node_id: Who asks.
        pieces: The file, as it arrives.
        limit_bytes: The largest file taken.
    """

    def __init__(self, bus: Bus, node_id: str, pieces: AsyncGenerator[bytes, None], limit_bytes: int) -> None:
        self._bus = bus
        self._pieces = pieces
        self._limit_bytes = limit_bytes
        self._size = 0
        self._buffer = bytearray()
        self._is_over = False
        self._asked: asyncio.Queue[Msg] = asyncio.Queue()
        self._inbox = bus.reply_inbox(self._on_request)
        give(bus, node_id, self.source)
        self._leave = LeaveOnSilence(bus, node_id, self.source)

    @property
    def source(self) -> str:
        """Where pieces are asked for."""
        return self._inbox.subject

    async def run(self) -> None:
        """Answers until the end of the file.

        Raises:
            SollolError: The client stopped sending, or nobody asks for more.
        """
        while not self._is_over:
            msg = await self._next_request()
            try:
                piece = await self._next_piece()
            except SollolError as error:
                self._bus.respond_error(msg.reply, error.body)
                raise
            except Exception:
                gone = ErrorBody(code=ErrorCode.CANCELLED, message="the client left")
                self._bus.respond_error(msg.reply, gone)
                raise
            self._bus.answer(msg, piece)

    def close(self) -> None:
        """Answers nobody any more."""
        self._leave.close()
        self._inbox.close()

    async def _next_request(self) -> Msg:
        try:
            async with asyncio.timeout(_ASKED_WITHIN_S):
                return await self._asked.get()
        except TimeoutError:
            message = f"the node has taken nothing for {_ASKED_WITHIN_S:g} s"
            raise error_from(ErrorBody(code=ErrorCode.STALLED, message=message)) from None

    async def _next_piece(self) -> bytes:
        """The next piece; empty at the end."""
        while len(self._buffer) < PIECE_BYTES:
            data = await anext(self._pieces, b"")
            if not data:
                break
            self._size += len(data)
            if self._size > self._limit_bytes:
                message = f"the file exceeds the limit of {self._limit_bytes} bytes"
                raise error_from(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=message))
            self._buffer += data
        piece = bytes(self._buffer[:PIECE_BYTES])
        del self._buffer[:PIECE_BYTES]
        self._is_over = not piece
        return piece

    def _on_request(self, msg: Msg | BusError) -> None:
        if not isinstance(msg, BusError) and not is_no_responders(msg):
            self._leave.heard()
            self._asked.put_nowait(msg)  # one at a time comes: the node waits for each answer


class _Taken(msgspec.Struct):
    status: int = 201


async def upload(fleet: Fleet, node_id: str, digest: str, sender: Sender) -> int:
    """Gives a file to a node's engine; the engine's status, 201 or 200.

    Raises:
        SollolError: The node or its engine refused, the digest is wrong, or the client stopped sending.
        ClientDisconnect: The client left.
    """
    error: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(sender.run(), name=f"file for {node_id}")
            objects = [one async for one in fleet.operate(node_id, ControlBlob(digest=digest, source=sender.source))]
            sending.cancel()
    except* (SollolError, ClientDisconnect) as failed:
        error = _reason(failed)
    finally:
        sender.close()
    if error is not None:
        raise error
    return msgspec.json.decode(objects[-1], type=_Taken).status if objects else 201


def _reason(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that says most: not that the node was told that the client left."""
    errors = sorted(failed.exceptions, key=lambda one: isinstance(one, SollolError) and one.body.http_status == 499)
    return errors[0]


def is_digest(digest: str) -> bool:
    """Whether a file may have this digest."""
    return _DIGEST.fullmatch(digest) is not None


async def has(fleet: Fleet, node_id: str, digest: str) -> bool:
    """Whether a node's engine has a file."""
    try:
        await fleet.whole(node_id, ControlEngine(operation=EngineOperation.BLOB, body={"digest": digest}))
    except SollolError as error:
        if error.body.http_status != 404:
            raise
        return False
    return True


def digests_in(body: dict[str, Any]) -> list[str]:
    """The files that a model is to be made from."""
    named = [value for name in ("files", "adapters") if isinstance(value := body.get(name), dict)]
    return [digest for files in named for digest in files.values() if isinstance(digest, str)]


def home_of(views: list[NodeView]) -> NodeView:
    """The node for files when nobody names one: always the same while the fleet is, so that all go to one node."""
    return max(views, key=_size)


def _size(view: NodeView) -> tuple[float, float, str]:
    telemetry = view.telemetry
    return sum(gpu.memory_total_mib for gpu in telemetry.gpus), telemetry.ram_total_mib, view.node_id
