"""The paths of an emulated node that change what lies on its disk."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.lab.emulator import names
from sollol_agents.lab.emulator.gotemplate import Template
from sollol_agents.lab.emulator.http import JSON, NDJSON, PLAIN_JSON, File
from sollol_agents.lab.emulator.models import CATALOGUE, ModelStore, build_model
from sollol_agents.lab.emulator.reading import read_body
from sollol_agents.lab.emulator.recorded import COUNTDOWN_BLOB, COUNTDOWN_FILE
from sollol_agents.lab.emulator.refusals import RefusalError, not_found
from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.bodies import COPY, CREATE, DELETE, PULL, PUSH, Body

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sollol_agents.lab.emulator.config import EmulatorConfig
    from sollol_agents.lab.emulator.http import Request, Responder
    from sollol_agents.lab.emulator.models import ModelSpec

_PROGRESS_STEPS: Final = 10
_NO_MANIFEST: Final = "pull model manifest: file does not exist"
_BYTES_PER_PARAMETER: Final = 0.61
_DIGEST: Final = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_QUANTIZATIONS: Final = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
_REFUSED: Final = re.compile(r"(?:127\.0\.0\.1|localhost):\d+")
_COUNTDOWN_BYTES: Final = 3_871_317


class Management:
    """Pull, push, create, copy, delete and blobs.

    Args:
        config: rates of transfers.
        store: the models on the disk.
        is_offline: the registry cannot be reached.
    """

    def __init__(self, config: EmulatorConfig, store: ModelStore, *, is_offline: bool) -> None:
        self._config = config
        self._store = store
        self._library = ModelStore(() if is_offline else CATALOGUE)
        self._is_offline = is_offline
        self._blobs: dict[str, tuple[int, bytes]] = {}
        if is_offline:
            self._blobs[COUNTDOWN_FILE] = (_COUNTDOWN_BYTES, b"GGUF")

    def pull(self, request: Request, responder: Responder) -> Any:  # noqa: ANN401 - a coroutine
        """Downloads a model of the catalogue, telling the progress line by line."""
        body = read_body(request.body, PULL)
        name = _name(body)
        if not names.is_valid(name.strip()):
            raise RefusalError("invalid model name")
        model = (None if self._is_offline else self._store.find(name)) or self._library.find(name)
        return self._pull(name, model, _Reports(responder, body), is_insecure=body.get("insecure", False))

    async def _pull(self, name: str, model: ModelSpec | None, reports: _Reports, *, is_insecure: bool) -> None:
        reports.add({"status": "pulling manifest"})
        if model is None:
            reports.fail(
                f"pull model manifest: {_unreachable(name, is_insecure=is_insecure)}"
                if self._is_offline
                else _NO_MANIFEST
            )
            return
        await self._transfer("pulling", model, reports)
        for status in ("verifying sha256 digest", "writing manifest"):
            reports.add({"status": status})
        self._store.put(model)
        reports.succeed()

    def push(self, request: Request, responder: Responder) -> Any:  # noqa: ANN401 - a coroutine
        """Pretends to upload a model, telling the progress line by line; nothing leaves this process."""
        body = read_body(request.body, PUSH)
        name = _name(body)
        return self._push(name, _Reports(responder, body))

    async def _push(self, name: str, reports: _Reports) -> None:
        reports.add({"status": "retrieving manifest"})
        full = name if "://" in name else names.full_name(name)
        if not names.is_valid(name.strip()):
            reports.fail(f"unqualified name: {full if ':' in full.rpartition('/')[2] else f'{full}:latest'}")
            return
        model = self._store.find(name)
        if model is None:
            reports.add({"status": "couldn't retrieve manifest"})
            reports.fail(f"open <models>/manifests/{_as_path(full)}: no such file or directory")
            return
        if self._is_offline:
            where = full.rpartition(":")[0].replace("registry.ollama.ai/", "registry.ollama.ai/v2/")
            reports.fail(f'Head "https://{where}/blobs/sha256:{model.weights}": {_NO_LOOKUP}')
            return
        await self._transfer("pushing", model, reports)
        reports.add({"status": "pushing manifest"})
        reports.succeed()

    async def _transfer(self, verb: str, model: ModelSpec, reports: _Reports) -> None:
        for completed in _portions(model.file_bytes):
            seconds = model.file_bytes / _PROGRESS_STEPS / (self._config.download_gbps * 1e9)
            await asyncio.sleep(seconds / self._config.time_scale if completed else 0)
            reports.add(_progress(verb, model, completed))

    def create(self, request: Request, responder: Responder) -> None:
        """Makes a model from another one, or from uploaded files."""
        body = read_body(request.body, CREATE)
        name = body.get("model") or body.get("name", "")
        if not names.is_valid(name):
            raise RefusalError("invalid model name")
        if any(path.startswith(("/", "../")) for path in body.get("files") or ()):
            raise RefusalError("file path must be relative")
        reports = _Reports(responder, body)
        try:
            made = self._made(body, name, reports)
        except RefusalError as error:
            reports.fail(str(error), error.status)
            return
        reports.add({"status": f"using existing layer sha256:{made.weights}"})
        reports.add({"status": "writing manifest"})
        self._store.put(made)
        reports.succeed()

    def _made(self, body: Body, name: str, reports: _Reports) -> ModelSpec:
        """Returns the model that a body of /api/create describes."""
        license_text = body.get("license")
        if license_text is not None and not isinstance(license_text, str | list):
            raise RefusalError("json: cannot unmarshal number into Go value of type []string", 500)
        if template := body.get("template", ""):
            try:
                Template(template)
            except RefusalError as error:
                raise RefusalError(f"template error: {error}") from error
        quantization = body.get("quantize", "").upper()
        if quantization and quantization not in _QUANTIZATIONS:
            known = ", ".join(_QUANTIZATIONS)
            raise RefusalError(f"unsupported quantization type {quantization} - supported types are {known}", 500)
        base = self._base(body, name, reports)
        for digest in (body.get("adapters") or {}).values():
            self._check_blob(digest, 400)
        licenses = [license_text] if isinstance(license_text, str) else license_text or []
        made = msgspec.structs.replace(
            base,
            name=build_model(name, base.parameters).name,
            blob=base.weights,
            options=base.options | (body.get("parameters") or {}),
            system=body.get("system", base.system),
            turns=tuple(body.get("messages") or base.turns),
            license="\n".join(licenses) or base.license,
            go_template=template or base.go_template,
        )
        is_same = msgspec.structs.replace(made, name=base.name, blob=base.blob) == base
        content = msgspec.json.encode(msgspec.structs.replace(made, name="", digest="", parent=""))
        return made if is_same else msgspec.structs.replace(made, digest=hashlib.sha256(content).hexdigest())

    def _base(self, body: Body, name: str, reports: _Reports) -> ModelSpec:
        """Returns the model that another one is made of: one that is here, or what a file holds."""
        source = body.get("from", "")
        if source:
            if not names.is_valid(source.strip()):
                raise RefusalError("invalid model name")
            if names.is_of_cloud(source):
                return build_model(source, 1)
            base = self._store.find(source)
            if base is None and self._is_offline:
                reports.add({"status": "pulling manifest"})
                raise RefusalError(f"pull model manifest: {_unreachable(source, is_insecure=False)}", 500)
            if base is None:
                raise not_found(source)
            return msgspec.structs.replace(base, parent=base.name)
        if not body.get("files"):
            raise RefusalError("neither 'from' or 'files' was specified")
        reports.add({"status": "parsing GGUF"})
        digest = next(iter(body["files"].values()))
        size, head = self._check_blob(digest, 500)
        if not head.startswith(b"GGUF"):
            raise RefusalError("supplied file was not in GGUF format")
        reports.add({"status": "verifying conversion"})
        if digest == COUNTDOWN_FILE:
            found = next(one for one in self._store.all() if one.weights == COUNTDOWN_BLOB and not one.turns)
            return msgspec.structs.replace(found, parent="", digest="")
        return build_model(name, max(1, int(size / _BYTES_PER_PARAMETER)))

    def _check_blob(self, digest: object, status: int) -> tuple[int, bytes]:
        """Returns size and first bytes of an uploaded file."""
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise RefusalError("invalid digest format", status)
        if digest not in self._blobs:
            path = digest.replace(":", "-")
            raise RefusalError(f"open <models>/blobs/{path}: no such file or directory", status)
        return self._blobs[digest]

    def copy(self, request: Request, responder: Responder) -> None:
        """Gives a model a second name."""
        body = read_body(request.body, COPY)
        for role in ("source", "destination"):
            name = body.get(role, "")
            if not names.is_valid(name):
                raise RefusalError(f"{role} {gojson.write(name).decode()} is invalid")
        model = self._store.find(body["source"])
        if model is None:
            raise RefusalError(f'model "{body["source"]}" not found', 404)
        name = build_model(body["destination"], model.parameters).name
        if self._store.find(name) is not model:
            self._store.put(msgspec.structs.replace(model, name=name))
        responder.send(200)

    def delete(self, request: Request, responder: Responder) -> None:
        """Removes a model from the disk; one in memory goes on until it expires."""
        body = read_body(request.body, DELETE)
        name = _name(body)
        if not names.is_valid(name):
            raise RefusalError(f"name {gojson.write(name).decode()} is invalid")
        if not self._store.remove(name):
            raise not_found(name)
        responder.send(200)

    def put_blob(self, request: Request, responder: Responder) -> None:
        """Takes a file whose digest is the last part of the path."""
        digest = request.path.rpartition("/")[2]
        if digest in self._blobs:
            responder.send(200)
            return
        if not _DIGEST.fullmatch(digest):
            raise RefusalError("invalid digest format")
        file = request.file or File()
        found = f"sha256:{file.sha256.hexdigest()}"
        if digest != found:
            raise RefusalError(f'digest mismatch, expected "{digest}", got "{found}"')
        self._blobs[digest] = (file.size_bytes, file.head)
        responder.send(201)

    def has_blob(self, request: Request, responder: Responder) -> None:
        """Tells whether a file is here."""
        digest = request.path.rpartition("/")[2]
        if digest in self._blobs:
            responder.send(200)
        else:
            responder.send(404 if _DIGEST.fullmatch(digest) else 400, b"{}", JSON)


class _Reports:
    """Progress messages: line by line, or only the last one to a client that does not stream."""

    def __init__(self, responder: Responder, body: Body) -> None:
        self._responder = responder
        self._is_stream = body.get("stream") is not False

    def add(self, report: dict[str, Any]) -> None:
        """Tells one step."""
        if not self._is_stream:
            return
        if not self._responder.has_started:
            self._responder.start(NDJSON)
        self._responder.write(gojson.write(report) + b"\n")

    def succeed(self) -> None:
        """Tells the success."""
        self._end(200, {"status": "success"})

    def fail(self, text: str, status: int = 500) -> None:
        """Tells an error; to a client that has been told something already after a status of 200."""
        self._end(status, {"error": text})

    def _end(self, status: int, report: dict[str, Any]) -> None:
        is_told = self._is_stream and (status == 200 or self._responder.has_started)
        if is_told:
            self.add(report)
            self._responder.end()
        else:
            self._responder.send(status, gojson.write(report), PLAIN_JSON, is_chunked=self._is_stream)


_NO_LOOKUP: Final = "dial tcp: lookup registry.ollama.ai on <dns>: dial udp <dns>: connect: network is unreachable"


def _unreachable(name: str, *, is_insecure: bool) -> str:
    """Returns what a machine without a network says of a manifest."""
    host, path = names.full_name(name).split("/", 1)
    model, _, tag = path.rpartition(":")
    scheme = "http" if is_insecure else "https"
    reason = f"dial tcp {host}: connect: connection refused" if _REFUSED.fullmatch(host) else _NO_LOOKUP
    return f'Get "{scheme}://{host}/v2/{model}/manifests/{tag}": {reason}'


def _as_path(full: str) -> str:
    """Returns where the manifest of a name would lie."""
    name, _, tag = full.rpartition(":")
    return f"{name}/{tag}"


def _name(body: Body) -> str:
    """Returns the model's name, whichever field carries it."""
    name: str = body.get("model") or body.get("name", "")
    if not name:
        raise RefusalError("model is required")
    return name


def _portions(total: int) -> Iterator[int]:
    """Yields how much is downloaded after each step, beginning with nothing."""
    for step in range(_PROGRESS_STEPS + 1):
        yield total * step // _PROGRESS_STEPS


def _progress(verb: str, model: ModelSpec, completed: int) -> dict[str, Any]:
    """Returns one progress report; a count of zero is left out, as in Go."""
    report: dict[str, Any] = {
        "status": f"{verb} {model.digest[:12]}",
        "digest": f"sha256:{model.digest}",
        "total": model.file_bytes,
    }
    return report | ({"completed": completed} if completed else {})
