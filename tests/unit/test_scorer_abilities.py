"""Requests go where they can be done: what models can do, and how long a prompt fits."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.cli.commands.listings import variants_of
from sollol_agents.lab.testing.messages import MODEL, loaded, model
from sollol_agents.lab.testing.scorer_stage import Fleet, granted, reasons, refused
from sollol_agents.scorer.office.views import models_reply
from sollol_schemas.context import Ability, RequestKind, TaskContext
from sollol_schemas.decision import RejectionReason
from sollol_schemas.errors import ErrorCode
from sollol_schemas.telemetry import EngineInfo, EngineKind

LLAMA = EngineInfo(kind=EngineKind.OPENAI, url="u")
TALKS = ("completion",)


def chat(kind: RequestKind = RequestKind.CHAT, **fields: Any) -> dict[str, Any]:
    """A request that was read so."""
    return {"context": TaskContext(kind=kind, model=MODEL, **fields)}


def room(tokens: int, **more: Any) -> dict[str, Any]:
    """A node whose engine has so much room for a prompt."""
    return {"engine": LLAMA, "loaded": (loaded(context_length=tokens),), "slots": 64, **more}


# -- what models can do ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ability", [Ability.TOOLS, Ability.VISION, Ability.THINKING, Ability.INSERT, Ability.AUDIO])
def test_a_request_goes_where_the_model_can_do_it(ability: Ability) -> None:
    fleet = Fleet()
    fleet.node("plain", installed=(model(capabilities=TALKS),))
    fleet.node("able", installed=(model(capabilities=(*TALKS, ability.value)),))
    fleet.node("unknown", installed=(model(),), is_draining=True)
    for number in range(4):
        effects = fleet.ask(f"r{number}", **chat(needs=(ability,)))
        assert granted(effects)[f"r{number}"].decision.node_id == "able"
        fleet.end(f"r{number}-1", "able")
    assert reasons(effects)["plain"] is RejectionReason.WRONG_CAPABILITY
    assert fleet.place("simple"), "what needs nothing goes anywhere"


@pytest.mark.parametrize(
    ("needs", "way", "status", "words"),
    [
        ((Ability.TOOLS,), RequestKind.CHAT, 400, "registry.ollama.ai/library/llama3:8b does not support tools"),
        ((Ability.THINKING, Ability.TOOLS), RequestKind.CHAT, 400, '"llama3:8b" does not support thinking'),
        ((Ability.INSERT,), RequestKind.GENERATE, 400, "registry.ollama.ai/library/llama3:8b does not support insert"),
        ((Ability.VISION,), RequestKind.CHAT, 500, '{"error":{"code":500,"message":"image input is not supported'),
        ((Ability.VISION,), RequestKind.GENERATE, 400, '{"error":{"code":400,"message":"Multimodal data provided'),
        ((Ability.EMBEDDING,), RequestKind.EMBED, 501, "This server does not support embeddings."),
        ((Ability.COMPLETION,), "/v1/completions", 400, '"llama3:8b" does not support generate'),
        ((Ability.COMPLETION,), "/v1/messages", 400, '"llama3:8b" does not support chat'),
        ((Ability.EMBEDDING,), "/api/embeddings", 500, "This server does not support embeddings."),
        ((Ability.EMBEDDING,), "/v1/embeddings", 501, "This server does not support embeddings."),
    ],
)
def test_what_no_node_can_do_is_refused_in_an_engines_words_where_it_would_load_the_model(
    needs: tuple[Ability, ...], way: RequestKind | str, status: int, words: str
) -> None:
    fleet = Fleet(warm_up_s=0.0)
    abilities = ("embedding",) if needs == (Ability.COMPLETION,) else TALKS
    fleet.node("a", installed=(model(capabilities=abilities),), loaded=())
    fleet.node("b", installed=(model("other"),))
    kind, path = (way, "") if isinstance(way, RequestKind) else (RequestKind.PASSTHROUGH, way)
    error = refused(fleet.ask("r", **chat(needs=needs, kind=kind, path=path)))["r"]
    assert (error.code, error.http_status) == (ErrorCode.ENGINE_REJECTED, status)
    assert error.message.startswith(words)
    assert error.details["lacks"] == needs[0].value


def test_an_engine_that_has_the_model_in_memory_says_itself_what_no_node_can_do_and_no_other_is_asked() -> None:
    fleet = Fleet(warm_up_s=0.0)
    for node_id in ("cold", "warm", "also"):
        there = () if node_id == "cold" else (loaded(context_length=4096),)
        fleet.node(node_id, installed=(model(capabilities=TALKS),), loaded=there)
    wish = chat(needs=(Ability.VISION,))
    first = fleet.place("r", **wish)
    assert first in {"warm", "also"}
    fleet.end("r-1", first, code=ErrorCode.ENGINE_REJECTED)
    assert fleet.place("r", number=2, excluded=(first,), **wish) == ""
    fleet.node("able", installed=(model(capabilities=(*TALKS, "vision")),), loaded=())
    assert fleet.place("r2", **wish) == "able"


def test_no_engine_is_asked_for_its_words_with_a_context_that_it_would_load_anew() -> None:
    fleet = Fleet(warm_up_s=0.0)
    fleet.node("a", installed=(model(capabilities=TALKS),), loaded=(loaded(context_length=4096),))
    assert fleet.place("larger", **chat(needs=(Ability.VISION,), num_ctx=8192)) == ""
    assert fleet.place("same", **chat(needs=(Ability.VISION,), num_ctx=4096)) == "a"


def test_a_node_that_is_away_and_could_not_do_it_either_changes_no_refusal() -> None:
    fleet = Fleet(warm_up_s=0.0)
    fleet.node("a", installed=(model(capabilities=TALKS),), loaded=())
    fleet.node("away", installed=(model(capabilities=TALKS),), is_draining=True)
    fleet.node("else", installed=(model("other"),), is_draining=True)
    assert refused(fleet.ask("r", **chat(needs=(Ability.TOOLS,))))["r"].code is ErrorCode.ENGINE_REJECTED


def test_what_a_node_that_is_away_may_be_able_to_do_is_no_mistake_of_the_clients() -> None:
    fleet = Fleet()
    fleet.node("a", installed=(model(capabilities=TALKS),))
    fleet.node("b", is_draining=True)
    assert refused(fleet.ask("r", **chat(needs=(Ability.TOOLS,))))["r"].code is ErrorCode.NO_ELIGIBLE_NODE


def test_an_engine_of_another_dialect_is_refused_only_what_it_surely_cannot_do() -> None:
    fleet = Fleet()
    fleet.node("a", engine=LLAMA, installed=(model(capabilities=TALKS),))
    for needs in ((Ability.TOOLS,), (Ability.THINKING,), (Ability.EMBEDDING,)):
        assert fleet.place(f"r-{needs[0].value}", **chat(needs=needs)) == "a"
        fleet.end(f"r-{needs[0].value}-1", "a")
    fleet.node("able", engine=LLAMA, installed=(model(capabilities=(*TALKS, "vision")),))
    assert fleet.place("r", **chat(needs=(Ability.VISION,))) == "able"


# -- how long a prompt fits -----------------------------------------------------------------------------------


def test_a_long_prompt_goes_where_it_fits_and_short_ones_go_anywhere() -> None:
    fleet = Fleet()
    fleet.node("small", **room(2048))
    fleet.node("large", **room(8192))
    effects = fleet.ask("long", **chat(prompt_tokens=5000))
    assert granted(effects)["long"].decision.node_id == "large"
    assert reasons(effects) == {"small": RejectionReason.CONTEXT_TOO_SMALL}
    assert {fleet.place(f"s{n}", **chat(prompt_tokens=100)) for n in range(6)} == {"small", "large"}
    assert {fleet.place(f"l{n}", **chat(prompt_tokens=3000)) for n in range(6)} == {"large"}
    assert fleet.place("answer", **chat(prompt_tokens=100, max_output_tokens=4000)) == "large"
    assert fleet.place("asked", **chat(prompt_tokens=100, num_ctx=4096)) == "large"


def test_a_prompt_that_fits_nowhere_for_sure_goes_where_there_is_most_room_and_the_engine_judges() -> None:
    fleet = Fleet()
    fleet.node("small", **room(2048))
    fleet.node("large", **room(8192))
    assert fleet.place("r", **chat(prompt_tokens=50_000)) == "large"


def test_room_that_is_not_known_is_no_reason_to_refuse() -> None:
    fleet = Fleet()
    fleet.node("small", **room(2048))
    fleet.node("unknown", **room(0, installed=(model(context_length=0),)))
    assert fleet.place("r", **chat(prompt_tokens=5000)) == "unknown"
    fleet.node("unknown", is_draining=True)
    assert fleet.place("r2", **chat(prompt_tokens=5000)) == "small"


def test_an_ollama_gives_what_is_asked_and_else_what_is_loaded() -> None:
    fleet = Fleet()
    fleet.node("trained", installed=(model(context_length=8192),), loaded=(loaded(context_length=2048),), slots=9)
    fleet.node("short", installed=(model(context_length=4096),), loaded=(loaded(context_length=4096),), slots=9)
    assert fleet.place("silent", **chat(prompt_tokens=2500)) == "short"
    assert fleet.place("asks", **chat(prompt_tokens=5000, num_ctx=8192)) == "trained"
    fleet.node("trained", loaded=(loaded(context_length=8192),))
    assert fleet.place("later", **chat(prompt_tokens=5000)) == "trained", "the verdict follows what is loaded"


def test_a_body_that_cannot_ask_gets_what_an_ollama_gives_by_itself() -> None:
    fleet = Fleet()
    fleet.node("grown", installed=(model(usual_context_length=4096),), loaded=(loaded(context_length=16384),), slots=9)
    fleet.node("usual", installed=(model(usual_context_length=8192),), loaded=(loaded(context_length=8192),), slots=9)
    assert fleet.place("plain", **chat(prompt_tokens=5000, kind=RequestKind.PASSTHROUGH)) == "usual"
    assert fleet.place("native", **chat(prompt_tokens=9000)) == "grown"


def test_memory_is_judged_by_the_context_that_a_model_can_have() -> None:
    fleet = Fleet()
    small = model(size_gb=1.0, context_length=8192, kv_bytes_per_token=131_072)
    fleet.node("a", installed=(small,), loaded=(), slots=1)
    assert fleet.place("r", **chat(num_ctx=10_000_000)) == "a"


# -- names of the same weights --------------------------------------------------------------------------------


def test_a_model_is_in_memory_under_every_name_of_its_weights() -> None:
    fleet = Fleet()
    both = (model("chat", digest="d", blob="w"), model("helper", digest="e", blob="w"), model("other", digest="f"))
    fleet.node("warm", installed=both, loaded=(loaded("chat", context_length=8192),), slots=9)
    fleet.node("cold", installed=both, loaded=(), slots=9)
    helper = {"context": TaskContext(kind=RequestKind.CHAT, model="helper", prompt_tokens=10)}
    assert {fleet.place(f"h{n}", **helper) for n in range(3)} == {"warm"}
    node = fleet.core.fleet.nodes["warm"]
    assert node.loaded_context_tokens("helper:latest") == 8192
    assert fleet.core.fleet.holders("helper:latest") == 1
    decision = granted(fleet.effects)["h0"].decision
    assert not decision.forecast.needs_load


def test_names_of_the_same_weights_take_one_place_when_another_model_comes() -> None:
    fleet = Fleet()
    names = [model(f"n{number}", digest="d") for number in range(5)]
    installed = (*names, model("big", 10.0))
    fleet.node("a", installed=installed, loaded=(loaded("n0"),), slots=9)
    granted_ = granted(fleet.ask("r", context=TaskContext(kind=RequestKind.CHAT, model="big")))
    assert granted_["r"].decision.node_id == "a"
    assert fleet.core.fleet.nodes["a"].attempts["r-1"].evicts == ()


def test_it_is_said_where_nodes_have_something_else_under_one_name() -> None:
    fleet = Fleet()
    for node_id, digest, bits in (("a", "1" * 64, "Q4_K_M"), ("b", "1" * 64, "Q4_K_M"), ("c", "2" * 64, "Q8_0")):
        fleet.node(node_id, installed=(model(digest=digest, quantization=bits), model("same", digest="3" * 64)))
    reply = models_reply(fleet.core)
    assert [bool(one.variants) for one in reply.models if not one.members] == [True, False]
    assert variants_of(reply) == [
        f"{MODEL} is not the same everywhere: Q4_K_M 111111111111 on a, b; Q8_0 222222222222 on c"
    ]
