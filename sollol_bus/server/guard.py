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

_IN_BATCHES = """\
import contextlib, os
with contextlib.suppress(OSError):
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
"""
"""Does without preempting others; where that is forbidden, it preempts."""

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


def guarded(
    argv: list[str], *, parent_pid: int, is_in_batches: bool = False, platform: str = sys.platform
) -> list[str]:
    """The command line that runs `argv` under the same pid, to be started with a pipe as its stdin.

    Args:
        argv: The program, by its whole path, and its arguments.
        parent_pid: Whom it ends with.
        is_in_batches: Linux: when something comes for it, it waits for its turn instead of interrupting whoever
            runs, and so finds more at once.
        platform: As in `sys.platform`.

    On Linux the guard ends with the *thread* that started the program, so start it from a thread that stays.
    A preexec function would do the same, but may deadlock in a process with threads.
    """
    script = _POSIX
    if platform == "linux":
        script = _IN_BATCHES + _LINUX if is_in_batches else _LINUX
    return [sys.executable, "-I", "-S", "-c", script, str(parent_pid), *argv]
