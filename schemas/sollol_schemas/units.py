"""Quantities of the wire contract: each alias fixes a unit and a range, once.

The descriptions feed the JSON Schema. msgspec checks ranges when it decodes or converts, not in constructors.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

WHOLE_MAX = 2**53
"""Whole numbers beyond this are not the same in every language; nothing that is counted here comes near."""
SECONDS_MAX = 1e12
"""Thirty thousand years: sums of such figures stay finite, and JSON has no others."""

Seconds = Annotated[float, Meta(ge=0, le=SECONDS_MAX, description="A duration in seconds.")]
SignedSeconds = Annotated[
    float, Meta(ge=-SECONDS_MAX, le=SECONDS_MAX, description="A duration in seconds that may be negative.")
]
Bytes = Annotated[int, Meta(ge=0, le=WHOLE_MAX, description="A size in bytes.")]
Mib = Annotated[float, Meta(ge=0, le=WHOLE_MAX, description="A size in MiB (1,048,576 bytes).")]
Ratio = Annotated[float, Meta(ge=0, le=1, description="A share between 0 and 1.")]
Count = Annotated[int, Meta(ge=0, le=WHOLE_MAX, description="A count.")]
Tokens = Annotated[int, Meta(ge=0, le=WHOLE_MAX, description="A number of tokens.")]
TokensPerSecond = Annotated[float, Meta(ge=0, le=SECONDS_MAX, description="A speed in tokens per second.")]
Watts = Annotated[float, Meta(ge=0, le=1e9, description="Power in watts.")]
Joules = Annotated[float, Meta(ge=0, le=1e15, description="Energy in joules; 3,600,000 are a kilowatt-hour.")]
Money = Annotated[
    float,
    Meta(ge=0, le=1e12, description="An amount of money.", extra={"is_exact": True}),
]
"""Its digits are never cut: those of one answer all stand behind the point."""
Celsius = Annotated[float, Meta(ge=-100, le=300, description="A temperature in degrees Celsius.")]
Priority = Annotated[int, Meta(ge=0, le=10, description="0 (only when idle) to 10 (critical); 5 is normal.")]
Complexity = Annotated[float, Meta(ge=0, le=10, description="Declared difficulty of a request, 0 to 10.")]
Weight = Annotated[float, Meta(gt=0, le=100, description="Operator's factor on a node's share of work; 1 is neutral.")]
Term = Annotated[int, Meta(ge=0, le=WHOLE_MAX, description="Revision of the scorer's lease; a higher term supersedes.")]
_BUS_ID: Final = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
"""This pattern, and any other that ends so, forbids a line break at the end, before which Python's `$` matches too."""
BusId = Annotated[str, Meta(pattern=_BUS_ID, description="An id that is one token of a subject.")]
ToldId = Annotated[
    str, Meta(description="An id that is one token of a subject.", extra_json_schema={"pattern": _BUS_ID})
]
"""A `BusId` in what actors tell each other of every request. It was checked where it came in: a pattern takes msgspec a
third of a microsecond, and one request would have some twenty of them looked at. Who makes a subject of one, and does
not know its sender to be of the control role, checks it."""
NodeName = Annotated[
    str,
    Meta(
        pattern=r"^[!-~]{1,256}$(?!\n)",
        description="A node's id, its host or address, either with `:port`, its engine's URL, or `localhost`.",
    ),
]
"""Resolved to an id where the fleet is known; see `sollol_schemas.node_names`."""
DATE_TIME: Final = {"format": "date-time"}
"""What the JSON Schema says of texts that are instants."""
Instant = Annotated[
    str, Meta(description="An instant, RFC 3339 in UTC with Z and milliseconds.", extra_json_schema=DATE_TIME)
]
"""Empty, and so left out, while it is not known."""
FormerInstant = Annotated[
    float,
    Meta(
        ge=0,
        le=SECONDS_MAX,
        description="Seconds of Unix time, as older versions wrote an instant: read, never written.",
        extra_json_schema={"deprecated": True},
    ),
]
