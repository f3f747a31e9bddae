"""Where `sollol up` listens when somebody has the usual port: engines like the same ones."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from sollol_agents.listening import is_free
from sollol_agents.node.config import NodeConfig
from sollol_agents.node.engines.probing import Probed, probe

log = logging.getLogger(__name__)

_TRIED: Final = 20
_PROBE_S: Final = 1.0


class Place(NamedTuple):
    """A port, and what a person should know about it."""

    port: int
    remark: str = ""


async def settled(
    what: str, flag: str, host: str, port: int, usual: int, *, is_wanted: bool = True, but: int = 0
) -> Place:
    """The port to listen on: the next free one where a stranger has the usual one.

    A port that was chosen is kept, and so is one that another SOLLOL has: whoever starts a second one is to hear it.

    Args:
        what: Listens there.
        flag: Chooses the port.
        host: The address.
        port: As configured.
        usual: The default.
        is_wanted: Whether it listens at all.
        but: A port that is promised already.
    """
    if not is_wanted or port != usual or (is_free(host, port) and port != but):
        return Place(port)
    there = await probe(NodeConfig(url=f"http://127.0.0.1:{port}"), timeout_s=_PROBE_S)
    if there.is_ours:
        return Place(port)
    free = next((p for p in range(port + 1, port + _TRIED) if p != but and is_free(host, p)), port)
    if free == port:
        return Place(port)
    remark = f"the {what} is at port {free}, since {_whose(there)} has {port}; {flag} chooses another"
    log.info("%s", remark, extra={"action": "port_moved"})
    return Place(free, remark)


def _whose(there: Probed) -> str:
    return "another program" if there.kind is None else "an engine"
