"""/api/embed, /api/embeddings and /v1/embeddings: their requests and their answers."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sollol_agents.lab.emulator import codes, names, refusals, text
from sollol_agents.lab.emulator.options import read_options, runner_options
from sollol_agents.lab.emulator.reading import read_body
from sollol_agents.lab.emulator.refusals import RefusalError
from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.bodies import EMBED, EMBEDDINGS, OPENAI_EMBED, Body

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.calls import Machine
    from sollol_agents.lab.emulator.dialects import Figures
    from sollol_agents.lab.emulator.models import ModelSpec
    from sollol_agents.lab.emulator.scheduler import RunnerOptions

PATHS: Final = ("/api/embed", "/api/embeddings", "/v1/embeddings")
_OLD, _OPENAI = PATHS[1:]
_LONGEST_TOKENS: Final = 2048  # the engine's batch for embeddings, whatever the context
_ENCODINGS: Final = ("float", "base64")
_TOO_LONG: Final = "the input length exceeds the context length"


class EmbedCall(NamedTuple):
    """One request to embed.

    Attributes:
        path: where it came.
        name: the name under which the model was asked for.
        model: the model that embeds.
        inputs: the tokens of each text.
        width: numbers in each vector.
        options: runner options it names.
        keep_alive_s: keep-alive it names; None for none.
        refusal: what is said instead, once the model is loaded.
        is_base64: vectors are told as the base64 of their bytes.
    """

    path: str
    name: str
    model: ModelSpec
    inputs: list[list[str]]
    width: int
    options: RunnerOptions
    keep_alive_s: float | None
    refusal: RefusalError | None
    is_base64: bool


def embed_call(path: str, content: bytes, machine: Machine) -> EmbedCall:
    """Returns the call in a body of one of the three paths.

    Raises:
        RefusalError: the request cannot be served.
    """
    request = _read(path, content)
    texts = _texts(request.get("prompt") if path == _OLD else request.get("input"))
    name = request.get("model", "")
    model = names.find(machine.store, name, is_required=path == _OLD, is_pull_advised=bool(name))
    runner = runner_options(read_options(request.get("options"), model.options))
    room = min(machine.ctx_of(model, runner), _LONGEST_TOKENS)
    inputs = [text.tokenize(one, is_wordy=model.is_talker) for one in texts]
    is_too_long = any(len(tokens) > room for tokens in inputs)
    refusal = None
    if inputs and not model.is_embedding:
        refusal = RefusalError(refusals.NO_EMBEDDINGS, 500 if path == _OLD else 501)
    elif is_too_long and (path == _OLD or request.get("truncate") is False):
        refusal = RefusalError(_TOO_LONG, 500 if path == _OLD else 400)
    dimensions = request.get("dimensions", 0)
    return EmbedCall(
        path,
        name,
        model,
        [tokens if len(tokens) <= room else tokens[: room - 1] for tokens in inputs],
        dimensions if 0 < dimensions < model.width else model.width,
        runner,
        request.get("keep_alive"),
        refusal,
        request.get("encoding_format") == "base64",
    )


def _read(path: str, content: bytes) -> Body:
    if path != _OPENAI:
        return read_body(content, EMBEDDINGS if path == _OLD else EMBED)
    request = read_body(content, OPENAI_EMBED, is_openai=True)
    encoding = request.get("encoding_format")
    if encoding and encoding not in _ENCODINGS:
        told = f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        raise RefusalError(told, is_at_door=True)
    if request.get("input") in (None, "", []):
        raise RefusalError("invalid input", is_at_door=True)
    return request


def _texts(given: object) -> list[str]:
    """Returns the texts to embed; an empty text alone is none."""
    if isinstance(given, str):
        return [given] if given else []
    if given is None:
        return []
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        return given
    raise RefusalError("invalid input type")


def vectors(call: EmbedCall) -> list[list[float]]:
    """Returns the vector of each input, of length 1 also when it is cut to fewer numbers; equal texts are read once."""
    found = {tokens: _vector(call, tokens) for tokens in set(map(tuple, call.inputs))}
    return [found[tuple(tokens)] for tokens in call.inputs]


def _vector(call: EmbedCall, tokens: tuple[str, ...]) -> list[float]:
    whole = codes.embedding(tokens, call.model.width)
    return [gojson.single(value) for value in codes.normalised(whole[: call.width])]


def answer(call: EmbedCall, figures: Figures) -> bytes:
    """Returns the body of the answer."""
    found = vectors(call)
    if call.path == _OLD:
        # this path tells the 32 bits as 64
        return gojson.write({"embedding": [_widened(value) for value in found[0]] if found else []})
    if call.path == _OPENAI:
        data = [
            {"object": "embedding", "embedding": _base64(one) if call.is_base64 else one, "index": place}
            for place, one in enumerate(found)
        ]
        usage = {"prompt_tokens": figures.prompt_tokens, "total_tokens": figures.prompt_tokens}
        return gojson.write({"object": "list", "data": data, "model": call.name, "usage": usage}) + b"\n"
    body: dict[str, Any] = {"model": call.name, "embeddings": found}
    if found:
        body |= {
            "total_duration": int(figures.total_s * 1e9),
            "load_duration": int(figures.load_s * 1e9),
            "prompt_eval_count": figures.prompt_tokens,
        }
    return gojson.write(body)


def _widened(value: float) -> float:
    widened: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return widened


def _base64(vector: list[float]) -> str:
    """Returns a vector as the base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
