"""The store directory of an embedded nats-server: one server at a time, and files left by the last one.

nats-server itself does not lock its store: two servers on one directory start and then corrupt each other's
streams. The lock here is an `flock` whose descriptor the server inherits, so it lasts exactly as long as either
of both processes lives, however they end.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import psutil

from sollol_bus.errors import ConfigError
from sollol_bus.server.config import BINARY_NAME, PID_NAME

_LOCK_NAME = ".lock"


_PRELOADED = re.compile(r"^\s*(A[A-Z2-7]{55}):", re.MULTILINE)
_SYSTEM = re.compile(r"^system_account: (\S+)", re.MULTILINE)


class StoreClaim:
    """Exclusive use of a store directory, until `release` and the end of every process that inherited `fd`."""

    def __init__(self, store_dir: Path, fd: int) -> None:
        self.store_dir = store_dir
        self.fd = fd

    def release(self) -> None:
        """Gives up this process's share of the lock; releasing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def remove_leftovers(self) -> None:
        """Removes the files in which earlier servers told their ports."""
        for path in self.store_dir.glob("*.ports"):
            path.unlink(missing_ok=True)


def try_claim(store_dir: Path) -> StoreClaim | None:
    """The claim on `store_dir`, which is created where missing; None when another process holds it.

    Raises:
        ConfigError: The directory cannot be used, or a server that was started otherwise works in it.
    """
    is_new = not store_dir.exists()
    try:
        store_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(store_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"store_dir={str(store_dir)!r} cannot be used: {error.strerror}") from error
    try:
        import fcntl  # noqa: PLC0415 Windows has none; a node, which runs there, has no store

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    claim = StoreClaim(store_dir, fd)
    # looking at every process takes longer than all else
    stranger = None if is_new else _foreign_server(store_dir)
    if stranger is not None:
        claim.release()
        raise taken(store_dir, stranger)
    return claim


def taken(store_dir: Path, pid: int | None = None) -> ConfigError:
    """The error for a store directory that another server uses."""
    pid = pid if pid is not None else _recorded_pid(store_dir)
    who = f"nats-server with pid {pid}" if pid is not None else "nats-server"
    return ConfigError(
        f"store_dir={str(store_dir)!r} is in use by another {who}, perhaps of a `sollol up` that runs already; stop "
        "it, use its address (--nats), or choose another folder (--store-dir)"
    )


def _recorded_pid(store_dir: Path) -> int | None:
    try:
        return int((store_dir / PID_NAME).read_text())
    except (OSError, ValueError):
        return None


def _foreign_server(store_dir: Path) -> int | None:
    """The pid of a nats-server that was started by hand on this directory, as far as this user may see it."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == BINARY_NAME and _works_in(process, store_dir):
            return int(process.pid)
    return None


def _works_in(process: psutil.Process, store_dir: Path) -> bool:
    root = str(store_dir.resolve())
    try:
        words = process.cmdline()
        if any(os.path.realpath(word.partition("=")[2] or word) == root for word in words[1:]):
            return True
        return any(f.path.startswith(f"{root}/jetstream") for f in process.open_files())
    except (psutil.Error, OSError):
        return False


def adopt_streams(store_dir: Path, config: str) -> str:
    """Lets the account that a configuration names find what was stored before there was one: jobs, keys, results.

    The server keeps each account's streams in a folder of its own, and whoever makes a fleet of a machine that has
    worked openly would find none of them. Nothing is moved where the account has streams already.

    Args:
        store_dir: The claimed store; its server does not run.
        config: The part of the server's configuration that names accounts.

    Returns:
        The account whose streams were taken over; empty: none.

    Raises:
        ConfigError: There are streams of several accounts: only a person can say whose count.
    """
    accounts = set(_PRELOADED.findall(config)) - set(_SYSTEM.findall(config))
    if len(accounts) != 1:
        return ""
    account = accounts.pop()
    root = store_dir / "jetstream"
    others = sorted(p.name for p in root.glob("*") if p.name != account and any(p.glob("streams/*")))
    if not others or any((root / account).glob("streams/*")):
        return ""
    if len(others) > 1:
        raise ConfigError(
            f"{root} has streams of {len(others)} accounts, {', '.join(others)}: rename the folder of the one whose "
            f"jobs and keys this fleet goes on with to {account}, or move them all away to begin with none"
        )
    shutil.rmtree(root / account, ignore_errors=True)
    (root / others[0]).rename(root / account)
    return others[0]
