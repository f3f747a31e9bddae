"""Tells of scale signals: an event, a line of the log, and a post to the address that the operator named.

Posts are few (a model's verdict changes at most once in half a minute), wait in a queue of 64 of which the oldest goes
first when it is full, and are tried five times within two minutes; what is not taken by then is logged. A successor
tells nothing again: the event is in the stream, and the state can be asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sollol_agents.posting import NotPosted, Poster, is_permitted_url
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import ConfigError
from sollol_bus.parts import Part
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.scaling import ScaleEvent, ScaleVerdict

log = logging.getLogger(__name__)

_KEPT: Final = 64
_PAUSES_S: Final = (2.0, 8.0, 30.0, 60.0)


class ScaleSignals(Part):
    """Publishes what `tell` is given, and posts it; `run` is a task of the actor.

    Raises:
        ConfigError: The address cannot be posted to.
    """

    def __init__(self, bus: Bus, config: ScorerConfig, *, pauses_s: tuple[float, ...] = _PAUSES_S) -> None:
        self._bus = bus
        self._url = config.scale_webhook
        host = host_of(self._url) if self._url else ""
        self._poster = Poster(bus.clock, hosts=(host,), secret=config.scale_webhook_secret, is_private_permitted=True)
        self._pauses_s = pauses_s
        self._untold: deque[bytes] = deque(maxlen=_KEPT)
        self._is_due = asyncio.Event()

    def tell(self, event: ScaleEvent) -> None:
        """Tells of one signal."""
        scale = event.scale
        log.log(
            logging.INFO if scale.verdict is ScaleVerdict.ENOUGH else logging.WARNING,
            "slots for %s: %s; %s",
            scale.model,
            scale.verdict.value,
            scale.reason or "enough again",
            extra={"action": "scale", "model": scale.model},
        )
        data = encode(msgspec.structs.replace(event, at=self._bus.clock.instant()))
        self._bus.publish(subjects.SCALE_EVENT, data)
        if self._url:
            self._untold.append(data)
            self._is_due.set()

    async def run(self) -> None:
        """Posts what is told, one after the other."""
        while self._url:
            await self._is_due.wait()
            while self._untold:
                await self._post(self._untold.popleft())
            self._is_due.clear()

    async def close(self) -> None:
        """Closes the connection to the address."""
        await self._poster.close()

    async def _post(self, data: bytes) -> None:
        for pause_s in (*self._pauses_s, None):
            try:
                await self._poster.post(self._url, data)
            except NotPosted as error:
                if pause_s is None:
                    extra = {"action": "scale_webhook"}
                    log.warning(
                        "a scale signal was not taken in %d tries: %s", len(self._pauses_s) + 1, error, extra=extra
                    )
                    return
                await asyncio.sleep(pause_s)
            else:
                return


def host_of(url: str) -> str:
    """The host of the address, with its port where it has one.

    Raises:
        ConfigError: It is no address that signals may be posted to.
    """
    try:
        host = urlsplit(url).netloc
    except ValueError:
        host = ""
    if not host or not is_permitted_url(url, (host,)):
        raise ConfigError(f"scale_webhook {url[:80]!r} must be an http or https address without a user")
    return host
