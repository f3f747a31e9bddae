"""What exists in JetStream, made so that any number of actors may make it at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, TypeVar

import msgspec

from sollol_bus.errors import BusError, ConfigError, NoResponders, NotConnected, RequestTimedOut
from sollol_bus.jetstream.api import TEMPORARY, JetStreamRefused, api
from sollol_bus.transport.connection import Bus
from sollol_schemas import stores, subjects

log = logging.getLogger(__name__)

T = TypeVar("T")

ELECTION_S: Final = 15.0
"""So long the servers of a cluster may take to choose their leaders."""

EVENTS_MAX_AGE_S = 24 * 3600.0
EVENTS_MAX_BYTES = 1 << 30
LEAST_STREAM_BYTES = 8 << 20
DUPLICATE_WINDOW_S = 120.0

_EXISTS = 10058
_OFF = frozenset({10035, 10039, 10076})
_NO_ROOM = frozenset({10023, 10028, 10047})
_RETRY_S = 0.1
_SLOW_DISK_S = 15.0


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as this software wants it; limits are -1 or 0 when there is none."""

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "workqueue"] = "limits"
    storage: Literal["file", "memory"] = "file"
    discard: Literal["old", "new"] = "old"
    max_age_s: float = 0.0
    max_bytes: int = -1
    max_msgs: int = -1
    max_msgs_per_subject: int = -1
    duplicate_window_s: float = DUPLICATE_WINDOW_S
    allow_direct: bool = True
    allow_rollup_hdrs: bool = False
    deny_delete: bool = False
    allow_msg_ttl: bool = False
    allow_msg_schedules: bool = False
    compression: Literal["none", "s2"] = "none"

    def structure(self) -> dict[str, Any]:
        """The settings that the software depends on, as the server names them; enforced on an old stream too."""
        wanted: dict[str, Any] = {
            "name": self.name,
            "subjects": list(self.subjects),
            "discard": self.discard,
            "allow_direct": self.allow_direct,
            "allow_rollup_hdrs": self.allow_rollup_hdrs or self.allow_msg_schedules,  # the server has it so
        }
        about = stores.ABOUT.get(self.name.removeprefix("KV_").removeprefix("OBJ_"), "")
        if about:
            wanted["description"] = about
        if self.allow_msg_ttl:
            wanted["allow_msg_ttl"] = True
        if self.allow_msg_schedules:
            wanted["allow_msg_schedules"] = True
        return wanted

    def limits(self, replicas: int) -> dict[str, Any]:
        """The settings of a new stream that are its operator's from then on."""
        window_s = min(self.duplicate_window_s, self.max_age_s or self.duplicate_window_s)
        return {
            "retention": self.retention,
            "storage": self.storage,
            "max_age": _ns(self.max_age_s),
            "max_bytes": self.max_bytes,
            "max_msgs": self.max_msgs,
            "max_msgs_per_subject": self.max_msgs_per_subject,
            "deny_delete": self.deny_delete,
            "duplicate_window": _ns(window_s),
            "num_replicas": replicas,
            "compression": self.compression,
        }


def bucket_spec(bucket: str, *, history: int = 1) -> StreamSpec:
    """The stream behind a key-value bucket, laid out as every NATS client expects it."""
    return StreamSpec(
        name=f"KV_{bucket}",
        subjects=(f"$KV.{bucket}.>",),
        discard="new",
        max_msgs_per_subject=history,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_msg_ttl=True,
    )


#: The events of the fleet, compressed there; and the buckets. All lie on disk: the revisions of offices and node claims
#: are fencing tokens, and a bucket in memory would begin again at 1 after a restart of the server.
STREAMS: tuple[StreamSpec, ...] = (
    StreamSpec(
        name=stores.EVENTS_STREAM,
        subjects=subjects.STORED_EVENTS,
        max_age_s=EVENTS_MAX_AGE_S,
        max_bytes=EVENTS_MAX_BYTES,
        compression="s2",
    ),
    bucket_spec(stores.NODES_BUCKET),
    bucket_spec(stores.OFFICES_BUCKET),
    bucket_spec(stores.SETTINGS_BUCKET),
    bucket_spec(stores.LEARNED_BUCKET),
)


async def provision(bus: Bus, *, streams: tuple[StreamSpec, ...] = STREAMS, timeout_s: float = 5.0) -> None:
    """Makes every stream and bucket that is missing; any number of actors may do so at once.

    Limits and replicas of a stream that exists are left as they are: they are the operator's.

    Args:
        bus: A connection with the control role; its settings say how many copies a new stream has.
        streams: What to make.
        timeout_s: How long a server that is still coming up is waited for; one that is there and does not answer,
            because its disk stands still, is waited for some seconds more.

    Raises:
        ConfigError: JetStream is off, or has no room.
        BusError: The server did not come up in time, or refused.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    for spec in streams:
        await _ensure_patiently(bus, spec, deadline)


async def patiently(read: Callable[[], Awaitable[T]], *, within_s: float = ELECTION_S) -> T:
    """What is read from the store; servers that choose their leaders, or are coming back, are waited for.

    Args:
        read: Reads, or does what may be done twice.
        within_s: So long it is tried again.

    Raises:
        BusError: It is not there, or the servers did not come back in time.
    """
    loop = asyncio.get_running_loop()
    deadline, is_told = loop.time() + within_s, False
    while True:
        try:
            return await read()
        except (NoResponders, NotConnected, RequestTimedOut, JetStreamRefused) as error:
            if loop.time() >= deadline or not _is_temporary(error):
                raise
            if not is_told:
                log.info("the store is waited for: %s", error, extra={"action": "store_awaited"})
                is_told = True
        await asyncio.sleep(_RETRY_S)


async def _ensure_patiently(bus: Bus, spec: StreamSpec, deadline: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            await ensure_stream(bus, spec)
        except (BusError, TimeoutError) as error:
            fatal = _as_config_error(error, spec, is_late=loop.time() >= deadline)
            if fatal is not None:
                raise fatal from error
            patience_s = _SLOW_DISK_S if isinstance(error, RequestTimedOut) else 0.0
            if loop.time() >= deadline + patience_s or not _is_temporary(error):
                raise
            await asyncio.sleep(_RETRY_S)
        else:
            return


def _is_temporary(error: Exception) -> bool:
    return not isinstance(error, JetStreamRefused) or error.err_code in TEMPORARY


def _as_config_error(error: Exception, spec: StreamSpec, *, is_late: bool) -> ConfigError | None:
    """What the operator must change, when that is certain by now."""
    if isinstance(error, JetStreamRefused):
        if error.err_code in _OFF:
            return ConfigError("JetStream is not enabled for this account on the NATS server; enable it there")
        if error.err_code in _NO_ROOM and (is_late or error.err_code not in TEMPORARY):
            return ConfigError(f"the NATS server has no room for {spec.name} (max_bytes={spec.max_bytes}): {error}")
    if isinstance(error, NoResponders) and is_late:
        return ConfigError(
            "JetStream is off on the NATS server; start nats-server with -js, or add a jetstream block to its "
            "configuration"
        )
    return None


async def ensure_stream(bus: Bus, spec: StreamSpec) -> None:
    """Makes one stream, or brings an old one up to what the software depends on.

    One that is there is used as it is: making it again would ask for its room a second time. A new one asks for less
    where there is less: half, and half again, down to `LEAST_STREAM_BYTES`.
    """
    try:
        await _update_stream(bus, spec)
    except JetStreamRefused as error:
        if not error.is_not_found:
            raise
        await _make_stream(bus, spec)


async def _make_stream(bus: Bus, spec: StreamSpec) -> None:
    limits = spec.limits(bus.config.stream_replicas)
    limits["max_bytes"] = min(spec.max_bytes, bus.config.stream_bytes)
    while True:
        try:
            await api(bus, f"STREAM.CREATE.{spec.name}", spec.structure() | limits)
        except JetStreamRefused as error:
            if error.err_code == _EXISTS:
                await _update_stream(bus, spec)
                return
            if error.err_code not in _NO_ROOM or limits["max_bytes"] < 2 * LEAST_STREAM_BYTES:
                raise
            limits["max_bytes"] //= 2
        else:
            break
    if limits["max_bytes"] < spec.max_bytes:
        kept = limits["max_bytes"] >> 20
        extra = {"action": "stream_small", "kept_mib": kept}
        log.warning("%s keeps %d MiB at most: the server has little room", spec.name, kept, extra=extra)


async def _update_stream(bus: Bus, spec: StreamSpec) -> None:
    info = msgspec.json.decode(await api(bus, f"STREAM.INFO.{spec.name}"))
    current: dict[str, Any] = info["config"]
    wanted = current | spec.structure()
    # a newer version may run beside this one: what it added stays
    wanted["subjects"] += [one for one in current.get("subjects") or () if one not in spec.subjects]
    if wanted == current:
        return
    log.info("updating the stream %s", spec.name, extra={"action": "stream_update"})
    try:
        await api(bus, f"STREAM.UPDATE.{spec.name}", wanted)
    except JetStreamRefused as error:
        if error.err_code not in _NO_ROOM:
            raise
        log.warning("%s stays as it is: %s", spec.name, error, extra={"action": "stream_update_refused"})


def _ns(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
