"""A node that wakes others, and how it tells of one that did not work."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sollol_agents.node.config import NodeConfig
from sollol_agents.node.control.sleeping import Sleeping
from sollol_agents.node.control.wakes import Wakes
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_schemas.control import ControlWake


@pytest.mark.parametrize(("command", "level"), [("true", logging.INFO), ("false", logging.WARNING)])
async def test_a_wake_that_failed_is_a_warning(command: str, level: int, caplog: pytest.LogCaptureFixture) -> None:
    begun: list[Coroutine[Any, Any, None]] = []
    bus, msg = cast("Bus", SimpleNamespace(is_connected=False)), cast("Msg", SimpleNamespace(reply="r"))
    config = NodeConfig(wake_commands={"den": command})
    wakes = Wakes(
        bus,
        config,
        cast("Sleeping", None),
        cast("Any", lambda work, **_: begun.append(work)),
        node_id="attic",
        instance="i",
    )
    with caplog.at_level(logging.INFO, "sollol_agents.node.control.wakes"):
        wakes.on_request(ControlWake(node_id="den"), msg)
        await begun[0]
    assert [record.levelno for record in caplog.records] == [level]
    assert "wakes den: " in caplog.text
