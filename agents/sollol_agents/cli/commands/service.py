"""`sollol service install`: a unit of systemd or launchd that keeps `sollol node` or `sollol up` running."""

from __future__ import annotations

import os
import plistlib
import shlex
import sys
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

from cyclopts import App, Parameter

from sollol_agents.cli.output import say
from sollol_bus.errors import ConfigError
from sollol_schemas.ids import is_bus_id

service: Final = App(name="service", help="Keep a node, or the whole system, running as a service of this machine.")

What = Literal["node", "up"]
_FILE_FLAGS: Final = ("--config", "--store-dir")
_SECRET_FLAGS: Final = ("--nats-password", "--engine-api-key", "--job-callback-secret")
_STOP_S: Final = 60
"""Longer than the drain of a node or a dispatcher."""


class Unit(NamedTuple):
    """A service, before it is written."""

    path: Path
    text: str
    start: str
    """The command that starts it now and whenever the machine starts."""
    undo: str
    """The command that undoes all of it."""


@service.command
def install(
    what: Annotated[What, Parameter(help="What runs: node or up.")],
    *args: Annotated[str, Parameter(help="Its flags, after `--`.", allow_leading_hyphen=True)],
    system: Annotated[
        bool, Parameter(negative="", show_default=False, help="For the machine instead of for this user.")
    ] = False,
    name: Annotated[str, Parameter(help="Tells several of one machine apart.")] = "",
    print_: Annotated[
        bool, Parameter(name="--print", negative="", show_default=False, help="Show it and write nothing.")
    ] = False,
) -> int:
    """Writes a unit for systemd (on a Mac: for launchd) and says how to start it and how to undo that.

    Flags of the command follow after `--`: `sollol service install node -- --nats nats://hub:4222`. Secrets belong
    into a file that `--config` names. Installing again renews the unit.
    """
    if name and not is_bus_id(name):
        raise ConfigError(f"--name {name!r}: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
    argv = [sys.executable, "-m", "sollol_agents.cli", what, *checked(args)]
    title = f"sollol-{what}-{name}" if name else f"sollol-{what}"
    unit = (launchd if sys.platform == "darwin" else systemd)(title, argv, is_system=system)
    if print_:
        say(f"# {unit.path}")
        say(unit.text.rstrip())
        return 0
    say(f"{_write(unit)} {unit.path}")
    say(f"start it: {unit.start}")
    say(f"undo it: {unit.undo}")
    return 0


def checked(args: tuple[str, ...]) -> list[str]:
    """The flags as a service may have them: files by their full path, no secrets.

    Raises:
        ConfigError: A flag cannot stand in a unit, which others may read.
    """
    made: list[str] = []
    before = ""
    for arg in args:
        flag, equals, value = arg.partition("=")
        if flag in _SECRET_FLAGS or ("://" in arg and "@" in arg):
            raise ConfigError(
                f"{flag if flag in _SECRET_FLAGS else 'a user in an address'} could be read by others "
                "in a unit; put it into a settings file (`sollol init`) and pass that with --config"
            )
        if not arg.isprintable():
            raise ConfigError("a flag has a line break or another control character")
        if before in _FILE_FLAGS:
            made.append(_full(arg))
        else:
            made.append(f"{flag}={_full(value)}" if equals and flag in _FILE_FLAGS else arg)
        before = arg
    return made


def _full(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def systemd(title: str, argv: list[str], *, is_system: bool) -> Unit:
    """The unit for systemd; it starts again whatever ends it but an operator."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    folder = Path("/etc/systemd/system") if is_system else config / "systemd" / "user"
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
    return Unit(path, text, start, f"{control} disable --now {title} && {remove} && {control} daemon-reload")


def launchd(title: str, argv: list[str], *, is_system: bool) -> Unit:
    """The property list for launchd; its log lies below the user's, or the machine's, logs."""
    root = Path("/Library") if is_system else Path.home() / "Library"
    path = root / ("LaunchDaemons" if is_system else "LaunchAgents") / f"{title}.plist"
    log = str(root / "Logs" / f"{title}.log")
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
    domain = "system" if is_system else f"gui/{os.getuid()}"
    remove = f"{'sudo ' if is_system else ''}rm {_shell(path)}"
    return Unit(
        path,
        plistlib.dumps(values, sort_keys=False).decode(),
        f"{control} bootstrap {domain} {_shell(path)}",
        f"{control} bootout {domain}/{title} && {remove}",
    )


def _write(unit: Unit) -> str:
    """Writes a unit where it differs; says what was done."""
    try:
        known = unit.path.read_text(encoding="utf-8") if unit.path.exists() else None
        if known == unit.text:
            return "already there:"
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        unit.path.write_text(unit.text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {unit.path}: {error.strerror or error}") from error
    return "wrote" if known is None else "renewed"


def _quoted(word: str) -> str:
    """A word of a command line as systemd reads it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _shell(path: Path) -> str:
    return shlex.quote(str(path))
