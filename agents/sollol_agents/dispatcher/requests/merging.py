"""Small requests for embeddings made one, and its answer taken apart again. Pure.

Every caller gets what the engine would have said to it alone: its vectors in its order, in the engine's own digits, and
every other field as it came. Of the prompt's tokens an engine tells only the sum: each caller is told its part by the
length of its texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from sollol_agents.dispatcher.requests.intake import Request
from sollol_agents.requests.body import InvalidBody, read_fields
from sollol_schemas.callers import Standing
from sollol_schemas.context import RequestKind
from sollol_schemas.execution import Figures
from sollol_schemas.routing import Routing

OPENAI_PATH: Final = "/v1/embeddings"
TEXTS_MAX: Final = 8
"""A request with more texts is a batch by itself."""
TOKENS_MAX: Final = 512
_OWN_FIELDS: Final = ("input", "stream")
_EMPTY: Final = b'""'
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_rows = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_encode = msgspec.json.Encoder().encode


class Unlike(ValueError):
    """The answer is not that of so many texts."""


class Key(NamedTuple):
    """What requests must have in common to be made one: all but their texts."""

    kind: RequestKind
    path: str
    caller: str
    via: str
    routing: Routing
    rest: tuple[tuple[str, bytes], ...]


class Part(NamedTuple):
    """One request's texts, as raw JSON."""

    texts: tuple[msgspec.Raw, ...]
    tokens: int

    @property
    def weight(self) -> int:
        """What its share of the tokens is measured by."""
        return sum(len(bytes(text)) - 1 for text in self.texts)


def part_of(request: Request, standing: Standing) -> tuple[Key, Part] | None:
    """The request's texts, and with whose they may go together; None where it goes alone.

    Alone go jobs, what was sent before, callers whose requests are counted or limited, and whoever asks for it.

    Args:
        request: A request.
        standing: Of its caller.
    """
    context, routing = request.context, request.routing
    is_plain = request.kind is RequestKind.EMBED or request.path.partition("?")[0] == OPENAI_PATH
    if not (is_plain and context.is_embedding and routing.auto_batch) or context.is_load_only or context.job_id:
        return None
    if request.first_attempt > 1 or context.prompt_tokens > TOKENS_MAX:
        return None
    if standing.requests_per_minute or standing.max_concurrent:
        return None
    try:
        fields = read_fields(request.body)
        texts = _texts(bytes(fields["input"]))
    except (InvalidBody, KeyError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not 1 <= len(texts) <= TEXTS_MAX:
        return None
    rest = tuple(sorted((name, bytes(raw)) for name, raw in fields.items() if name not in _OWN_FIELDS))
    key = Key(request.kind, request.path, request.caller, request.via, routing, rest)
    return key, Part(texts, context.prompt_tokens)


def _texts(raw: bytes) -> tuple[msgspec.Raw, ...]:
    """The texts of an input; none where one is empty, or no text."""
    texts = [msgspec.Raw(raw)] if raw[:1] == b'"' else _list.decode(raw)
    return () if any(bytes(one)[:1] != b'"' or bytes(one) == _EMPTY for one in texts) else tuple(texts)


def merged(key: Key, parts: Sequence[Part]) -> bytes:
    """The body of all of them together."""
    texts = [text for part in parts for text in part.texts]
    return _encode({name: msgspec.Raw(raw) for name, raw in key.rest} | {"input": texts})


def taken_apart(key: Key, body: bytes, parts: Sequence[Part]) -> list[bytes]:
    """The answers to each of them, in their order.

    Raises:
        Unlike: There are not as many vectors as texts, or it is no answer of this dialect.
    """
    try:
        told = _fields.decode(body)
        split = _native if key.kind is RequestKind.EMBED else _openai
        return split(told, parts)
    except Unlike:
        raise
    except (msgspec.MsgspecError, ValueError, LookupError, RecursionError) as error:
        raise Unlike(f"not an answer with embeddings: {error}") from error


def figures_for(figures: Figures | None, parts: Sequence[Part]) -> list[Figures]:
    """What each of them took: the time of all, and its part of what was used."""
    figures = figures or Figures()
    weights = [part.weight for part in parts]
    tokens = shares(figures.prompt_tokens, weights) if figures.prompt_tokens is not None else [None] * len(parts)
    ratios = [weight / sum(weights) for weight in weights]
    return [
        msgspec.structs.replace(
            figures,
            prompt_tokens=count,
            energy_j=None if figures.energy_j is None else figures.energy_j * ratio,
            expense=None if figures.expense is None else figures.expense * ratio,
        )
        for count, ratio in zip(tokens, ratios, strict=True)
    ]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole parts of a total by weight, which add up to it, the largest remainders rounded up; one each at least."""
    least = 1 if total >= len(weights) else 0
    rest, whole = total - least * len(weights), sum(weights)
    exact = [divmod(rest * weight, whole) for weight in weights]
    parts = [one for one, _ in exact]
    order = sorted(range(len(weights)), key=lambda place: (-exact[place][1], place))
    for place in order[: rest - sum(parts)]:
        parts[place] += 1
    return [part + least for part in parts]


def _native(told: dict[str, msgspec.Raw], parts: Sequence[Part]) -> list[bytes]:
    vectors = _cut(_list.decode(told["embeddings"]), parts)
    counts = _counts(told.get("prompt_eval_count"), parts)
    return [
        _encode(told | {"embeddings": own} | ({} if count is None else {"prompt_eval_count": count}))
        for own, count in zip(vectors, counts, strict=True)
    ]


def _openai(told: dict[str, msgspec.Raw], parts: Sequence[Part]) -> list[bytes]:
    rows = sorted(_rows.decode(told["data"]), key=lambda row: int(bytes(row["index"])))
    if [int(bytes(row["index"])) for row in rows] != list(range(len(rows))):
        raise Unlike("the vectors are not numbered one by one")
    usage = _fields.decode(told["usage"]) if "usage" in told else {}
    prompt, total = (_counts(usage.get(name), parts) for name in ("prompt_tokens", "total_tokens"))
    answers = []
    for own, prompt_tokens, total_tokens in zip(_cut(rows, parts), prompt, total, strict=True):
        used = {"prompt_tokens": prompt_tokens, "total_tokens": total_tokens}
        data = [row | {"index": place} for place, row in enumerate(own)]
        told_used = {name: count for name, count in used.items() if count is not None}
        answers.append(_encode(told | {"data": data} | ({"usage": usage | told_used} if usage else {})))
    return answers


def _cut(vectors: Sequence[Any], parts: Sequence[Part]) -> list[Sequence[Any]]:
    wanted = sum(len(part.texts) for part in parts)
    if len(vectors) != wanted:
        raise Unlike(f"{len(vectors)} vectors of {wanted} texts")
    found, start = [], 0
    for part in parts:
        found.append(vectors[start : start + len(part.texts)])
        start += len(part.texts)
    return found


def _counts(told: msgspec.Raw | None, parts: Sequence[Part]) -> Sequence[int | None]:
    if told is None:
        return [None] * len(parts)
    return shares(msgspec.json.decode(told, type=int), [part.weight for part in parts])
