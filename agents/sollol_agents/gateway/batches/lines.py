"""The lines of a batch: requests as they are uploaded, answers as they are read. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from sollol_agents.gateway.batches.records import WINDOW_S
from sollol_agents.gateway.http.errors import error_object
from sollol_agents.requests.dialects import Dialect
from sollol_bus.sdk.jobs import JobAnswer
from sollol_bus.transport.messages import encode
from sollol_schemas.batches import BatchProblem
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import Job, JobState

PROBLEMS_MAX: Final = 100
_ID_MAX: Final = 512


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a batch."""

    index: int
    custom_id: str
    body: msgspec.Raw
    url: str

    def job(self) -> Job:
        """The durable job of this request; always the same one, so that it may be submitted again."""
        return Job(body=self.body, kind=RequestKind.PASSTHROUGH, path=self.url, deadline_s=WINDOW_S)


class _Uploaded(msgspec.Struct):
    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


class _Body(msgspec.Struct):
    model: str
    stream: Any = None


class Unusable(ValueError):
    """A line is no request of the batch; `problem` says why."""

    def __init__(self, problem: BatchProblem) -> None:
        super().__init__(problem.message)
        self.problem = problem


_uploaded = msgspec.json.Decoder(_Uploaded)
_bodies = msgspec.json.Decoder(_Body)


def read_line(text: bytes, number: int, endpoint: str) -> Line:
    """The request in a line.

    Args:
        text: The line.
        number: Its number in the file, from 1.
        endpoint: The endpoint of the batch.

    Raises:
        Unusable: It is none.
    """
    try:
        uploaded = _uploaded.decode(text)
        body = _bodies.decode(uploaded.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(BatchProblem(code="invalid_json_line", message=str(error), line=number)) from error
    if not uploaded.custom_id or len(uploaded.custom_id) > _ID_MAX:
        raise _wrong("invalid_custom_id", f"custom_id must have 1 to {_ID_MAX} characters", number, "custom_id")
    if uploaded.method != "POST":
        raise _wrong("invalid_method", "method must be POST", number, "method")
    if uploaded.url != endpoint:
        raise _wrong("mismatched_endpoint", f"url must be the endpoint of the batch, {endpoint}", number, "url")
    if body.stream not in (None, False):
        raise _wrong("stream_not_supported", "a request of a batch cannot stream", number, "body.stream")
    return Line(index=number - 1, custom_id=uploaded.custom_id, body=uploaded.body, url=uploaded.url)


class Checked:
    """What is found by looking through a file before anything of it runs.

    Args:
        endpoint: The endpoint of the batch.
        requests_max: How many requests a batch may have.
    """

    def __init__(self, endpoint: str, requests_max: int) -> None:
        self.total = 0
        """Requests seen."""
        self.problems: list[BatchProblem] = []
        self._endpoint = endpoint
        self._requests_max = requests_max
        self._seen: set[str] = set()

    def takes(self, text: bytes, number: int) -> bool:
        """Looks at one line; False when there is no point in looking at more."""
        self.total += 1
        if self.total > self._requests_max:
            message = f"a batch has at most {self._requests_max} requests"
            self.problems.append(BatchProblem(code="too_many_tasks", message=message, line=number))
            return False
        try:
            line = read_line(text, number, self._endpoint)
        except Unusable as error:
            self.problems.append(error.problem)
        else:
            if line.custom_id in self._seen:
                message = f"custom_id {line.custom_id[:80]!r} comes twice"
                self.problems.append(BatchProblem(code="duplicate_custom_id", message=message, line=number))
            self._seen.add(line.custom_id)
        return len(self.problems) < PROBLEMS_MAX


def _wrong(code: str, message: str, line: int, param: str) -> Unusable:
    return Unusable(BatchProblem(code=code, message=message, line=line, param=param))


class Splitter:
    """Cuts pieces of a file into lines; no line may be longer than `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = b""
        self.number = 0
        """Lines so far, empty ones included."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The lines that are whole now; their number is in `number`.

        Raises:
            Unusable: A line is too long.
        """
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            yield self._counted(line)
        if len(self._rest) > self._limit_bytes:
            self._counted(self._rest)

    def end(self) -> Iterator[bytes]:
        """The last line, when it has no line feed."""
        if self._rest:
            yield self._counted(self._rest)

    def _counted(self, line: bytes) -> bytes:
        self.number += 1
        if len(line) > self._limit_bytes:
            message = f"the line exceeds the limit of {self._limit_bytes} bytes"
            raise Unusable(BatchProblem(code="line_too_long", message=message, line=self.number))
        return line.strip()


def answer_line(batch_id: str, line: Line, answer: JobAnswer, *, ended_as: str) -> tuple[bytes, bool] | None:
    """The line of a request's answer, and whether it is one; None for a request that was cancelled with its batch.

    Args:
        batch_id: The batch.
        line: The request.
        answer: How its job ended.
        ended_as: What becomes of requests that did not run: `cancelled` or `expired`.
    """
    told: dict[str, object] = {"id": f"batch_req_{batch_id.removeprefix('batch_')}{line.index:08d}"}
    told["custom_id"] = line.custom_id
    if answer.state is JobState.DONE and answer.result is not None:
        told["response"] = {"status_code": 200, "request_id": answer.job_id, "body": answer.result.body}
        told["error"] = None
        return encode(told) + b"\n", True
    if answer.state is JobState.CANCELLED:
        if ended_as != "expired":
            return None
        told["response"] = None
        told["error"] = {"code": "batch_expired", "message": "the batch's window passed before this request ran"}
        return encode(told) + b"\n", False
    error = answer.status.error or ErrorBody(code=ErrorCode.INTERNAL, message="the result is not kept any more")
    body = _engines_own(error) or encode(error_object(Dialect.OPENAI, error, line.url))
    told["response"] = {"status_code": error.http_status, "request_id": answer.job_id, "body": msgspec.Raw(body)}
    told["error"] = None
    return encode(told) + b"\n", False


def _engines_own(error: ErrorBody) -> bytes | None:
    """The JSON object with which an engine refused."""
    text = error.details.get("engine_body")
    if not isinstance(text, str) or error.code is not ErrorCode.ENGINE_REJECTED:
        return None
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return text.encode()
