"""Waiting for a state that sends no signal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

_POLL_S: Final = 0.01


async def eventually(
    condition: Callable[..., bool | Awaitable[bool]],
    *args: object,
    within_s: float = 60.0,
    complaint: str | Callable[[], str] = "",
) -> None:
    """Returns once a condition, plain or async, holds; it is called with `args`.

    Raises:
        AssertionError: It does not hold in time; `complaint` says what was waited for, or is called for it then.
    """
    try:
        async with asyncio.timeout(within_s):
            while True:
                answer = condition(*args)
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(_POLL_S)  # the state of another process sends no signal
    except TimeoutError as error:
        said = complaint if isinstance(complaint, str) else complaint()
        raise AssertionError(f"not within {within_s:g} s: {said or condition}") from error
