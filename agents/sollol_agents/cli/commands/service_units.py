"""Units of a service, as text: for systemd and for launchd, with the commands that steer them. Pure."""

from __future__ import annotations

import os
import plistlib
import shlex
import sys
from pathlib import Path
from typing import Final, NamedTuple

_STOP_S: Final = 60
"""Longer than the drain of a node or a dispatcher."""


class Unit(NamedTuple):
    """A service, before it is written."""

    title: str
    path: Path
    text: str
    start: str
    """The command that starts it now and whenever the machine starts."""
    undo: str
    """The command that undoes all of it."""
    is_system: bool


def unit_of(title: str, argv: list[str], *, is_system: bool) -> Unit:
    """The unit as this machine's manager of services reads it."""
    return (launchd if sys.platform == "darwin" else systemd)(title, argv, is_system=is_system)


def title_of(what: str, name: str) -> str:
    """What a service is called."""
    return f"sollol-{what}-{name}" if name else f"sollol-{what}"


def systemd_folder(*, is_system: bool) -> Path:
    """Where systemd looks for units that an operator made."""
    if is_system:
        return Path("/etc/systemd/system")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def launchd_folder(*, is_system: bool) -> Path:
    """Where launchd looks for property lists that an operator made."""
    return Path("/Library/LaunchDaemons") if is_system else Path.home() / "Library" / "LaunchAgents"


def domain_of(*, is_system: bool) -> str:
    """What launchd calls the services of the machine, or of this user."""
    return "system" if is_system else f"gui/{os.getuid()}"


def installed() -> list[Unit]:
    """The services of this user and of the machine whose files are there."""
    folder_of, suffix = (launchd_folder, ".plist") if sys.platform == "darwin" else (systemd_folder, ".service")
    return [
        unit_of(path.stem, [], is_system=is_system)
        for is_system in (False, True)
        for path in sorted(folder_of(is_system=is_system).glob(f"sollol-*{suffix}"))
    ]


def systemd(title: str, argv: list[str], *, is_system: bool) -> Unit:
    """The unit for systemd; it starts again whatever ends it but an operator."""
    folder = systemd_folder(is_system=is_system)
    control = "sudo systemctl" if is_system else "systemctl --user"
    path = folder / f"{title}.service"
    text = "\n".join(
        (
            "[Unit]",
            f"Description=SOLLOL Bus ({title})",
            "Wants=network-online.target",
            "After=network-online.target",
            "",
            "[Service]",
            f"ExecStart={' '.join(map(_quoted, argv))}",
            "Restart=on-failure",
            "RestartPreventExitStatus=2",
            "RestartSec=2",
            f"TimeoutStopSec={_STOP_S}",
            "",
            "[Install]",
            f"WantedBy={'multi-user.target' if is_system else 'default.target'}",
            "",
        )
    )
    start = f"{control} daemon-reload && {control} enable --now {title}"
    remove = f"{'sudo ' if is_system else ''}rm {_shell(path)}"
    undo = f"{control} disable --now {title} && {remove} && {control} daemon-reload"
    return Unit(title, path, text, start, undo, is_system)


def launchd(title: str, argv: list[str], *, is_system: bool) -> Unit:
    """The property list for launchd; its log lies below the user's, or the machine's, logs."""
    folder = launchd_folder(is_system=is_system)
    path = folder / f"{title}.plist"
    log = str(folder.parent / "Logs" / f"{title}.log")
    values = {
        "Label": title,
        "ProgramArguments": argv,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": _STOP_S,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    control = "sudo launchctl" if is_system else "launchctl"
    domain = domain_of(is_system=is_system)
    remove = f"{'sudo ' if is_system else ''}rm {_shell(path)}"
    return Unit(
        title,
        path,
        plistlib.dumps(values, sort_keys=False).decode(),
        f"{control} bootstrap {domain} {_shell(path)}",
        f"{control} bootout {domain}/{title} && {remove}",
        is_system,
    )


def _quoted(word: str) -> str:
    """A word of a command line as systemd reads it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _shell(path: Path) -> str:
    return shlex.quote(str(path))
