"""Ollama's embeddings in OpenAI's words, and back. Pure."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from sollol_agents.node.engines.decoding import decoded
from sollol_agents.node.engines.ends import Tail
from sollol_agents.node.engines.translation import options
from sollol_agents.node.engines.translation.bodies import Fields, malformed, whole
from sollol_schemas.execution import Figures

EMBEDDINGS_PATH: Final = "/v1/embeddings"


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be embedded."""

    texts: list[str]
    dimensions: int | None
    """So many entries of each vector are wanted, applied to the answer, as Ollama does."""

    def body(self, model: str) -> bytes:
        """The body for the engine, under its own name for the model."""
        return msgspec.json.encode({"model": model, "input": self.texts, "encoding_format": "float"})


def embed_request(fields: Fields) -> EmbedRequest:
    """An embedding request; what else stands in it Ollama ignores as well, or it says how a model is run.

    Raises:
        BadRequest: A field is of the wrong type.
    """
    options.checked(fields.get("options", {}))
    given, dimensions = fields.get("input", []), whole(fields.get("dimensions"))
    texts = ([given] if given else []) if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise malformed("invalid input type")
    if dimensions is not None and (isinstance(dimensions, bool) or not isinstance(dimensions, int)):
        raise malformed("dimensions must be an integer")
    return EmbedRequest(texts=texts, dimensions=dimensions)


class _Embedding(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0

    def numbers(self, dimensions: int | None) -> bytes:
        """The vector as JSON: as the engine wrote it, since a million numbers are not read in passing; or shortened."""
        raw = bytes(self.embedding)
        if dimensions is None and raw[:1] == b"[":
            return raw
        return msgspec.json.encode(shortened(decoded(raw, list[float], "embeddings"), dimensions))


class _Embeddings(Tail, kw_only=True):
    data: list[_Embedding]


def embed_reply(reply: bytes, model: str, dimensions: int | None, total_s: float) -> tuple[bytes, Figures]:
    """Ollama's answer to an embedding, and the figures.

    Raises:
        BackendBrokeProtocol: The engine's answer is no list of embeddings.
    """
    found = decoded(reply, _Embeddings, "embeddings")
    embeddings = sorted(found.data, key=lambda one: one.index)
    figures = msgspec.structs.replace(found.figures(), output_tokens=0)
    body = {
        "model": model,
        "embeddings": [msgspec.Raw(one.numbers(dimensions)) for one in embeddings],
        "total_duration": round(total_s * 1e9),
        "load_duration": 0,
        "prompt_eval_count": figures.prompt_tokens or 0,
    }
    return msgspec.json.encode(body), figures


def nothing_embedded(model: str) -> bytes:
    """Ollama's answer to a request without texts, which no engine has to be asked for."""
    return msgspec.json.encode({"model": model, "embeddings": []})


def old_embed_reply(body: bytes) -> bytes:
    """The answer of the older `/api/embeddings`, from that of `/api/embed`: one vector for one prompt."""
    embeddings = msgspec.json.decode(body)["embeddings"]
    return msgspec.json.encode({"embedding": embeddings[0] if embeddings else []})


def shortened(vector: list[float], dimensions: int | None) -> list[float]:
    """The first `dimensions` entries of a vector, brought back to length 1; all of it when it is no longer."""
    if dimensions is None or not 0 < dimensions < len(vector):
        return vector
    kept = vector[:dimensions]
    norm = math.sqrt(math.fsum(x * x for x in kept))
    return [x / norm for x in kept] if norm else kept
