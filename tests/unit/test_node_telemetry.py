"""What a node says about itself: settings, engine view, GPUs, figures and outcomes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sollol_agents.node.attempts.outcome import figures_of
from sollol_agents.node.config import NodeConfig, bus_id_from, engine_candidates, engine_url, node_id_of
from sollol_agents.node.control.telemetry import Standing, gpus_of, ram_of, with_vram
from sollol_agents.node.engines.base import EngineInventory, PretendedMachine
from sollol_agents.node.engines.view import EngineView
from sollol_agents.node.machine.host import HostSample, local_addresses, sample_host
from sollol_agents.node.machine.remote import are_here, host_of, is_here, resolved, stated_gpus, unknown_host
from sollol_schemas.context import RequestKind
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, status_of
from sollol_schemas.execution import AttemptDone, Figures
from sollol_schemas.ids import is_bus_id
from sollol_schemas.telemetry import EngineKind, Gpu, InstalledModel, LoadedModel


@pytest.mark.parametrize(
    ("host", "node_id"),
    [("gpu-1.example.org", "gpu-1"), ("Jörg's Mac", "J-rg-s-Mac"), ("...", "node"), ("x" * 80, "x" * 56)],
)
def test_a_host_name_becomes_a_bus_id(host: str, node_id: str) -> None:
    assert bus_id_from(host) == node_id
    assert is_bus_id(node_id)


def test_a_configured_id_wins() -> None:
    assert node_id_of(NodeConfig(node_id="mine"), "host") == "mine"
    assert node_id_of(NodeConfig(), "host.lan") == "host"


def test_the_key_of_the_engine_is_in_no_text() -> None:
    assert "secret" not in repr(NodeConfig(engine_api_key="secret"))


def test_an_id_that_is_no_bus_id_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"node_id": "a.b"}, NodeConfig)


def test_auto_looks_for_ollama_first() -> None:
    assert engine_candidates(NodeConfig()) == (
        (EngineKind.OLLAMA, "http://127.0.0.1:11434"),
        (EngineKind.OPENAI, "http://127.0.0.1:8080"),
    )
    assert engine_candidates(NodeConfig(engine="openai", url="gpu:8000/v1/")) == (
        (EngineKind.OPENAI, "http://gpu:8000"),
    )
    assert engine_url("https://x/v1") == "https://x"
    assert engine_url("x:11434/api/") == "http://x:11434"


def view(**fields: Any) -> EngineView:
    return EngineView(kind=EngineKind.OLLAMA, url="http://x", **fields)


def test_one_silent_answer_proves_nothing_and_two_do_unless_tokens_come() -> None:
    seen = view()
    seen.answered()
    seen.failed("late")
    assert seen.is_reachable(float("inf"))
    seen.failed("late")
    assert not seen.is_reachable(float("inf"))
    assert seen.info(float("inf")).detail == "late"
    assert seen.is_reachable(0.5)
    seen.answered()
    assert seen.is_reachable(float("inf"))


def test_the_view_knows_models_by_any_spelling() -> None:
    seen = view(
        inventory=EngineInventory(installed=(InstalledModel(name="e:latest", slots=1),)),
        loaded=(LoadedModel(name="m:latest", size_bytes=100, vram_bytes=25),),
    )
    assert seen.model_slots("E") == 1
    assert seen.model_slots("other") == 0
    assert seen.gpu_share("M") == 0.25
    seen.note_loaded("new", {})
    seen.note_loaded("m", {})
    assert [one.name for one in seen.loaded] == ["m:latest", "new"]
    seen.note_unloaded("NEW")
    assert [one.name for one in seen.loaded] == ["m:latest"]


def test_names_of_one_models_weights_share_its_place_in_memory() -> None:
    names = ("a:latest", "b:latest", "c:latest")
    seen = view(
        inventory=EngineInventory(installed=tuple(InstalledModel(name=n, blob="w" * (n[0] != "c")) for n in names)),
        loaded=(LoadedModel(name="a:latest", context_length=8192),),
    )
    seen.note_loaded("b", {"num_thread": 2, "num_ctx": 8192})
    in_force = seen.in_force("a")
    assert (in_force.context_tokens, in_force.options) == (8192, {"num_thread": 2})
    assert seen.in_force("b").is_loaded
    assert not seen.in_force("c").is_loaded


def test_a_look_that_began_before_a_model_leaves_says_nothing_of_how_it_is_loaded_later() -> None:
    seen = view()
    seen.saw((LoadedModel(name="m"),))
    seen.note_loaded("m", {"num_batch": 64})
    seen.saw(())
    seen.saw((LoadedModel(name="m"),))
    assert seen.in_force("m").options == {}


def test_the_host_is_sampled() -> None:
    host = sample_host()
    assert host.cpu_count >= 1
    assert host.ram_total_mib >= host.ram_available_mib > 0


def test_an_engine_that_does_not_tell_where_its_model_lies_has_it_on_the_gpu() -> None:
    loaded = (LoadedModel(name="m", size_bytes=5),)
    gpu = (Gpu(index=0, name="g", memory_total_mib=1),)
    assert with_vram(loaded, EngineKind.OPENAI, gpu)[0].vram_bytes == 5
    assert with_vram(loaded, EngineKind.OPENAI, ())[0].vram_bytes == 0
    assert with_vram(loaded, EngineKind.OLLAMA, gpu)[0].vram_bytes == 0


def test_an_emulated_machine_has_its_own_memory() -> None:
    host = HostSample(cpu_count=1, cpu_load_ratio=0, ram_total_mib=10, ram_available_mib=5, name="h")
    assert ram_of(view(), host) == (10, 5)
    pretended = view(
        pretended=PretendedMachine(gpus=(), ram_total_mib=1000.0), loaded=(LoadedModel(name="m", size_bytes=100 << 20),)
    )
    assert ram_of(pretended, host) == (1000.0, 900.0)


@pytest.mark.parametrize(
    ("url", "elsewhere"),
    [
        ("http://127.0.0.1:1", False),
        ("http://[::1]:1", False),
        ("http://192.0.2.1:1", True),
        ("http://x.invalid", True),
    ],
)
async def test_an_engine_is_elsewhere_when_its_address_is_none_of_this_machine(url: str, elsewhere: bool) -> None:
    assert await are_here(await resolved(url)) is not elsewhere


async def test_an_engine_at_any_own_address_is_here() -> None:
    own = local_addresses()
    assert all(is_here(address, own) for address in own if address.count(".") == 3)
    assert is_here("::ffff:127.0.0.1", frozenset())
    assert not is_here("192.0.2.1", own)
    assert host_of("http://[::1") == ""


def test_memory_that_is_stated_is_free_but_for_what_the_engine_loaded() -> None:
    gpus, host = stated_gpus(10), unknown_host("nas", 20)
    model = LoadedModel(name="m", size_bytes=6 << 30, vram_bytes=4 << 30)
    seen = view(loaded=(model,))
    assert [(g.memory_total_mib, g.memory_free_mib) for g in gpus_of(seen, gpus)] == [(10240.0, 6144.0)]
    assert ram_of(seen, host, gpus) == (20480.0, 18432.0)


def test_of_a_machine_elsewhere_nothing_is_told_that_nobody_stated() -> None:
    host = unknown_host("nas", 0)
    assert gpus_of(view(), stated_gpus(0)) == ()
    assert ram_of(view(), host, ()) == (0.0, 0.0)
    assert host.cpu_count == 0


def test_labels_are_merged_and_empty_ones_removed() -> None:
    standing = Standing.of(NodeConfig(labels={"a": "1", "b": "2"}))
    standing.change(3.0, {"b": "", "c": "x"})
    assert (standing.weight, standing.labels) == (3.0, {"a": "1", "c": "x"})


COURSE: dict[str, Any] = {"accepted_at": 10.0, "began_at": 10.5, "first_at": 12.0, "last_at": 16.0, "output_chunks": 4}


def test_the_engines_figures_win_over_the_nodes_clock() -> None:
    told = Figures(prompt_tokens=9, output_tokens=40, prompt_s=0.5, decode_s=2.0, load_s=0.25, slot_wait_s=1.25)
    figures = figures_of(told, **COURSE, now=20.0)
    assert (figures.actual_s, figures.ttft_s, figures.load_s) == (6.0, 2.0, 0.25)
    assert (figures.output_tokens, figures.decode_s, figures.slot_wait_s) == (40, 2.0, 1.25)


def test_without_the_engines_figures_the_nodes_clock_counts() -> None:
    figures = figures_of(Figures(), **COURSE, now=20.0)
    assert (figures.output_tokens, figures.prompt_s, figures.decode_s, figures.slot_wait_s) == (4, 1.5, 4.0, 0.0)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (None, OutcomeStatus.SUCCESS),
        (ErrorCode.ENGINE_FAILED, OutcomeStatus.FAILED),
        (ErrorCode.STALLED, OutcomeStatus.FAILED),
        (ErrorCode.BUSY, OutcomeStatus.FAILED),
        (ErrorCode.INTERNAL, OutcomeStatus.FAILED),
        (ErrorCode.CANCELLED, OutcomeStatus.CANCELLED),
        (ErrorCode.CONNECTION_LOST, OutcomeStatus.CANCELLED),
        (ErrorCode.DEADLINE_EXCEEDED, OutcomeStatus.CANCELLED),
        (ErrorCode.UNKNOWN_MODEL, OutcomeStatus.CLIENT_ERROR),
        (ErrorCode.REPLY_TOO_LARGE, OutcomeStatus.CLIENT_ERROR),
    ],
)
def test_an_end_is_charged_to_whom_it_belongs(code: ErrorCode | None, status: OutcomeStatus) -> None:
    assert status_of(None if code is None else ErrorBody(code=code, message="x")) is status


def test_an_outcome_names_request_attempt_and_node() -> None:
    decision = Decision(request_id="r", attempt_id="r-2", node_id="n", kind=RequestKind.EMBED, attempt=2)
    outcome = Outcome.of_report(decision, AttemptDone(attempt_id="r-2", figures=Figures()))
    assert (outcome.request_id, outcome.attempt_id, outcome.node_id, outcome.decision.attempt) == ("r", "r-2", "n", 2)
    assert outcome.decision.kind is RequestKind.EMBED
