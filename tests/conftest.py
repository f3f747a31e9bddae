"""What every test needs.

Async tests run on uvloop, as the actors do; `SOLLOL_TEST_LOOP=asyncio` runs them on asyncio's own loop, which with
`PYTHONASYNCIODEBUG=1` also complains about slow callbacks and forgotten coroutines.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

# how long an example takes says how busy the machine is
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if os.environ.get("SOLLOL_TEST_LOOP") == "asyncio":
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests and what they import stay: no collection of garbage needs to look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """Fails a test in which our code makes a blocking call on the event loop; watches once for all, which is dear."""
    ours = ["sollol_bus", "sollol_agents"]
    with blockbuster_ctx(scanned_modules=ours, excluded_modules=["sollol_agents.lab.testing"]):
        yield
