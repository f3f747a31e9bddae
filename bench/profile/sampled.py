"""Runs a module with a sampling profiler of processor time in its process.

    python -m bench.profile.sampled FILE MODULE [ARGUMENT …]

SIGUSR1 begins, SIGUSR2 ends and writes FILE: one line per stack, frames from the outermost, each `file:function`, and
how many samples it has. The clock is the process's own (ITIMER_PROF), so that a busy machine changes nothing. What C
code does is seen at the line that called it; what other threads do, SQLite's for one, at the event loop that waits.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

EVERY_S: Final = 0.002
"""Processor seconds between two samples."""


class Sampler:
    """Counts stacks while the timer runs.

    Args:
        out: Where the counts go.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._counts: Counter[tuple[CodeType, ...]] = Counter()

    def install(self) -> None:
        """Lets signals begin and end it."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.signal(signal.SIGUSR1, self._begin)
        signal.signal(signal.SIGUSR2, self._end)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        codes = []
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        self._counts[tuple(reversed(codes))] += 1

    def _begin(self, *_: object) -> None:
        self._counts.clear()
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def _end(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        lines = [f"{';'.join(map(_named, stack))} {count}\n" for stack, count in self._counts.items()]
        unfinished = self._out.with_suffix(".part")
        unfinished.write_text("".join(lines))
        unfinished.rename(self._out)  # whoever waits for the file finds it whole


def _named(code: CodeType) -> str:
    return f"{code.co_filename.replace(' ', '_')}:{code.co_qualname.replace(' ', '_')}"


def main() -> None:
    """Installs the sampler and becomes the module."""
    out, module = sys.argv[1:3]
    Sampler(Path(out)).install()
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
