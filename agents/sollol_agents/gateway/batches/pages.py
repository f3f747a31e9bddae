"""`/v1/files` and `/v1/batches`, as OpenAI's clients call them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from sollol_agents.gateway.batches.records import PURPOSE, WINDOW_S, Fields, batch_request, page_of, told
from sollol_agents.gateway.batches.resources import BatchResources
from sollol_agents.gateway.batches.store import ANYBODY
from sollol_agents.gateway.batches.upload import Form
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.access import Guest, guest_of
from sollol_agents.gateway.http.bodies import body_of, json_response, number_in, pieces_of
from sollol_bus.errors import BadRequest, Conflict, SollolError, error_from
from sollol_bus.sdk.job_making import priority_of
from sollol_schemas.batches import ENDED, BatchRecord, BatchState, FileRecord
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.ids import is_bus_id
from sollol_schemas.instants import instant
from sollol_schemas.routing import routing_header

_WRITES: Final = 20
_OPEN_MAX: Final = 100
"""Batches of one key that have not ended."""
_MODEL_LINES: Final = "application/jsonl"


class BatchPages:
    """The handlers."""

    def __init__(self, config: GatewayConfig, resources: BatchResources) -> None:
        self._config = config
        self._resources = resources

    def routes(self) -> list[Route]:
        """The paths of files and batches."""
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.files, methods=["GET"]),
            Route("/v1/files/{file_id}", self.file, methods=["GET"]),
            Route("/v1/files/{file_id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{file_id}/content", self.content, methods=["GET"]),
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.batches, methods=["GET"]),
            Route("/v1/batches/{batch_id}", self.batch, methods=["GET"]),
            Route("/v1/batches/{batch_id}/cancel", self.cancel, methods=["POST"]),
        ]

    # -- files ----------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """Stores a file of requests."""
        guest = await self._enter(request)
        form = Form(request.headers.get("content-type", ""))
        await self._check_room(guest, 0)
        writer = self._resources.contents.writer(self._resources.new_id("file"))
        try:
            async with aclosing(pieces_of(request)) as pieces:
                async for data in pieces:
                    for piece in form.feed(data):
                        self._check_size(writer.size_bytes + len(piece))
                        await writer.write(piece)
            form.check_end()
            _check_purpose(form)
            await self._check_room(guest, writer.size_bytes)
            record = await self._resources.keep(writer, guest.owner, PURPOSE, form.filename or "")
        except BaseException:
            await writer.abandon()
            raise
        return json_response(told(record))

    async def files(self, request: Request) -> Response:
        """The caller's files."""
        guest = await self._enter(request)
        purpose = request.query_params.get("purpose")
        records = [one for one, _ in await self._resources.files.every(_seen_by(guest))]
        if purpose is not None:
            records = [one for one in records if one.purpose == purpose]
        return json_response(_page(request, records, default=10_000))

    async def file(self, request: Request) -> Response:
        """One file, without its content."""
        return json_response(told(await self._file(request)))

    async def content(self, request: Request) -> Response:
        """A file's content."""
        record = await self._file(request)
        pieces = self._resources.contents.read(record)
        first = await anext(pieces, b"")

        async def rest() -> AsyncIterator[bytes]:
            async with aclosing(pieces) as more:
                yield first
                async for piece in more:
                    yield piece

        headers = {"content-length": str(record.size_bytes)}
        return StreamingResponse(rest(), media_type=_MODEL_LINES, headers=headers)

    async def delete(self, request: Request) -> Response:
        """Forgets a file; a batch that still reads it fails."""
        record = await self._file(request)
        await self._resources.files.delete(record, record.file_id)
        await self._resources.contents.delete(record.file_id)
        return json_response({"id": record.file_id, "object": "file", "deleted": True})

    # -- batches --------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """Begins a batch; whichever gateway has room works on it."""
        guest = await self._enter(request)
        asked = batch_request(await body_of(request))
        priority = _priority(request)
        await self._found_file(asked.input_file_id, guest)
        open_ = [one for one, _ in await self._resources.batches.every(guest.owner) if one.state not in ENDED]
        if len(open_) >= _OPEN_MAX:
            message = f"{len(open_)} batches are open already; the limit is {_OPEN_MAX}"
            raise error_from(ErrorBody(code=ErrorCode.QUEUE_FULL, message=message, details={"retry_after_s": 60}))
        now_s = self._resources.now_s()
        record = BatchRecord(
            batch_id=self._resources.new_id("batch").replace("-", "_"),
            owner=guest.owner,
            jobs_owner=guest.caller,
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            created_at=instant(now_s),
            expires_at=instant(now_s + WINDOW_S),
            priority=min(priority, guest.max_priority),
            metadata=asked.metadata or {},
        )
        if await self._resources.batches.write(record, record.batch_id, 0) is None:
            raise Conflict(f"{record.batch_id} exists")
        return json_response(told(record))

    async def batches(self, request: Request) -> Response:
        """The caller's batches."""
        guest = await self._enter(request)
        records = [one for one, _ in await self._resources.batches.every(_seen_by(guest))]
        return json_response(_page(request, records, default=20))

    async def batch(self, request: Request) -> Response:
        """One batch."""
        record, _ = await self._batch(request)
        return json_response(told(record))

    async def cancel(self, request: Request) -> Response:
        """Stops a batch; what has been answered until then can be read."""
        for _ in range(_WRITES):
            record, revision = await self._batch(request)
            if record.state in ENDED:
                raise Conflict(f"{record.batch_id} is {record.state} already")
            if record.state is BatchState.CANCELLING:
                return json_response(told(record))
            record = record.into(BatchState.CANCELLING, self._resources.now_s())
            if await self._resources.batches.write(record, record.batch_id, revision) is not None:
                return json_response(told(record))
        raise Conflict("others change the batch all the time; try again")

    # -- inside ---------------------------------------------------------------------------------------------

    async def _enter(self, request: Request) -> Guest:
        await self._resources.prepare()
        return guest_of(request)

    async def _file(self, request: Request) -> FileRecord:
        return await self._found_file(request.path_params["file_id"], await self._enter(request))

    async def _found_file(self, file_id: str, guest: Guest) -> FileRecord:
        record = (await self._resources.files.find(file_id, _seen_by(guest)))[0] if is_bus_id(file_id) else None
        if record is None:
            raise _unknown(f"no file {file_id[:80]!r}")
        return record

    async def _batch(self, request: Request) -> tuple[BatchRecord, int]:
        guest = await self._enter(request)
        batch_id = request.path_params["batch_id"]
        record, revision = (
            await self._resources.batches.find(batch_id, _seen_by(guest)) if is_bus_id(batch_id) else (None, 0)
        )
        if record is None:
            raise _unknown(f"no batch {batch_id[:80]!r}")
        return record, revision

    def _check_size(self, size: int) -> None:
        if size > self._config.max_file_bytes:
            message = f"the file exceeds the limit of {self._config.max_file_bytes} bytes"
            raise error_from(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=message))

    async def _check_room(self, guest: Guest, more_bytes: int) -> None:
        stored = sum(one.size_bytes for one, _ in await self._resources.files.every(guest.owner))
        if stored + more_bytes > self._config.max_stored_bytes:
            message = f"{stored} bytes of files are stored; the limit is {self._config.max_stored_bytes}: delete some"
            raise error_from(ErrorBody(code=ErrorCode.REQUEST_TOO_LARGE, message=message))


def _check_purpose(form: Form) -> None:
    if form.fields.get("purpose") != PURPOSE:
        raise BadRequest(f"purpose must be {PURPOSE!r}: files are kept for batches alone")


def _priority(request: Request) -> int:
    """What a header says about the priority of a batch; else that of batches.

    Raises:
        BadRequest: It is no priority.
    """
    return priority_of(request.headers.get(routing_header("priority"), "batch").strip())


def _seen_by(guest: Guest) -> str:
    """Whose records a guest may see: its own, an administrator everybody's."""
    return ANYBODY if guest.is_admin else guest.owner


def _page(request: Request, records: list[Any], *, default: int) -> Fields:
    return page_of(
        records,
        lambda one: one.file_id if isinstance(one, FileRecord) else one.batch_id,
        limit=number_in(request, "limit", default),
        after=request.query_params.get("after", ""),
        is_ascending=request.query_params.get("order") == "asc",
    )


def _unknown(message: str) -> SollolError:
    return error_from(ErrorBody(code=ErrorCode.UNKNOWN_REQUEST, message=message))
