"""Room on the disk below the store: JetStream rests while there is none, so that a full disk breaks nothing.

A stream whose write fails stays broken in nats-server after there is room again, and its publishes are not even
refused: they time out. So JetStream is switched off before the last bytes are gone, and on again once there is room;
everybody's connection stays, and whoever asks meanwhile hears at once that nobody is there. Switching it is one
character of the configuration, written in place, because nothing else can be written on a full disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

OFF_BELOW_BYTES: Final = 16 << 20
ON_ABOVE_BYTES: Final = 32 << 20
"""Above the other bound, so that what JetStream then writes does not switch it off again."""
_LOOK_EVERY_S: Final = 1.0
_STORE_SHARE: Final = 0.75
_LEAST_STORE_BYTES: Final = 64 << 20
_BROKEN: Final = b"ritical write error"
_ON, _OFF = b" ", b"#"
STORE_LINE: Final = "jetstream {"
"""How the line begins that switches JetStream on; a blank or a `#` stands before it."""

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write there, in bytes."""
    return shutil.disk_usage(folder).free


def store_bytes(folder: Path, free: int) -> int:
    """How much JetStream may keep below `folder`: three quarters of what is free or its own already."""
    own = sum(path.stat().st_size for path in folder.rglob("*.blk") if path.is_file())
    return max(_LEAST_STORE_BYTES, int((free + own) * _STORE_SHARE))


def is_room(free: int, *, was: bool) -> bool:
    """Whether there is room for JetStream to work."""
    return free >= (OFF_BELOW_BYTES if was else ON_ABOVE_BYTES)


class Room:
    """Switches JetStream of one server off and on as the disk has room.

    Args:
        config: The server's configuration file.
        server_log: The server's log, in which it tells of writes that failed.
        reload: Makes the server read its configuration.
        free: Tells what is free below a folder, in bytes.
    """

    def __init__(self, config: Path, server_log: Path, reload: Callable[[], None], free: FreeBytes) -> None:
        self._config = config
        self._log = server_log
        self._reload = reload
        self._free = free
        self._read = 0
        self.is_on = True
        """Whether JetStream works."""

    async def watch(self) -> None:
        """Looks every second, for ever."""
        self._read = await asyncio.to_thread(self._log_bytes)
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await asyncio.to_thread(self._look)
            except OSError as error:
                log.warning("the room for JetStream is not known: %s", error, extra={"action": "store_unknown"})

    def _look(self) -> None:
        free = self._free(self._config.parent)
        is_broken = self.is_on and self._tells_of_failure()
        wanted = is_room(free, was=self.is_on) and not is_broken  # what broke is mended by resting until the next look
        if wanted == self.is_on:
            return
        self._switch(_ON if wanted else _OFF)
        self.is_on = wanted
        if wanted:
            log.warning("there is room on the disk again: JetStream works", extra={"action": "store_works"})
        else:
            extra = {"action": "store_rests", "free_mib": free >> 20}
            log.error("the disk is full: JetStream rests, requests go on, jobs are refused", extra=extra)

    def _switch(self, mark: bytes) -> None:
        text = self._config.read_bytes()
        line = text.find(STORE_LINE.encode())
        with self._config.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), mark, line - 1)
        self._reload()

    def _tells_of_failure(self) -> bool:
        size = self._log_bytes()
        if size <= self._read:
            self._read = size
            return False
        with self._log.open("rb") as file:
            file.seek(self._read)
            told = file.read(1 << 20)
        self._read = size
        return _BROKEN in told

    def _log_bytes(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0
