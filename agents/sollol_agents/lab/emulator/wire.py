"""The requests that an Ollama node reads, and how it reads durations and times."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any, Final, TypeVar

import msgspec

from sollol_agents.lab.emulator.scheduler import RunnerOptions

T = TypeVar("T")

_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class BadRequestError(Exception):
    """The request is wrong; the first argument is the text of the answer."""

    status = 400


class NotFoundError(BadRequestError):
    """The model does not exist here."""

    status = 404


class NotSupportedError(BadRequestError):
    """The model cannot do what was asked."""

    status = 501


class OptionTypeError(BadRequestError):
    """An option is of the wrong type, which Ollama reports as a failure of its own."""

    status = 500


class Options(msgspec.Struct, frozen=True):
    """The options that the emulator obeys; all others are read and ignored, as Ollama ignores unknown ones."""

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None
    draft_num_predict: int | None = None
    num_predict: int | None = None
    stop: list[str] | str | None = None

    @classmethod
    def read(cls, given: dict[str, Any] | None) -> Options:
        """Returns the options in a body.

        Raises:
            OptionTypeError: one is of the wrong type.
        """
        if not given:
            return cls()
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            name = str(error).rpartition("$.")[2].rstrip("`").partition("[")[0]
            kind = _OPTION_TYPES.get(name, "integer")
            raise OptionTypeError(f'option "{name}" must be of type {kind}') from error

    def runner(self) -> RunnerOptions:
        """Returns those options whose change reloads the model; 0 and negative values are automatic."""
        return RunnerOptions(
            num_ctx=self.num_ctx or None,
            num_batch=self.num_batch or None,
            num_gpu=None if self.num_gpu is None or self.num_gpu < 0 else self.num_gpu,
            main_gpu=self.main_gpu or None,
            use_mmap=self.use_mmap,
            num_thread=self.num_thread or None,
            draft_num_predict=self.draft_num_predict,
        )


_OPTION_TYPES: Final = {"use_mmap": "boolean", "stop": "array"}


class Function(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str = ""
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool offered to the model."""

    function: Function = Function()


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation; `content` may be OpenAI's list of parts."""

    role: str = ""
    content: str | list[dict[str, Any]] | None = None
    thinking: str = ""
    tool_calls: list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Returns the text of all parts.

        Raises:
            BadRequestError: a part is an image that is not in the request itself.
        """
        if isinstance(self.content, list):
            if any(_is_remote_image(part) for part in self.content):
                raise BadRequestError("invalid image input")
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


def _is_remote_image(part: dict[str, Any]) -> bool:
    """True for a part of type image_url whose address is no data: URI."""
    if part.get("type") != "image_url":
        return False
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return not (isinstance(url, str) and url.startswith("data:"))


class GenerateRequest(msgspec.Struct, frozen=True):
    """Body of /api/generate."""

    model: str = ""
    prompt: str = ""
    system: str = ""
    stream: bool | None = None
    raw: bool = False
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """Body of /api/chat."""

    model: str = ""
    messages: list[Message] = []
    tools: list[Tool] | None = None
    stream: bool | None = None
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None


class EmbedRequest(msgspec.Struct, frozen=True):
    """Body of /api/embed and, with `prompt`, of the older /api/embeddings."""

    model: str = ""
    input: str | list[str] | None = None
    prompt: str = ""
    truncate: bool | None = None
    dimensions: int = 0
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """OpenAI's stream_options."""

    include_usage: bool = False


class ResponseFormat(msgspec.Struct, frozen=True):
    """OpenAI's response_format."""

    type: str = "text"
    json_schema: dict[str, Any] | None = None


class OpenAiRequest(msgspec.Struct, frozen=True):
    """Body of /v1/chat/completions and /v1/completions."""

    model: str = ""
    messages: list[Message] = []
    prompt: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    stop: list[str] | str | None = None
    tools: list[Tool] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None


class OpenAiEmbedRequest(msgspec.Struct, frozen=True):
    """Body of /v1/embeddings."""

    model: str = ""
    input: str | list[str] = ""
    encoding_format: str = "float"
    dimensions: int = 0


class NamedRequest(msgspec.Struct, frozen=True):
    """Body of /api/show, /api/pull, /api/delete: older clients say `name`."""

    model: str = ""
    name: str = ""
    stream: bool | None = None
    verbose: bool = False

    def wanted(self) -> str:
        """Returns the model's name, whichever field carries it."""
        return self.model or self.name


class CopyRequest(msgspec.Struct, frozen=True):
    """Body of /api/copy."""

    source: str = ""
    destination: str = ""


class CreateRequest(msgspec.Struct, frozen=True):
    """Body of /api/create."""

    model: str = ""
    name: str = ""
    from_: str = msgspec.field(name="from", default="")
    files: dict[str, str] | None = None
    stream: bool | None = None


def parse(body: bytes, kind: type[T]) -> T:
    """Returns the request in a body.

    Raises:
        BadRequestError: it is empty, no JSON, or of another shape.
    """
    if not body:
        raise BadRequestError("missing request body")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadRequestError(f"json: {error}") from error


def keep_alive_s(value: object) -> float | None:
    """Returns a keep_alive in seconds: infinite for ever, None when it was not given.

    Args:
        value: a number of seconds, or a Go duration such as "10m"; negative means for ever.

    Raises:
        BadRequestError: it is neither.
    """
    match value:
        case None:
            return None
        case bool():
            raise BadRequestError(f"invalid type for keep_alive: {value}")
        case int() | float():
            return float(value) if value >= 0 else math.inf
        case str():
            return duration_s(value)
        case _:
            raise BadRequestError(f"invalid type for keep_alive: {value}")


def duration_s(text: str) -> float:
    """Returns a Go duration in seconds; a negative one is infinite.

    Raises:
        BadRequestError: it is none, with the text that Go gives.
    """
    body = text.strip().lstrip("+-")
    if body == "0":
        return 0.0
    if body.replace(".", "", 1).isdigit():
        raise BadRequestError(f'time: missing unit in duration "{text}"')
    parts = _DURATION.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise BadRequestError(f'time: invalid duration "{text}"')
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return math.inf if text.strip().startswith("-") else seconds


def stop_texts(stop: list[str] | str | None) -> tuple[str, ...]:
    """Returns the stop texts as a tuple."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def timestamp() -> str:
    """Returns the present instant as Ollama writes it: RFC 3339 in UTC with nanoseconds."""
    return rfc3339(dt.datetime.now(dt.UTC))


def rfc3339(instant: dt.datetime) -> str:
    """Returns an instant as Ollama writes it."""
    return instant.isoformat(timespec="microseconds")[:26] + "000Z"  # several times faster than strftime
