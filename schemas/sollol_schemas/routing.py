"""Routing fields: what a caller may say about where, when and how its request runs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_schemas.headers import ROUTING_PREFIX
from sollol_schemas.label_terms import InvalidLabelTerms, LabelTerms, label_terms
from sollol_schemas.plain_words import in_plain_words
from sollol_schemas.units import Complexity, Mib, NodeName, Priority, Ratio


class RoutingMode(StrEnum):
    """What a request optimises for."""

    FAST = "fast"  # least predicted completion time
    RELIABLE = "reliable"  # nodes whose proven success reaches a floor
    ASYNC = "async"  # durable or patient work that keeps GPUs free
    CHEAP = "cheap"  # the cheapest node, by the prices of nodes, that answers in time
    AUTO = "auto"  # chosen from the declared task type or complexity


PRIORITY_NAMES: dict[str, int] = {
    "critical": 10,
    "urgent": 10,
    "high": 8,
    "normal": 5,
    "low": 2,
    "batch": 1,
    "deferred": 0,
}
DEFAULT_PRIORITY = PRIORITY_NAMES["normal"]
DEFAULT_DEADLINE_S = 600.0

PriorityOrName = Priority | Annotated[str, Meta(max_length=16, description=f"One of {', '.join(PRIORITY_NAMES)}.")]

DeadlineSeconds = Annotated[
    float, Meta(gt=0, le=604_800, description="Seconds within which the answer must be complete.")
]


class Routing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The routing fields of one request.

    They stand at the top level of a native body or in `X-Sollol-*` headers, and are removed before an
    engine sees the body. A header wins over the body.
    """

    routing_mode: Annotated[RoutingMode, Meta(description="What the request optimises for.")] = RoutingMode.FAST
    priority: Priority = DEFAULT_PRIORITY
    node_id: Annotated[
        NodeName | None,
        Meta(
            description="The wanted node, by id, host, address, `host:port`, URL or `localhost`; with `strict` the "
            "only one that may serve the request."
        ),
    ] = None
    strict: Annotated[bool, Meta(description="Fail rather than use another node than `node_id`.")] = False
    min_vram_gb: Annotated[
        Annotated[float, Meta(ge=0, le=100_000)] | None,
        Meta(description="Free video memory, in GiB, that the node must have."),
    ] = None
    prefer_local: Annotated[bool, Meta(description="Count the round trip to remote nodes fully.")] = False
    prefer_cpu: Annotated[bool, Meta(description="Keep off GPU nodes when a CPU node can do it in time.")] = False
    min_success_rate: Annotated[Ratio | None, Meta(description="Proven success, 0 to 1, that the node must have.")] = (
        None
    )
    where: Annotated[
        LabelTerms | None,
        Meta(description="Labels that the node must bear: `site=office`, `site!=cloud`, `gpu=a100,h100`, `site=*`."),
    ] = None
    prefer: Annotated[
        LabelTerms | None,
        Meta(description="Labels that the node should bear, written like `where`; a node without counts as slower."),
    ] = None
    task_type: Annotated[
        Annotated[str, Meta(max_length=64)] | None, Meta(description="What kind of work this is, when you know better.")
    ] = None
    complexity: Complexity | None = None
    session_id: Annotated[
        Annotated[str, Meta(max_length=256)] | None,
        Meta(description="Groups the requests of one conversation; a hint, never a pin."),
    ] = None
    deadline_s: DeadlineSeconds | None = None
    auto_batch: Annotated[
        bool, Meta(description="Let a small request for embeddings be served together with others like it.")
    ] = True
    soft: Annotated[bool, Meta(description="Take the best node when none satisfies the constraints.")] = False
    reasoning_style: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="deep_thinking, fast or extended; chooses mode and priority in mode auto."),
    ] = None
    avoid_models: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...],
        Meta(max_length=32, description="Models of the group that are not to answer: those that were tried."),
    ] = ()

    def __post_init__(self) -> None:
        """Makes sure that conditions on labels can be read, wherever they come from.

        Raises:
            ValueError: They cannot.
        """
        if self.where is not None:
            _read_labels("where", self.where)
        if self.prefer is not None:
            _read_labels("prefer", self.prefer)

    @property
    def min_vram_mib(self) -> Mib:
        """Free video memory asked for, in MiB; 0 when nothing was asked for."""
        return (self.min_vram_gb or 0.0) * 1024.0


ROUTING_FIELDS: frozenset[str] = frozenset(Routing.__struct_fields__)
_HEADER_MAX = 512
_NAMES_MAX = 4096
_LISTS = frozenset({"avoid_models"})
"""Fields of several names: with commas between them in a header."""
_SHOWN_MAX = 64
_MODES = tuple(mode.value for mode in RoutingMode)


def routing_header(field: str) -> str:
    """The header in which a routing field may stand."""
    return ROUTING_PREFIX + "-".join(word.capitalize() for word in field.split("_"))


_FIELD_OF_HEADER = {routing_header(field).lower(): field for field in ROUTING_FIELDS}


class InvalidRouting(ValueError):
    """A routing field has a value that cannot be used; the message names field, value and allowed range."""


def routing_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those headers that say something about routing, as they stay with a job; none is longer than can be used."""
    return {
        name: text[: header_max(field) + 1]
        for name, text in headers.items()
        if (field := _FIELD_OF_HEADER.get(name.lower())) is not None
    }


def header_max(field: str) -> int:
    """How many characters the header of a routing field may have."""
    return _NAMES_MAX if field in _LISTS else _HEADER_MAX


def parse_routing(body_fields: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Routing:
    """The routing of a request from the top level of its body and from its headers, which win.

    Args:
        body_fields: Any mapping; only the routing fields in it are read.
        headers: The message's headers; names are compared without regard to case.

    Raises:
        InvalidRouting: A value is of the wrong type or outside its range.
    """
    fields: dict[str, object] = {k: v for k, v in body_fields.items() if k in ROUTING_FIELDS and v is not None}
    for name, text in (headers or {}).items():
        field = _FIELD_OF_HEADER.get(name.lower()) if name[:1] in "xX" else None  # most are no such headers
        if field is not None:
            if len(text) > (most := header_max(field)):
                raise InvalidRouting(f"header {name} is longer than {most} characters")
            fields[field] = text
    if not fields:
        return _DEFAULT
    if isinstance(fields.get("priority"), str):
        fields["priority"] = _priority(str(fields["priority"]))
    if isinstance(fields.get("routing_mode"), str):
        fields["routing_mode"] = _mode(str(fields["routing_mode"]))
    for name in ("where", "prefer"):
        if name in fields:
            fields[name] = _labels_as_text(fields[name])
            _read_labels(name, fields[name])
    for name in fields.keys() & _LISTS:
        if isinstance(names := fields[name], str):
            fields[name] = [word.strip() for word in names.split(",") if word.strip()]
    try:
        return msgspec.convert(fields, Routing, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRouting(f"routing field {in_plain_words(str(error))}") from error


def _labels_as_text(value: object) -> object:
    """Labels as they are written, where they came as an object, as nodes bear them, or as a list of conditions."""
    if isinstance(value, dict):
        return ",".join(f"{name}={told}" for name, told in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value


def _read_labels(name: str, value: object) -> None:
    try:
        label_terms(value if isinstance(value, str) else msgspec.json.encode(value).decode())
    except InvalidLabelTerms as error:
        raise InvalidRouting(f"routing field {name}: {error}") from error


def _priority(text: str) -> object:
    number = PRIORITY_NAMES.get(text.lower(), text)
    if isinstance(number, str) and not number.strip().lstrip("+-").isdigit():
        allowed = ", ".join(PRIORITY_NAMES)
        raise InvalidRouting(f"routing field priority: {text[:_SHOWN_MAX]!r} is neither 0 to 10 nor one of {allowed}")
    return number


def _mode(text: str) -> str:
    if text.lower() not in _MODES:
        allowed = ", ".join(_MODES)
        raise InvalidRouting(f"routing field routing_mode: {text[:_SHOWN_MAX]!r} is none of {allowed}")
    return text.lower()


_DEFAULT = Routing()
