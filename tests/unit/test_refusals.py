"""Refusals that a person can act on: one sentence, nodes grouped by reason, what was meant, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sollol_agents.cli import __main__ as main
from sollol_agents.cli import exit_codes
from sollol_agents.cli.commands.node_operations import not_there
from sollol_agents.node.engines.refusals import refusal
from sollol_bus.errors import NotConnected, NotPermitted, RequestTimedOut, SollolError, UnknownModel, error_from
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connecting import advice
from sollol_schemas.decision import Rejection, RejectionReason
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.nearest import did_you_mean, nearest
from sollol_schemas.plain_words import in_plain_words
from sollol_schemas.queries import ModelView
from sollol_schemas.refused import grouped
from sollol_schemas.routing import InvalidRouting, Routing, parse_routing

R = RejectionReason
MODELS = ("llama3.1:8b", "qwen2.5-coder:32b-instruct-q4_K_M", "nomic-embed-text:latest")
THERE = tuple(ModelView(name=name, installed_on=("den",)) for name in MODELS)


def body(code: ErrorCode, message: str, **details: Any) -> SollolError:
    return error_from(ErrorBody(code=code, message=message, details=details))


def refused(reason: R, *names: str, detail: str = "") -> list[Rejection]:
    return [Rejection(node_id=name, reason=reason, detail=detail) for name in names]


MISSING = refused(R.MODEL_MISSING, *(f"node-{n}" for n in range(1, 10)))
SMALL = refused(R.DOES_NOT_FIT, "laptop", detail="needs 21.3 GiB, has 7.8 GiB")
LITTLE = refused(R.TOO_LITTLE_VRAM, "desk", detail="17.3 GiB free") + refused(
    R.TOO_LITTLE_VRAM, "den", detail="0 GiB free"
)


def no_place(rejections: list[Rejection]) -> SollolError:
    reasons = {r.node_id: f"{r.reason.value}: {r.detail}" for r in rejections}
    return body(ErrorCode.NO_ELIGIBLE_NODE, f"no node can serve 'llama3.3:70b': {grouped(rejections)}", nodes=reasons)


REFUSALS: dict[str, SollolError] = {
    "a model with a slip": body(
        ErrorCode.UNKNOWN_MODEL, "model 'lama3.1' not found", model="lama3.1", models=list(MODELS)
    ),
    "a model nobody has": body(
        ErrorCode.UNKNOWN_MODEL, "model 'zephyr' not found", model="zephyr", models=list(MODELS), groups=["auto"]
    ),
    "a node with a slip": body(
        ErrorCode.UNKNOWN_NODE, "node dsek is not on the bus", node="dsek", known=["desk", "laptop"]
    ),
    "too small and not installed": no_place(SMALL + MISSING),
    "too little free": no_place(LITTLE),
    "draining": no_place(refused(R.DRAINING, "desk", "laptop")),
    "every reason": no_place([r for n, reason in enumerate(RejectionReason) for r in refused(reason, f"n{n}")]),
    "nobody there": body(ErrorCode.NO_NODES, "no node has joined"),
    "a full queue": body(ErrorCode.QUEUE_FULL, "200 requests of priority 5 are waiting already"),
    "load where it is not": not_there(UnknownModel("x"), "laptop", "llama3.1:8b", THERE),
    "unload where it is not": not_there(UnknownModel("x"), "laptop", "llama3.1:8b", THERE, is_wanted=False),
    "load with a slip": not_there(UnknownModel("x"), "laptop", "llama3.1-8b", THERE),
    "nobody listens here": NotConnected(f"nobody listens: {advice('refused', 'nats://127.0.0.1:4222')}"),
    "nobody listens there": NotConnected(f"nobody listens: {advice('refused', 'nats://den:4222')}"),
    "a certificate of somebody else": NotConnected(f"no: {advice('CERTIFICATE_VERIFY_FAILED', 'tls://den:4222')}"),
    "a certificate of another name": NotConnected(f"no: {advice('Hostname mismatch', 'tls://den:4222')}"),
    "not for clients": NotPermitted("these credentials may not publish to sollol.v1.admin.node.drain"),
    "not for nodes": NotPermitted("these credentials may not publish to sollol.v1.nodes"),
    "no such group": body(ErrorCode.UNKNOWN_MODEL, "no group is called 'h'; there are auto", groups=["auto"]),
    "no answer": RequestTimedOut("no answer on sollol.v1.nodes within 5 s"),
}


def test_refusals_read_as_they_were_kept(assert_kept: Callable[[str, str], None]) -> None:
    assert_kept("refusals", "".join(f"# {name}\n{exit_codes.line_of(error)}\n\n" for name, error in REFUSALS.items()))


COMMAND_LINES = (
    ["jbs"],
    ["jobs", "get", "x"],
    ["jobs", "lst"],
    ["strategy", "nope"],
    ["drain"],
    ["init", "here", "there"],
    ["nodes", "--foo"],
    ["nodes", "--jsn"],
    ["generate", "m", "hi", "--mode", "fast"],
    ["generate", "m", "hi", "--priority", "99"],
    ["generate", "m", "hi", "--option", "temperature"],
    ["generate", "m", "hi", "--format", "nope"],
    ["up", "--nats-port", "99999"],
    ["set", "den"],
    ["set", "den", "--weight", "0"],
    ["set", "den", "--label", "x"],
    ["usage", "--since", "yesterday"],
    ["discover", "10.0.0.0/8"],
    ["discover", "gpu*"],
    ["join", "abc"],
    ["invite", "node", "a b"],
    ["invite", "nod", "desk"],
    ["fleet", "revoke", "a b"],
    ["warm", "m", "--system", "no-such-file"],
)


def test_command_lines_are_refused_as_it_was_kept(
    assert_kept: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ""
    for argv in COMMAND_LINES:
        assert main.run(argv) == exit_codes.USAGE, argv
        kept += f"$ sollol {' '.join(argv)}\n{capsys.readouterr().err}\n"
    assert_kept("command_lines", kept)


VALUES: dict[str, tuple[type[msgspec.Struct], object]] = {
    "a text for a number": (Routing, {"priority": "x"}),
    "too large": (Routing, {"priority": 99}),
    "too small": (Routing, {"deadline_s": 0}),
    "too long": (Routing, {"task_type": "x" * 65}),
    "signs": (Routing, {"node_id": "a b"}),
    "a number for a text": (Routing, {"session_id": 5}),
    "a choice": (Routing, {"routing_mode": "swift"}),
    "missing": (ErrorBody, {"code": "busy"}),
    "inside": (ErrorBody, {"code": "busy", "message": "m", "details": {"a": 1}, "status": "x"}),
    "no object": (ErrorBody, 5),
}


def test_a_decoders_reasons_are_told_in_words(assert_kept: Callable[[str, str], None]) -> None:
    kept = ""
    for name, (kind, value) in VALUES.items():
        with pytest.raises(msgspec.ValidationError) as met:
            msgspec.convert(value, kind)
        said = in_plain_words(str(met.value))
        assert "Expected" not in said
        kept += f"# {name}\n{said}\n\n"
    assert_kept("decoding", kept)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"priority": "abc"}, "routing field priority: 'abc' is neither 0 to 10 nor one of critical"),
        ({"priority": 99}, "routing field priority must be a whole number, at most 10"),
        ({"routing_mode": "swift"}, "routing field routing_mode: 'swift' is none of fast"),
    ],
    ids=["name", "range", "mode"],
)
def test_a_routing_field_that_cannot_be_used_is_refused_in_words(given: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRouting) as met:
        parse_routing(given)
    assert str(met.value).startswith(said)


async def test_a_program_that_passes_the_wrong_kind_hears_it_in_pythons_words() -> None:
    client = Client("nats://127.0.0.1:1")
    with pytest.raises(TypeError, match="prompt must be a str, not int"):
        client.generate_stream("m", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model must be a str, not NoneType"):
        await client.generate(None, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="messages must be a list of dicts"):
        client.chat_stream("m", "hi")  # type: ignore[arg-type]


def test_a_path_that_an_engine_has_not_is_named() -> None:
    error = refusal(404, b"404 page not found", "m", "text/plain", "/v1/rerank")
    assert error.message == "404 page not found: the engine has no /v1/rerank"


def test_every_reason_has_its_words() -> None:
    for reason in RejectionReason:
        assert "den" in grouped(refused(reason, "den"))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lama3.1", "llama3.1:8b"),
        ("LLAMA3.1:8B", "llama3.1:8b"),
        ("llama3.1:70b", "llama3.1:8b"),
        ("nomic-embed", "nomic-embed-text:latest"),
        ("zephyr", ""),
        ("", ""),
    ],
)
def test_a_name_that_nobody_knows_is_compared_with_those_there_are(word: str, meant: str) -> None:
    assert nearest(word, MODELS) == meant
    assert did_you_mean(word, MODELS) == (f"; did you mean {meant!r}?" if meant else "")
