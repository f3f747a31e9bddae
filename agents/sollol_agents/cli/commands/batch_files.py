"""Files of a batch: requests as JSON lines, and answers that are written as they come and resumed after a stop."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from sollol_bus.errors import ConfigError
from sollol_bus.sdk.jobs import JobAnswer, make_job
from sollol_bus.transport.messages import encode
from sollol_schemas.jobs import Job, JobState

_ID_LENGTH = 24
_A_LINE = 'each line is a request like {"model": "llama3.1:8b", "prompt": "Hi"}'


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the file."""

    custom_id: str
    job: Job


class _OpenAILine(msgspec.Struct):
    custom_id: str
    url: str
    body: dict[str, Any]


class _JobLine(msgspec.Struct):
    body: dict[str, Any]
    kind: str | None = None
    path: str = ""
    custom_id: str = ""
    deadline_s: float | None = None
    max_tries: int | None = None


def batch_id_of(path: Path) -> str:
    """The id of a file's batch: it follows from the content, so that a changed file is another batch."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_ID_LENGTH]


def read_items(path: Path) -> list[Item]:
    """The requests of a file.

    A line is a body of generate, chat or embed; or a job, with `body` and `kind`; or a request in OpenAI's batch
    format, with `custom_id`, `url` and `body`.

    Raises:
        ConfigError: The file cannot be read, is empty, or a line is none of these.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    items = [_item(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise ConfigError(f"{path} has no requests in it")
    return items


def _item(path: Path, number: int, line: bytes) -> Item:
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
        if "url" in fields and "body" in fields:
            theirs = msgspec.convert(fields, _OpenAILine)
            return Item(custom_id=theirs.custom_id, job=make_job(theirs.body, path=theirs.url))
        if isinstance(fields.get("body"), dict):
            ours = msgspec.convert(fields, _JobLine)
            job = make_job(
                ours.body, kind=ours.kind, path=ours.path, deadline_s=ours.deadline_s, max_tries=ours.max_tries
            )
            return Item(custom_id=ours.custom_id or str(number), job=job)
        custom_id = str(fields.pop("custom_id", number))
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path}, line {number}: {error}; {_A_LINE}") from error
    if not isinstance(fields.get("model"), str):
        raise ConfigError(f"{path}, line {number}: there is no `model`, nor a `body`; {_A_LINE}")
    return Item(custom_id=custom_id, job=make_job(fields))


def output_line(item: Item, answer: JobAnswer) -> tuple[bytes, bool]:
    """The line of an answer, without its end, and whether it is an answer."""
    is_ok = answer.state is JobState.DONE and answer.result is not None
    line: dict[str, object] = {"custom_id": item.custom_id, "job_id": answer.job_id, "state": answer.state}
    if is_ok and answer.result is not None:
        line["response"] = {"status_code": 200, "body": answer.result.body}
        line["error"] = None
    else:
        error = answer.status.error
        line["response"] = None
        line["error"] = {
            "code": error.code if error is not None else "internal",
            "message": error.message if error is not None else "the result has expired",
        }
    return encode(line), is_ok


class _Written(msgspec.Struct):
    custom_id: str
    error: msgspec.Raw = msgspec.Raw(b"null")


class AnswerFile:
    """The file of answers, opened behind its last whole line.

    Raises:
        ConfigError: It holds answers to other requests, or cannot be written.
    """

    def __init__(self, path: Path, items: list[Item]) -> None:
        self.lines = 0
        """Whole answers in it."""
        self.failed = 0
        """Of those found at the start, how many are errors."""
        self._path = path
        self._items = items
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._file = self._path.open("r+b" if self._path.exists() else "w+b")
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}") from error
        try:
            self._seek_end(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, line: bytes) -> None:
        """Adds one answer; it is on its way to the disk when this returns."""
        assert self._file is not None
        self._file.write(line + b"\n")
        self._file.flush()
        self.lines += 1

    def _seek_end(self, file: IO[bytes]) -> None:
        """Goes behind the last whole answer and cuts off what follows it."""
        end = 0
        for line in file:
            if not line.endswith(b"\n") or not self._is_answer(line):
                break
            end += len(line)
            self.lines += 1
        file.seek(end)
        file.truncate()

    def _is_answer(self, line: bytes) -> bool:
        try:
            written = msgspec.json.decode(line, type=_Written)
        except msgspec.MsgspecError:
            return False
        if self.lines >= len(self._items) or written.custom_id != self._items[self.lines].custom_id:
            raise ConfigError(f"{self._path} holds answers to other requests; name another file")
        self.failed += bytes(written.error) != b"null"
        return True
