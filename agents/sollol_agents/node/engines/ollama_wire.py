"""Ollama's answers as data: typed and checked."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.decoding import as_seconds, as_tokens, decoded, slot_wait_s, whole
from sollol_agents.node.engines.fingerprints import fingerprint_of
from sollol_agents.node.engines.refusals import engine_error, failure
from sollol_bus.errors import SollolError
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.telemetry import InstalledModel, LoadedModel

RUNNER_OPTIONS: Final = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
"""Options whose change makes Ollama load the model anew."""
_STREAM_FALSE: Final = re.compile(rb'"stream"\s*:\s*false')
_NEW_LIMIT: Final = b'"max_completion_tokens"'
_BLOB: Final = re.compile(r"^FROM \S*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)
_OWN_CONTEXT: Final = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)
_OWN_LIMIT: Final = re.compile(r"^num_predict\s+(-?\d{1,9})\s*$", re.MULTILINE)
_NUMBERS: Final = re.compile(r"v?(\d{1,4})\.(\d{1,4})\b")
_RENDERS_SINCE: Final = (0, 12)
_DONE: Final = re.compile(rb'"done"\s*:\s*true')
_LOAD_ONLY_MAX_BYTES: Final = 4096
_KV_ELEMENT_BYTES: Final = 2  # f16 keys and values, the engine's default


class FinalLine(msgspec.Struct):
    """The last object of a native stream, as far as figures go."""

    done: bool = False
    total_duration: Any = None
    load_duration: Any = None
    prompt_eval_count: Any = None
    prompt_eval_duration: Any = None
    eval_count: Any = None
    eval_duration: Any = None

    def figures(self) -> Figures:
        """The figures, without those that make no sense."""
        prompt_s, decode_s = as_seconds(self.prompt_eval_duration), as_seconds(self.eval_duration)
        load_s = as_seconds(self.load_duration) or 0.0
        return Figures(
            prompt_tokens=as_tokens(self.prompt_eval_count),
            output_tokens=as_tokens(self.eval_count),
            prompt_s=prompt_s,
            decode_s=decode_s,
            load_s=load_s,
            slot_wait_s=slot_wait_s(
                as_seconds(self.total_duration), load_s=load_s, prompt_s=prompt_s, decode_s=decode_s
            ),
        )


class _Contents(msgspec.Struct):
    prompt: Any = None
    messages: Any = None


class _ErrorLine(msgspec.Struct):
    error: Any = None


def is_token(line: bytes) -> bool:
    """Whether a line is neither the end of a stream nor any news but another token, as far as its bytes tell."""
    is_object = line[:1] == b"{" and line[-1:] == b"}"
    return is_object and not line.startswith(b'{"error"') and _DONE.search(line) is None


def check_line(line: bytes) -> FinalLine | None:
    """The final figures when this line ends the stream, else None.

    Costs two comparisons and a search for a token line; only a line that may be the last is decoded.

    Raises:
        SollolError: The line is no JSON object, or reports an error.
    """
    if line[:1] != b"{" or line[-1:] != b"}":
        shown = line[:80].decode("utf-8", "replace")
        raise engine_error(ErrorCode.ENGINE_PROTOCOL, f"the engine sent what is no JSON object: {shown!r}")
    if line.startswith(b'{"error"'):
        raise error_of_line(line)
    if _DONE.search(line) is None:
        return None
    final = decoded(line, FinalLine, "a stream")
    return final if final.done else None  # an argument of a tool call may be called "done" too


def error_of_line(line: bytes) -> SollolError:
    """The error that a line reports."""
    said = decoded(line, _ErrorLine, "a stream").error
    text = str(said.get("message", said)) if isinstance(said, dict) else str(said)
    return failure(text)


def streamed(body: bytes) -> bytes:
    """The body with streaming on: as it is, unless it says `"stream": false` at its top level."""
    if _STREAM_FALSE.search(body) is None:
        return body
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body  # the engine says what is wrong with it
    if "stream" not in fields:
        return body
    fields["stream"] = msgspec.Raw(b"true")
    return msgspec.json.encode(fields)


def repaired(path: str, body: bytes) -> bytes:
    """A body for Ollama's chat completions, with the newer name of the token limit, which Ollama ignores, replaced."""
    if _NEW_LIMIT not in body or path.partition("?")[0] != "/v1/chat/completions":
        return body
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body  # the engine says what is wrong with it
    limit = fields.pop("max_completion_tokens", None)
    if limit is None:
        return body
    fields.setdefault("max_tokens", limit)
    return msgspec.json.encode(fields)


def is_load_only(request: EngineRequest) -> bool:
    """Whether a request is Ollama's idiom to load or unload a model: neither prompt nor messages."""
    if request.kind not in (RequestKind.GENERATE, RequestKind.CHAT) or len(request.body) > _LOAD_ONLY_MAX_BYTES:
        return False
    try:
        body = msgspec.json.decode(request.body, type=_Contents)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return not body.prompt and not body.messages


# -- models -----------------------------------------------------------------------------------------------


class Details(msgspec.Struct):
    """The details of a model in a list."""

    family: str = ""
    quantization_level: str = ""


class Tag(msgspec.Struct):
    """One model on disk."""

    name: str
    size: int = 0
    digest: str = ""
    details: Details = msgspec.field(default_factory=Details)
    remote_host: str = ""
    """Where the vendor runs it; such a model is not this node's."""
    group: Any = None
    """Of a row that stands for several models, as a gateway lists it: an object."""

    @property
    def is_here(self) -> bool:
        """Whether it is a model of this engine."""
        return not self.remote_host and not isinstance(self.group, dict)


class Tags(msgspec.Struct):
    """The models on disk."""

    models: list[Tag] | None = None


class Process(msgspec.Struct):
    """One model in memory."""

    name: str
    size: int = 0
    size_vram: int = 0
    context_length: int = 0
    expires_at: str = ""


class Processes(msgspec.Struct):
    """The models in memory."""

    models: list[Process] | None = None


class Show(msgspec.Struct):
    """What a model can do and how it is built."""

    model_info: dict[str, Any] = {}
    capabilities: list[str] | None = None
    details: Details = msgspec.field(default_factory=Details)
    modelfile: str = ""
    parameters: str = ""


def renders_prompts(version: str) -> bool:
    """Whether an Ollama of this version tells how it renders a prompt, on which going on with an answer rests."""
    found = _NUMBERS.match(version)
    return found is None or (int(found[1]), int(found[2])) >= _RENDERS_SINCE


def installed_model(tag: Tag, show: Show | None, *, goes_on: bool = True) -> InstalledModel:
    """A model on disk, with what its header tells when that is known.

    Args:
        tag: Its row.
        show: What is told of it alone.
        goes_on: Whether the engine goes on with answers.
    """
    info = (show.model_info or {}) if show else {}
    architecture = str(info.get("general.architecture") or "")
    capabilities = tuple((show.capabilities if show else None) or ())
    embeds_alone = bool(capabilities) and "completion" not in capabilities
    return InstalledModel(
        name=tag.name,
        size_bytes=whole(tag.size),
        digest=tag.digest,
        blob=blob_of(show.modelfile if show else ""),
        family=tag.details.family or architecture,
        parameter_count=whole(info.get("general.parameter_count")),
        quantization=tag.details.quantization_level,
        context_length=whole(info.get(f"{architecture}.context_length")),
        usual_context_length=own_context(show.parameters if show else ""),
        kv_bytes_per_token=kv_bytes_per_token(info),
        capabilities=capabilities,
        fingerprint=fingerprint_of("ollama", tag.digest) if goes_on and tag.digest and not embeds_alone else "",
        slots=1 if embeds_alone else 0,
    )


def blob_of(modelfile: str) -> str:
    """The digest of the weights that a Modelfile names; empty when it names none."""
    found = _BLOB.search(modelfile)
    return found.group(1) if found else ""


def own_context(parameters: str) -> int:
    """The context with which a model is loaded when nobody asks for one, by its Modelfile; 0 when that says none."""
    found = _OWN_CONTEXT.search(parameters)
    return int(found.group(1)) if found else 0


def own_limit(parameters: str) -> int | None:
    """How many tokens an answer gets when nobody says it, by the model's Modelfile; None when that says none."""
    found = _OWN_LIMIT.search(parameters)
    return int(found.group(1)) if found else None


def kv_bytes_per_token(info: dict[str, Any]) -> int:
    """Bytes of keys and values for one token, with f16 entries; 0 when the header does not tell enough.

    layers x key-value heads x (key length + value length) x 2 bytes; heads may be given per layer.
    """
    prefix = str(info.get("general.architecture") or "")
    layers = whole(info.get(f"{prefix}.block_count"))
    heads = whole(info.get(f"{prefix}.attention.head_count"))
    embedding = whole(info.get(f"{prefix}.embedding_length"))
    per_layer = info.get(f"{prefix}.attention.head_count_kv")
    head_size = embedding // heads if heads else 0
    key = whole(info.get(f"{prefix}.attention.key_length")) or head_size
    value = whole(info.get(f"{prefix}.attention.value_length")) or head_size
    if isinstance(per_layer, list):
        total_heads = sum(whole(count) for count in per_layer)
    else:
        total_heads = layers * (whole(per_layer) or heads)
    return total_heads * (key + value) * _KV_ELEMENT_BYTES


def loaded_model(process: Process, now: dt.datetime) -> LoadedModel:
    """A model in memory."""
    size = whole(process.size)
    return LoadedModel(
        name=process.name,
        size_bytes=size,
        vram_bytes=min(whole(process.size_vram), size),
        context_length=whole(process.context_length),
        expires_in_s=_expires_in_s(process.expires_at, now),
    )


def _expires_in_s(text: str, now: dt.datetime) -> float | None:
    """Seconds until an instant; None for never (Ollama writes a year far away) and for what is no instant."""
    try:
        # Ollama writes nanoseconds, which Python 3.11 reads as far as microseconds.
        expires_at = dt.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        left = (expires_at - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return None if left > 10 * 365 * 86_400 else max(0.0, left)
