"""How jobs are kept in JetStream: written once, through any outage.

A write whose answer was lost may have happened. Every write here therefore says what must be there before, and when
it is refused looks at what is there: if it is what was to be written, it had happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nats.errors import Error as ClientError

from sollol_bus.errors import BusError, DecodeFailed, PayloadTooLarge
from sollol_bus.jetstream.api import JetStreamRefused
from sollol_bus.waiting import delays

log = logging.getLogger(__name__)

T = TypeVar("T")
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
ANSWER_S = 3.0


async def persistently(act: Callable[[], Awaitable[T]], what: str) -> T:
    """The result of `act`, tried again until JetStream takes it.

    Raises:
        PayloadTooLarge: It can never be taken.
        DecodeFailed: What is stored is not what it should be, and stays so.
    """
    for delay_s in delays(_FIRST_RETRY_S, _LAST_RETRY_S):
        try:
            return await act()
        except (PayloadTooLarge, DecodeFailed):
            raise
        except (BusError, ClientError, TimeoutError) as error:
            level = logging.WARNING if isinstance(error, JetStreamRefused) else logging.DEBUG
            log.log(level, "%s: again in %.1f s: %s", what, delay_s, error, extra={"action": "job_store_retry"})
        await asyncio.sleep(delay_s)
    raise AssertionError("it is tried for ever")
