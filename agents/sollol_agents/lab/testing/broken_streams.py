"""Streams of events that break off wherever one wishes, and go on from what a node would say of their rest.

The undisturbed stream is the measure: read up to a cut, and told on from native objects, it must come out the same
byte for byte, but for times, counts of cached tokens, and ids of what begins after the cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from sollol_agents.requests.ollama import gojson
from sollol_bus.sdk.resume.dialects import telling_of
from sollol_bus.sdk.resume.interface import Telling
from sollol_schemas.context import RequestKind

Json = Any

_VARYING: Final = (
    (re.compile(rb',?"timings":\{[^{}]*\}'), b""),
    (re.compile(rb'"(cached_tokens|completed_at)":\d+'), rb'"\1":0'),
    (re.compile(rb'"cache_read_input_tokens":\d+,"input_tokens":\d+'), b'"input_tokens":0'),
    (re.compile(rb'"created_at":\d+'), b'"created_at":0'),
    (re.compile(rb'"((?:item_)?id)":"(msg|rs)_[^"]*"'), rb'"\1":"\2"'),
    (re.compile(rb'"signature":"[^"]*"'), b'"signature":""'),
)
_MARK: Final = "~"
_LEFT_OUT: Final = "…cut"


class Piece(NamedTuple):
    """What one event says."""

    text: str = ""
    thinking: str = ""


class Stream:
    """An undisturbed answer.

    Args:
        path: The path that was asked.
        body: The request's body.
        raw: The answer.
    """

    def __init__(self, path: str, body: bytes, raw: bytes) -> None:
        self.path = path
        self.body = body
        self.events = [block + b"\n\n" for block in raw.split(b"\n\n") if block]
        self.said = [said_in(event) for event in self.events]

    def telling(self) -> Telling:
        """The telling of its request, to which nothing was handed out yet."""
        return telling_of(RequestKind.PASSTHROUGH, self.path, self.body, "text/event-stream", [])

    def broken(self, cuts: Sequence[int]) -> bytes:
        """What its user gets when it breaks off at each cut; the first is a place between events.

        Each later one comes after so many more events, or pieces of the rest; a last cut may lie behind the end.
        """
        telling = self.telling()
        place, *later = cuts
        handed = [b"".join(self.events[:place])]
        telling.read(handed[0])
        while telling.said().is_blank and not telling.said().is_over:
            telling.break_off()
            more = later.pop(0) if later else len(self.events)
            anew = renamed(self.events) if any(handed) else self.events
            told = telling.again(b"".join(anew[: place + more]))
            telling.read(told)
            handed.append(told)
            place += more
        return b"".join(handed) + self._rest(telling, place, later)

    def _rest(self, telling: Telling, place: int, cuts: list[int]) -> bytes:
        """What is told from a place on, broken at further cuts."""
        handed = []
        pieces = [said for said in self.said[place:] if said]
        while not telling.said().is_over:
            assert not telling.said().refusal, telling.said().refusal
            telling.break_off()
            some = cuts.pop(0) if cuts else len(pieces) + 1
            objects = [native(piece) for piece in pieces[:some]]
            if some > len(pieces):
                objects.append(self.final())
            told = [telling.feed(one) for one in objects]
            for one in told:
                telling.read(one)
            handed += told
            pieces = pieces[some:]
        return b"".join(handed)

    def final(self) -> bytes:
        """The last object of the rest, with the counts that the stream tells."""
        counts: dict[str, Json] = {}
        reason = "stop"
        for event in self.events:
            data = data_of(event)
            counts |= _counts_in(data)
            reason = "length" if _reason_in(data) in ("length", "max_tokens") else reason
        return msgspec.json.encode({"response": "", "done": True, "done_reason": reason} | counts)


def native(piece: Piece) -> bytes:
    """A piece of the rest as a node says it."""
    return msgspec.json.encode({"model": "m", "response": piece.text, "thinking": piece.thinking, "done": False})


def steady(raw: bytes) -> bytes:
    """A stream without what differs from run to run."""
    for pattern, text in _VARYING:
        raw = pattern.sub(text, raw)
    return raw


def timeless(raw: bytes) -> bytes:
    """The same without instants: an engine may tell a later one with a later event."""
    return re.sub(rb'"created":\d+', b'"created":0', steady(raw))


def ids_in(raw: bytes) -> dict[str, set[str]]:
    """The ids in a stream, by their beginnings."""
    found: dict[str, set[str]] = {}
    for _, name in re.findall(rb'"((?:item_)?id)":"([^"]*)"', raw):
        found.setdefault(re.split("[-_]", name.decode())[0], set()).add(name.decode())
    return found


def renamed(events: Sequence[bytes]) -> list[bytes]:
    """The events as another attempt would write them: with ids and instants of its own."""
    with_ids = [re.sub(rb'"((?:item_)?id)":"([^"]*)"', rb'"\1":"\2other"', event) for event in events]
    return [re.sub(rb'"created(_at)?":\d+', rb'"created\1":99', event) for event in with_ids]


def data_of(event: bytes) -> dict[str, Json]:
    """The data of an event; empty for the end mark and comments."""
    lines = [line[6:] for line in event.split(b"\n") if line.startswith(b"data: ")]
    return msgspec.json.decode(lines[0]) if lines and lines[0] != b"[DONE]" else {}


def said_in(event: bytes) -> Piece | None:
    """What an event says."""
    data = data_of(event)
    kind = data.get("type", "")
    if kind.startswith("response."):
        delta = data["delta"] if kind.endswith("text.delta") else ""
        piece = Piece(delta) if kind == "response.output_text.delta" else Piece("", delta)
    elif kind:
        piece = Piece(data.get("delta", {}).get("text", ""), data.get("delta", {}).get("thinking", ""))
    else:
        choice = data["choices"][0] if data.get("choices") else {}
        delta = choice.get("delta", {})
        thinking = delta.get("reasoning") or delta.get("reasoning_content") or ""
        piece = Piece(choice.get("text") or delta.get("content") or "", thinking)
    return piece if piece.text or piece.thinking else None


def _counts_in(data: dict[str, Json]) -> dict[str, int]:
    usage = data.get("usage") or data.get("response", {}).get("usage") or {}
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    output = usage.get("completion_tokens", usage.get("output_tokens"))
    found = {"prompt_eval_count": prompt, "eval_count": output}
    return {name: count for name, count in found.items() if count is not None}


def _reason_in(data: dict[str, Json]) -> str | None:
    if data.get("type") == "message_delta":
        return str(data["delta"]["stop_reason"])
    choices = data.get("choices") or [{}]
    reason: str | None = choices[0].get("finish_reason")
    return reason


def recorded(events: Sequence[Json], *, is_go: bool) -> bytes:
    """A recorded stream as bytes; `~` stands for one id or instant, and what was left out stays so."""
    created: Json = None
    told = []
    for event in events:
        if isinstance(event, str):
            continue
        data = event["data"]
        if data == "[DONE]":
            told.append(b"data: [DONE]\n\n")
            continue
        data = _filled(data)
        created = data["response"] if data.get("type") == "response.created" else created
        if isinstance(data.get("response"), str):
            data["response"] = created
        name = b"event: %b\n" % event["event"].encode() if "event" in event else b""
        told.append(name + b"data: %b\n\n" % (gojson.write(data) if is_go else msgspec.json.encode(data)))
    return b"".join(told)


def _filled(value: Json, name: str = "", prefix: str = "one") -> Json:
    if isinstance(value, dict):
        prefix = {"message": "msg_", "reasoning": "rs_"}.get(value.get("type", ""), prefix)
        prefix = "resp_" if value.get("object") == "response" else prefix
        prefix = ("rs_" if ".reasoning" in value["type"] else "msg_") if "item_id" in value else prefix
        return {key: _filled(one, key, prefix) for key, one in value.items() if not key.startswith(_LEFT_OUT)}
    if isinstance(value, list):
        return [_filled(one, name) for one in value]
    if name in ("id", "item_id"):
        return prefix + "1"
    if value == _MARK or name in ("created", "created_at"):
        return 7
    return value
