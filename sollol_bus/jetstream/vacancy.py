"""Why nobody is in an office, for those who miss one."""

from __future__ import annotations

from typing import Final

from sollol_bus.errors import BusError, NotPermitted
from sollol_bus.jetstream.api import JetStreamRefused
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.office import found_in
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.topology import is_clustered
from sollol_schemas import stores

_ANSWER_S: Final = 1.0
NO_QUORUM: Final = (
    "the NATS servers have no quorum: the one reached here does not reach most of its cluster, or the one that keeps "
    "the offices; mend the way between them"
)
"""Why a cluster stores nothing."""
_NO_STORE: Final = (
    "the store does not answer: the link to its server is broken, JetStream is off there, or the disk is full"
)


def nobody(actor: str) -> str:
    """What is told where nothing is known but that nobody is in the office of an actor."""
    return f"no {actor} is in office; start `sollol up` or `sollol {actor}`, or mend the link to it"


async def why_vacant(bus: Bus, office: str) -> str:
    """Why nobody answers for an office and what to do, in one sentence; takes about a second at most.

    Args:
        bus: Any connection.
        office: The office's key, which is also its actor's name.
    """
    try:
        entry = await Bucket(bus, stores.OFFICES_BUCKET, timeout_s=_ANSWER_S).get(office)
    except NotPermitted:
        return f"{nobody(office)}, or to most servers of the NATS cluster" if is_clustered(bus) else nobody(office)
    except BusError as error:
        if isinstance(error, JetStreamRefused) and error.is_not_found:
            return nobody(office)  # nobody has ever held one here
        return f"no {office} can come into office: {NO_QUORUM if is_clustered(bus) else _NO_STORE}"
    holder = found_in(entry).holder
    if holder is None or not holder.instance:
        return nobody(office)
    return (
        f"no {office} answers: {holder.instance} holds the office and is gone or cut off, and another that runs "
        f"succeeds it after {holder.tenure_s} s; start `sollol {office}`, or mend the link to it"
    )
