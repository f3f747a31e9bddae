"""Asks systemd or launchd about a service, and has it stopped and forgotten."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from sollol_agents.cli.commands.service_units import Unit, domain_of
from sollol_bus.errors import ConfigError

_BOOTED: Final = Path("/run/systemd/system")
"""There where systemd runs the machine, as sd_booted(3) says."""
_ASK_S: Final = 10.0
_STOP_S: Final = 120.0
"""Longer than a unit may take to stop."""


class State(StrEnum):
    """What a service does, as its manager tells."""

    RUNS = "runs"
    STARTING = "starting"  # now, or again after it failed
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"  # its manager does not answer
    NO_MANAGER = "no manager"  # neither systemd nor launchd runs here, so nothing is run by it


class Said(NamedTuple):
    """What a command said, and its exit code; None: there is no such command, or it took too long."""

    code: int | None
    out: str
    error: str


def state_of(unit: Unit) -> State:
    """What the service does."""
    if sys.platform == "darwin":
        return launchd_state(_ask("launchctl", "print", _target(unit)))
    properties = "--property=ActiveState,SubState"
    return systemd_state(_ask(*_systemctl(unit), "show", properties, f"{unit.title}.service"), has=_BOOTED.is_dir())


def systemd_state(said: Said, *, has: bool) -> State:
    """The state in what `systemctl show` said; `has`: systemd runs this machine."""
    if said.code != 0:
        return State.UNKNOWN if has else State.NO_MANAGER
    told = dict(line.partition("=")[::2] for line in said.out.splitlines())
    match told.get("ActiveState"):
        case "active" | "reloading" | "deactivating":
            return State.RUNS
        case "activating":
            return State.STARTING
        case "failed":
            return State.FAILED
        case "inactive":
            return State.STOPPED
        case _:
            return State.UNKNOWN


def launchd_state(said: Said) -> State:
    """The state in what `launchctl print` said; it fails for what it was not told to run."""
    if said.code is None:
        return State.NO_MANAGER
    if said.code != 0:
        return State.STOPPED
    return State.RUNS if "state = running" in said.out else State.STARTING


def remove(unit: Unit) -> bool:
    """Stops the service, has it start no more, and deletes its file; False when there was nothing of it.

    Raises:
        ConfigError: It cannot be stopped or deleted; its file is still there.
    """
    state = state_of(unit)
    is_there = unit.path.exists()
    if not is_there and state not in (State.RUNS, State.STARTING):
        return False
    if state is State.UNKNOWN:
        raise ConfigError(
            f"whether {unit.title} runs is not known, since its manager does not answer; nothing was removed"
        )
    if state is not State.NO_MANAGER:
        for words in stopping(unit, state, is_there=is_there):
            _must(unit, words)
    try:
        unit.path.unlink(missing_ok=True)
        for link in unit.path.parent.glob(f"*.wants/{unit.path.name}"):
            link.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot remove {unit.path}: {error.strerror or error}") from error
    if state is not State.NO_MANAGER and sys.platform != "darwin":
        with contextlib.suppress(ConfigError):  # what it still remembers does no harm
            _must(unit, [*_systemctl(unit), "daemon-reload"])
    return True


def stopping(unit: Unit, state: State, *, is_there: bool) -> list[list[str]]:
    """The commands that stop a service and have it start no more, in their order."""
    is_up = state in (State.RUNS, State.STARTING)
    if sys.platform == "darwin":
        return [["launchctl", "bootout", _target(unit)]] if is_up else []
    name = f"{unit.title}.service"
    stop = [[*_systemctl(unit), "stop", name]] if is_up else []
    return [*stop, [*_systemctl(unit), "disable", name]] if is_there else stop


def _systemctl(unit: Unit) -> list[str]:
    return ["systemctl", "--no-ask-password"] if unit.is_system else ["systemctl", "--user"]


def _target(unit: Unit) -> str:
    return f"{domain_of(is_system=unit.is_system)}/{unit.title}"


def _must(unit: Unit, words: list[str]) -> None:
    said = _ask(*words, within_s=_STOP_S)
    if said.code != 0:
        why = said.error.strip() or "it did not answer"
        hint = "; it is of the machine: try again with sudo" if unit.is_system and os.geteuid() != 0 else ""
        raise ConfigError(f"{' '.join(words)}: {why}{hint}")


def _ask(*words: str, within_s: float = _ASK_S) -> Said:
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=within_s, check=False)  # noqa: S603 ours
    except (OSError, subprocess.SubprocessError) as error:
        return Said(None, "", str(error))
    return Said(told.returncode, told.stdout, told.stderr)
