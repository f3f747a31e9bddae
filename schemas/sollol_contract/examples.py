"""An example of each message: one that a running fleet sent, else the sample that fills every field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from sollol_contract import beside, wire
from sollol_contract.golden import file_name

RECORDED = Path("recorded", "messages.json")
"""Below the folder of golden samples; `python -m tools.recorded_messages` writes it."""


class Examples:
    """Examples of messages by their names.

    Args:
        golden: The folder of golden samples.
    """

    def __init__(self, golden: Path) -> None:
        self._golden = golden
        recorded = golden / RECORDED
        told = msgspec.json.decode(recorded.read_bytes()) if recorded.exists() else []
        self._recorded: dict[str, dict[str, Any]] = {one["message"]: one for one in told}

    def of(self, name: str) -> dict[str, Any]:
        """The example of one message; only a recorded one has headers."""
        told = self._recorded.get(name)
        if told is None:
            sample = self._golden / file_name(wire.structs()[name])
            return {"name": "sample", "payload": msgspec.json.decode(sample.read_bytes())}
        schema = beside.FIXED[name].headers if name in beside.FIXED else beside.HEADERS_OF.get(name, "")
        known = beside.SCHEMAS[schema]["properties"] if schema else {}
        headers = {header: text for header, text in told.get("headers", {}).items() if header in known}
        made = {"name": "recorded", "summary": f"On {told['subject']}.", "payload": told.get("payload", "")}
        return made | ({"headers": headers} if headers else {})
