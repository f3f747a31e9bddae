"""What every test needs.

Async tests run on uvloop, as the actors do; `SOLLOL_TEST_LOOP=asyncio` runs them on asyncio's own loop, which with
`PYTHONASYNCIODEBUG=1` also complains about slow callbacks and forgotten coroutines.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import threading
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

# how long an example takes says how busy the machine is
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("glance", settings.get_profile("busy"), max_examples=10)  # where all was tried before
settings.load_profile(os.environ.get("SOLLOL_TEST_PROFILE", "busy"))


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


STACKS_BEFORE_S = 10
"""How long before a test's time is over its stacks are shown."""


def pytest_configure(config: pytest.Config) -> None:
    """What a hanging test waits for goes to this process's own stderr: of a worker nothing else is seen."""
    config.stash[_STDERR] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watches the whole of a test, what its fixtures do before and after it too."""
    marked = item.get_closest_marker("timeout")
    limit_s = float(marked.args[0] if marked is not None else item.config.getini("timeout"))
    timer = threading.Timer(limit_s - STACKS_BEFORE_S, _say_stacks, (item.nodeid, item.config.stash[_STDERR]))
    timer.daemon = True
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


_STDERR = pytest.StashKey[int]()


def _say_stacks(test: str, stderr: int) -> None:
    with open(stderr, "w", closefd=False) as out:
        out.write(f"\n{test} hangs; its tasks and threads:\n")
        for task in [one for one in gc.get_objects() if isinstance(one, asyncio.Task) and not one.done()]:
            task.print_stack(file=out)
        out.flush()
        faulthandler.dump_traceback(out)


@pytest.fixture(scope="session", autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    """Fails a test in which our code makes a blocking call on the event loop; watches once for all, which is dear."""
    ours = ["sollol_bus", "sollol_agents"]
    with blockbuster_ctx(scanned_modules=ours, excluded_modules=["sollol_agents.lab.testing"]):
        yield
