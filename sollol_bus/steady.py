"""Seconds that no step of the machine's clock moves, and that run on while the machine is suspended."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

_BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)

#: Seconds. Linux's CLOCK_MONOTONIC stands still while the machine sleeps, so a lease would outlive its giver's
#: promise, and an instant would be told too early; CLOCK_BOOTTIME does not. Other systems' monotonic clocks run on by
#: themselves.
steady_s: Callable[[], float] = time.monotonic if _BOOT_TIME is None else partial(time.clock_gettime, _BOOT_TIME)
