"""A real terminal for tests: keys go in, and what a person would see is read off its screen."""

from __future__ import annotations

import asyncio
import os
import uuid
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from sollol_agents.lab.testing.waiting import eventually


class Terminal:
    """A terminal in a tmux server of its own.

    Args:
        folder: Where its socket lies.
    """

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / f"tmux-{uuid.uuid4().hex[:8]}")

    async def tmux(self, *argv: str) -> str:
        """What a command of tmux prints; the first one leaves the server running, which must not hold our pipe."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SOLLOL_", "TMUX"))}
        process = await asyncio.create_subprocess_exec(
            "tmux",
            "-S",
            self._socket,
            "-f",
            "/dev/null",
            *argv,
            stdout=DEVNULL if argv[0] == "new-session" else PIPE,
            stderr=DEVNULL,
            env=clean | {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, argv
        return (said or b"").decode()

    async def press(self, *keys: str) -> None:
        """Presses keys, by tmux's names for them; other words are typed."""
        await self.tmux("send-keys", *keys)

    async def type(self, line: str) -> None:
        """Types a line, and Enter."""
        await self.tmux("send-keys", "-l", line)
        await self.tmux("send-keys", "Enter")

    async def screen(self) -> list[str]:
        """The lines that can be seen."""
        return (await self.tmux("capture-pane", "-p")).splitlines()

    async def ends(self, text: str) -> None:
        """Returns once the last line on the screen is `text`: what is pressed before a prompt is there may be lost."""

        async def does() -> bool:
            return [line.rstrip() for line in await self.screen() if line.strip()][-1:] == [text]

        await eventually(does, complaint=f"the last line is not {text!r}")

    async def shows(self, *texts: str, gone: tuple[str, ...] = ()) -> list[str]:
        """The screen once it shows all `texts`, and none of `gone`."""
        seen: list[str] = []

        async def is_shown() -> bool:
            seen[:] = await self.screen()
            whole = "\n".join(seen)
            return all(text in whole for text in texts) and not any(text in whole for text in gone)

        try:
            await eventually(is_shown)
        except AssertionError as error:
            raise AssertionError(f"{texts} without {gone} on\n" + "\n".join(seen)) from error
        return seen
