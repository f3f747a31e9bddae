"""`sollol service`: a unit of systemd or launchd that keeps `sollol node` or `sollol up` running."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final, Literal

from sollol_agents.cli.commands.service_manager import State, remove, state_of
from sollol_agents.cli.commands.service_units import Unit, installed, title_of, unit_of
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.output import note, say, show_table
from sollol_bus.errors import ConfigError
from sollol_schemas.ids import is_bus_id

service: Final = Commands(
    name="service", help="Keep a node, or the whole system, running as a service of this machine."
)

What = Literal["node", "up"]
_System = Annotated[
    bool, Parameter(has_negative=False, show_default=False, help="For the machine instead of for this user.")
]
_Name = Annotated[str, Parameter(help="Tells several of one machine apart.")]
_FILE_FLAGS: Final = ("--config", "--store-dir")
_SECRET_FLAGS: Final = ("--nats-password", "--engine-api-key", "--job-callback-secret")


@service.command("install")
def install(
    what: Annotated[What, Parameter(help="What runs: node or up.")],
    *args: Annotated[str, Parameter(help="Its flags, after `--`.", allow_leading_hyphen=True)],
    system: _System = False,
    name: _Name = "",
    print_: Annotated[
        bool, Parameter(name="--print", has_negative=False, show_default=False, help="Show it and write nothing.")
    ] = False,
) -> int:
    """Writes a unit for systemd (on a Mac: for launchd) and says how to start it and how to undo that.

    Flags of the command follow after `--`: `sollol service install node -- --nats nats://hub:4222`. Secrets belong
    into a file that `--config` names. Installing again renews the unit.
    """
    argv = [sys.executable, "-m", "sollol_agents.cli", what, *checked(args)]
    unit = unit_of(_title(what, name), argv, is_system=system)
    if print_:
        say(f"# {unit.path}")
        say(unit.text.rstrip())
        return 0
    say(f"{_write(unit)} {unit.path}")
    say(f"start it: {unit.start}")
    say(f"undo it: {unit.undo}")
    return 0


@service.command("uninstall")
def uninstall(
    what: Annotated[What, Parameter(help="What runs: node or up.")], *, system: _System = False, name: _Name = ""
) -> int:
    """Stops a service, in order and with its drain, and removes its unit; what it kept and its settings stay."""
    unit = unit_of(_title(what, name), [], is_system=system)
    say(f"stopped and removed: {unit.path}" if remove(unit) else f"not installed: {unit.path}")
    return 0


@service.command("status")
def status(
    what: Annotated[What | None, Parameter(help="What runs: node or up; without it, every service here.")] = None,
    *,
    system: _System = False,
    name: _Name = "",
) -> int:
    """Shows which services are installed and what they do; ends with 1 unless each of them runs."""
    units = installed() if what is None else [unit_of(_title(what, name), [], is_system=system)]
    if not units:
        note("no service is installed: sollol service install node")
        return 1
    told = [(unit, state_of(unit), unit.path.exists()) for unit in units]
    rows = [
        (unit.title, "machine" if unit.is_system else "user", "yes" if is_there else "no", state.value, str(unit.path))
        for unit, state, is_there in told
    ]
    show_table(("service", "of", "installed", "state", "unit"), rows)
    return 0 if all(is_there and state is State.RUNS for _, state, is_there in told) else 1


def _title(what: What, name: str) -> str:
    if name and not is_bus_id(name):
        raise ConfigError(f"--name {name!r}: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
    return title_of(what, name)


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
