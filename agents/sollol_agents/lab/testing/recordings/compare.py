"""Where an answer differs from the recorded one, but for what may differ.

Of a recorded value `~` stands for any value, and `…cut` for what was left out: of a text its middle, of a list some
elements, of an object every field that is not shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from sollol_agents.lab.testing.recordings.exchange import Reply

Json = Any

ADDED_ROW: Final = "group"
"""A field of rows that only a gateway lists: of groups of models."""
_CUT: Final = "…cut"
_AS_BEFORE: Final = "other fields as in the first answer"
_JSON_TYPES: Final = ("application/json", "application/json; charset=utf-8")
# of the connection, not of the answer
_UNJUDGED_HEADERS: Final = frozenset({"transfer-encoding"})
_ESCAPE: Final = re.compile(rb"\\u[0-9a-f]{4}")
_COUNT: Final = re.compile(r"(at least )?(\d+) (?:elements )?in all")
# what a language model says, and what follows from how long it talks
_WORDS: Final = frozenset({"response", "content", "text", "delta", "eval_count", "output_tokens", "completion_tokens"})


def differences(expected: dict[str, Json], reply: Reply, volatile: Volatile, *, path: str) -> Iterator[str]:
    """Yields each difference of an answer in words; none when it is as recorded.

    Args:
        expected: the recorded answer.
        reply: the answer of the engine under test.
        volatile: values that may differ.
        path: of the request; it decides the default content type.
    """
    if volatile.covers(()):
        return
    if reply.status != expected.get("status"):
        yield f"status {reply.status} for {expected.get('status')}: {bytes(reply.body[:200])!r}"
        return
    if expected.get("closed_without_answer"):
        return
    yield from _header_differences(expected, reply, volatile, path)
    yield from _body_differences(expected, reply, volatile)


def _header_differences(expected: dict[str, Json], reply: Reply, volatile: Volatile, path: str) -> Iterator[str]:
    recorded = expected.get("headers")
    if recorded is None:
        found = reply.headers.get("content-type", "")
        wanted = _default_types(expected, path)
        if wanted and found not in wanted:
            yield f"content-type {found!r} for {wanted[0]!r}"
        return
    for name, value in recorded.items():
        if name in _UNJUDGED_HEADERS or volatile.covers(("headers", name)) or _CUT in value:
            continue
        if reply.headers.get(name) != value:
            yield f"{name} {reply.headers.get(name)!r} for {value!r}"


def _default_types(expected: dict[str, Json], path: str) -> tuple[str, ...]:
    """The content types that a recording without headers stands for."""
    if "lines" in expected:
        return ("application/x-ndjson",)
    if "events" in expected:
        return ("text/event-stream",)
    if "body" not in expected:
        return ()
    # whether a /v1 refusal is the handler's or the middleware's is told by nothing but the header
    return _JSON_TYPES if path.startswith("/v1/") else _JSON_TYPES[1:]


def _body_differences(expected: dict[str, Json], reply: Reply, volatile: Volatile) -> Iterator[str]:
    body = bytes(reply.body)
    if "text" in expected:
        if body.decode("utf-8", "replace") != expected["text"]:
            yield f"text {body[:200]!r} for {expected['text']!r}"
        return
    for key, read in (("body", _document), ("lines", _lines), ("events", _events)):
        if key in expected:
            try:
                found = read(body)
            except (ValueError, msgspec.DecodeError):
                yield f"no {key}: {body[:200]!r}"
                return
            yield from _value_differences(expected[key], found, (key,), volatile)
    if "escapes" in expected and sorted({one.decode() for one in _ESCAPE.findall(body)}) != sorted(expected["escapes"]):
        yield f"escapes other than {expected['escapes']}"
    if expected.get("trailing_newline") and not body.endswith(b"\n"):
        yield "no final newline"


def _document(body: bytes) -> Json:
    return msgspec.json.decode(body)


def _lines(body: bytes) -> Json:
    return [msgspec.json.decode(line) for line in body.splitlines() if line]


def _events(body: bytes) -> Json:
    events = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            data = fields["data"]
            event = {"event": fields["event"]} if "event" in fields else {}
            events.append(event | {"data": msgspec.json.decode(data) if data.startswith("{") else data})
    return events


def _value_differences(expected: Json, found: Json, at: tuple[str, ...], volatile: Volatile) -> Iterator[str]:
    if expected == "~" or volatile.covers(at):
        return
    if isinstance(expected, str) and _CUT in expected:
        yield from _text_differences(expected, found, at)
    elif isinstance(expected, dict) and isinstance(found, dict):
        yield from _object_differences(expected, found, at, volatile)
    elif isinstance(expected, list) and isinstance(found, list):
        yield from _list_differences(expected, found, at, volatile)
    elif not _is_equal(expected, found):
        yield f"{'/'.join(at)} {found!r} for {expected!r}"


def _text_differences(expected: str, found: Json, at: tuple[str, ...]) -> Iterator[str]:
    begin, _, rest = expected.partition(_CUT)
    end = rest.partition("ends: ")[2]
    if begin and not (isinstance(found, str) and found.startswith(begin[:-1]) and found.endswith(end)):
        yield f"{'/'.join(at)} {found!r} for {expected!r}"


def _object_differences(
    expected: dict[str, Json], found: dict[str, Json], at: tuple[str, ...], volatile: Volatile
) -> Iterator[str]:
    if expected.get(_CUT) == _AS_BEFORE:
        volatile.is_partial = True
    for key, value in expected.items():
        if key == _CUT:
            continue
        if key in found:
            yield from _value_differences(value, found[key], (*at, key), volatile)
        elif not volatile.covers((*at, key)) or value != "~":
            yield f"{'/'.join(at)} lacks {key}"
    if _CUT not in expected and not volatile.is_partial:
        for key in found.keys() - expected.keys() - volatile.added:
            yield f"{'/'.join(at)} has {key}: {found[key]!r}"


def _list_differences(
    expected: list[Json], found: list[Json], at: tuple[str, ...], volatile: Volatile
) -> Iterator[str]:
    if ADDED_ROW in volatile.added:
        found = [one for one in found if not (isinstance(one, dict) and ADDED_ROW in one)]
    mark = next((n for n, one in enumerate(expected) if isinstance(one, str) and one.startswith(_CUT)), None)
    if mark is None:
        if len(expected) != len(found):
            yield f"{'/'.join(at)} has {len(found)} elements for {len(expected)}: {found!r:.300}"
            return
        pairs = list(zip(expected, found, strict=True))
    else:
        count = _COUNT.search(expected[mark])
        if count and not (len(found) >= int(count[2]) if count[1] else len(found) == int(count[2])):
            yield f"{'/'.join(at)} has {len(found)} elements: {expected[mark]}"
            return
        after = expected[mark + 1 :]
        pairs = [
            *zip(expected[:mark], found, strict=False),
            *zip(after, found[len(found) - len(after) :], strict=False),
        ]
    for place, (one, other) in enumerate(pairs):
        yield from _value_differences(one, other, (*at, str(place)), volatile)


def _is_equal(expected: Json, found: Json) -> bool:
    if isinstance(expected, float) or isinstance(found, float):
        is_number = isinstance(expected, int | float) and isinstance(found, int | float)
        return is_number and math.isclose(expected, found, rel_tol=1e-5, abs_tol=1e-6)
    return type(expected) is type(found) and bool(expected == found)


class Volatile:
    """Which values of one step's answer may differ.

    Args:
        patterns: those of the case.
        step: place of the step in its case.
        is_talk: a real language model spoke: its words are no rule.
        added: fields that a gateway says it adds to an engine's objects.

    Attributes:
        is_partial: fields that are not shown may be there.
        added: as given.
    """

    def __init__(
        self, patterns: tuple[str, ...], step: int, *, is_talk: bool, added: frozenset[str] = frozenset()
    ) -> None:
        self.added = added
        self._anywhere = [one.removeprefix("**/") for one in patterns if one.startswith("**/")]
        prefix = f"/steps/{step}/response"
        self._at = [one.removeprefix(prefix) for one in patterns if one == prefix or one.startswith(f"{prefix}/")]
        self._is_talk = is_talk
        self.is_partial = False

    def covers(self, at: tuple[str, ...]) -> bool:
        """True when the value at this place, or one around it, may differ."""
        if at and self._is_talk and at[-1] in _WORDS:
            return True
        if at and any(re.fullmatch(one.replace("*", ".*"), at[-1]) for one in self._anywhere):
            return True
        return any(_reaches(pattern.split("/")[1:], at) for pattern in self._at)


def _reaches(pattern: list[str], at: tuple[str, ...]) -> bool:
    pattern = [one for one in pattern if one]
    return len(at) >= len(pattern) and all(one in {"*", part} for one, part in zip(pattern, at, strict=False))
