"""The paths of an emulated node that change what lies on its disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.lab.emulator import wire
from sollol_agents.lab.emulator.http import NDJSON, File
from sollol_agents.lab.emulator.models import CATALOGUE, ModelStore, build_model
from sollol_agents.lab.emulator.wire import BadRequestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sollol_agents.lab.emulator.config import EmulatorConfig
    from sollol_agents.lab.emulator.http import Request, Responder
    from sollol_agents.lab.emulator.models import ModelSpec

_PROGRESS_STEPS: Final = 10
_NO_MANIFEST: Final = "pull model manifest: file does not exist"
_NO_LOCAL_MANIFEST: Final = "couldn't retrieve manifest"
_BYTES_PER_PARAMETER: Final = 0.61


class Management:
    """Pull, create, copy, delete and blobs."""

    def __init__(self, config: EmulatorConfig, store: ModelStore) -> None:
        self._config = config
        self._store = store
        self._library = ModelStore(CATALOGUE)
        self._blobs: dict[str, int] = {}

    async def pull(self, request: Request, responder: Responder) -> None:
        """Downloads a model of the catalogue, telling the progress line by line."""
        body = wire.parse(request.body, wire.NamedRequest)
        model = self._library.find(_name(body.wanted())) or self._store.find(body.wanted())
        reports = _Reports(responder, is_stream=body.stream is not False)
        reports.add({"status": "pulling manifest"})
        if model is None:
            reports.fail(_NO_MANIFEST)
            return
        for completed in _portions(model.file_bytes):
            seconds = model.file_bytes / _PROGRESS_STEPS / (self._config.download_gbps * 1e9)
            await asyncio.sleep(seconds / self._config.time_scale if completed else 0)
            reports.add(_transfer("pulling", model, completed))
        for status in ("verifying sha256 digest", "writing manifest"):
            reports.add({"status": status})
        self._store.put(model)
        reports.succeed()

    async def push(self, request: Request, responder: Responder) -> None:
        """Pretends to upload a model, telling the progress line by line; nothing leaves this process."""
        body = wire.parse(request.body, wire.NamedRequest)
        name = _name(body.wanted())
        model = self._store.find(name)
        reports = _Reports(responder, is_stream=body.stream is not False)
        reports.add({"status": "retrieving manifest"})
        if model is None:
            reports.fail(_NO_LOCAL_MANIFEST)
            return
        for completed in _portions(model.file_bytes):
            seconds = model.file_bytes / _PROGRESS_STEPS / (self._config.download_gbps * 1e9)
            await asyncio.sleep(seconds / self._config.time_scale if completed else 0)
            reports.add(_transfer("pushing", model, completed))
        reports.add({"status": "pushing manifest"})
        reports.succeed()

    def create(self, request: Request, responder: Responder) -> None:
        """Makes a model from another one, or from uploaded files."""
        body = wire.parse(request.body, wire.CreateRequest)
        name = _name(body.model or body.name)
        if body.from_:
            base = self._store.find(body.from_)
            if base is None:
                raise NotFoundError(f"model '{body.from_}' not found")
            made = msgspec.structs.replace(base, name=build_model(name, base.parameters).name)
        elif body.files:
            made = build_model(name, max(1, int(self._size_of(body.files) / _BYTES_PER_PARAMETER)))
        else:
            raise BadRequestError("neither 'from' or 'files' was specified")
        self._store.put(made)
        reports = _Reports(responder, is_stream=body.stream is not False)
        reports.add({"status": "writing manifest"})
        reports.succeed()

    def copy(self, request: Request, responder: Responder) -> None:
        """Gives a model a second name."""
        body = wire.parse(request.body, wire.CopyRequest)
        model = self._store.find(_name(body.source))
        if model is None:
            raise NotFoundError(f"model '{body.source}' not found")
        name = build_model(_name(body.destination), model.parameters).name
        self._store.put(msgspec.structs.replace(model, name=name))
        responder.send(200)

    def delete(self, request: Request, responder: Responder) -> ModelSpec:
        """Removes a model from the disk and returns it."""
        body = wire.parse(request.body, wire.NamedRequest)
        name = _name(body.wanted())
        model = self._store.find(name)
        if model is None:
            raise NotFoundError(f"model '{name}' not found")
        self._store.remove(name)
        responder.send(200)
        return model

    def put_blob(self, request: Request, responder: Responder) -> None:
        """Takes a file whose digest is the last part of the path."""
        digest = request.path.rpartition("/")[2]
        if digest in self._blobs:
            responder.send(200)
            return
        file = request.file or File()
        found = f"sha256:{file.sha256.hexdigest()}"
        if digest != found:
            raise BadRequestError(f"digest mismatch, expected {digest!r}, got {found!r}")
        self._blobs[digest] = file.size_bytes
        responder.send(201)

    def has_blob(self, request: Request, responder: Responder) -> None:
        """Tells whether a file is here."""
        responder.send(200 if request.path.rpartition("/")[2] in self._blobs else 404)

    def _size_of(self, files: dict[str, str]) -> int:
        """Returns the bytes of uploaded files."""
        missing = [digest for digest in files.values() if digest not in self._blobs]
        if missing:
            raise BadRequestError(f"file does not exist: {missing[0]}")
        return sum(self._blobs[digest] for digest in files.values())


class _Reports:
    """Progress messages: line by line, or only the last one to a client that does not stream."""

    def __init__(self, responder: Responder, *, is_stream: bool) -> None:
        self._responder = responder
        self._is_stream = is_stream

    def add(self, report: dict[str, Any]) -> None:
        """Tells one step."""
        if not self._is_stream:
            return
        if not self._responder.has_started:
            self._responder.start(NDJSON)
        self._responder.write(msgspec.json.encode(report) + b"\n")

    def succeed(self) -> None:
        """Tells the success."""
        self._end(200, {"status": "success"})

    def fail(self, text: str) -> None:
        """Tells an error; to a streaming client after a status of 200."""
        self._end(500, {"error": text})

    def _end(self, status: int, report: dict[str, Any]) -> None:
        if self._is_stream:
            self.add(report)
            self._responder.end()
        else:
            self._responder.send(status, msgspec.json.encode(report))


def _name(name: str) -> str:
    """Returns a name that is not empty."""
    if not name:
        raise BadRequestError("model is required")
    return name


def _portions(total: int) -> Iterator[int]:
    """Yields how much is downloaded after each step, beginning with nothing."""
    for step in range(_PROGRESS_STEPS + 1):
        yield total * step // _PROGRESS_STEPS


def _transfer(verb: str, model: ModelSpec, completed: int) -> dict[str, Any]:
    """Returns one progress report; a count of zero is left out, as in Go."""
    report: dict[str, Any] = {
        "status": f"{verb} {model.digest[:12]}",
        "digest": f"sha256:{model.digest}",
        "total": model.file_bytes,
    }
    return report | ({"completed": completed} if completed else {})
