"""Starts a program so that it ends when we end, even when we are killed with a signal that nobody can catch."""

from __future__ import annotations

import sys

_LINUX = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks the kernel for a SIGTERM at the parent's death; the parent may have died before that was said."""

_POSIX = """\
import os, signal, sys
program = os.getpid()
if os.fork() == 0:
    os.closerange(1, 4096)
    while os.read(0, 1):
        pass
    if os.getppid() == program:
        os.kill(program, signal.SIGTERM)
    os._exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Leaves a watcher behind whose read on stdin ends when the parent, the only writer, has gone."""


def guarded(argv: list[str], *, parent_pid: int, platform: str = sys.platform) -> list[str]:
    """The command line that runs `argv` under the same pid, to be started with a pipe as its stdin.

    On Linux the guard ends with the *thread* that started the program, so start it from a thread that stays.
    A preexec function would do the same, but may deadlock in a process with threads.
    """
    script = _LINUX if platform == "linux" else _POSIX
    return [sys.executable, "-I", "-S", "-c", script, str(parent_pid), *argv]
