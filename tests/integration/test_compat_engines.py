"""The porting layer over two emulated engines of one machine, in the words that the documents' programs use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_bus.compat import SOLLOL
from sollol_bus.loop_thread import LoopThread

PROMPT = "count down from 2"


@pytest.fixture(scope="module")
def sollol() -> Iterator[SOLLOL]:
    thread = LoopThread("engines", "stopped")
    thread.start()
    config = EmulatorConfig(model=("m=1",), preload=("m",), decode_tps=500.0, parallel=4)
    engines = [EmulatedNode(config) for _ in range(2)]
    for engine in engines:
        thread.run(engine.__aenter__())
    with SOLLOL(hosts=[engine.url for engine in engines], gateway_port=0) as running:
        yield running
    for engine in engines:
        thread.run(engine.__aexit__(None, None, None))
    thread.stop()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_host_of_both_engines_is_served_by_one_of_them(sollol: SOLLOL, name: str, *, strict: bool) -> None:
    answer = sollol.generate("m", PROMPT, node_id=name, strict=strict)
    assert answer["node_id"] in sollol.nodes
    assert answer["routing_decision"]["requested_node"] == name


def test_a_floor_that_nobody_fell_below_leaves_out_nobody(sollol: SOLLOL) -> None:
    answer = sollol.generate("m", PROMPT, routing_mode="RELIABLE", priority=8, min_success_rate=0.98)
    assert answer["routing_decision"]["mode"] == "reliable"
    assert answer["_sollol_routing"]["reasoning"] == answer["routing_decision"]["reason"]


def test_a_plain_program_streams_by_a_keyword(sollol: SOLLOL) -> None:
    chunks = list(sollol.chat("m", PROMPT, stream=True))
    assert "".join(chunk.get("message", {}).get("content", "") for chunk in chunks)
    assert chunks[-1]["node_id"] in sollol.nodes
    assert "".join(chunk.get("response", "") for chunk in sollol.generate("m", PROMPT, stream=True))


def test_the_status_says_the_port_that_was_found(sollol: SOLLOL) -> None:
    assert sollol.get_status()["port"] == int(sollol.gateway_url.rpartition(":")[2]) > 0
