"""Bodies that would make an engine load a model anew, and what becomes of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sollol_agents.node.attempts.load_options import (
    RunnerOptions,
    Spared,
    duration_s,
    without_load_options,
)
from sollol_agents.node.engines.ollama_wire import RUNNER_OPTIONS
from sollol_bus.errors import BadRequest
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode

KEEP, ERROR, ALLOW = RunnerOptions.KEEP, RunnerOptions.ERROR, RunnerOptions.ALLOW


def care(fields: dict[str, Any] | bytes, rule: RunnerOptions = KEEP, **more: Any) -> Spared:
    body = fields if isinstance(fields, bytes) else msgspec.json.encode({"model": "m", "prompt": "hi"} | fields)
    known: dict[str, Any] = {"keep_alive_s": 1800.0, "context_tokens": 4096, "prompt_tokens": 100}
    kind = more.pop("kind", RequestKind.GENERATE)
    return without_load_options(kind, body, rule, **(known | more))


def fields_of(cared: Spared) -> dict[str, Any]:
    return msgspec.json.decode(cared.body, type=dict[str, Any])


def test_a_body_without_touchy_fields_gets_the_keep_alive_and_stays_byte_for_byte() -> None:
    body = b'{ "model":"m","prompt":"\xc3\xa4\\u00e4 1.50"}'
    assert care(body).body == b'{"keep_alive":1800,"model":"m","prompt":"\xc3\xa4\\u00e4 1.50"}'
    assert care(body, keep_alive_s=None).body == body
    assert fields_of(care({}, keep_alive_s=-1.0))["keep_alive"] == -1


@pytest.mark.parametrize("name", RUNNER_OPTIONS)
def test_a_runner_option_is_left_out_and_named_and_other_options_stay(name: str) -> None:
    cared = care({"options": {name: 7, "temperature": 0.5}})
    assert cared.left_out == (f"options.{name}",)
    assert fields_of(cared)["options"] == {"temperature": 0.5}


@pytest.mark.parametrize("name", RUNNER_OPTIONS)
def test_under_error_the_request_is_refused_by_the_options_name(name: str) -> None:
    with pytest.raises(BadRequest, match=f"options.{name}") as caught:
        care({"options": {name: 7}}, ERROR)
    assert caught.value.body.code is ErrorCode.UNSUPPORTED_FIELD


def test_under_allow_and_for_passthrough_nothing_is_touched() -> None:
    body = b'{"model":"m","prompt":"hi","options":{"num_ctx":8192},"keep_alive":0}'
    assert care(body, ALLOW) == Spared(body)
    assert care(body, kind=RequestKind.PASSTHROUGH) == Spared(body)


@pytest.mark.parametrize(
    ("num_ctx", "prompt_tokens", "num_predict", "stays"),
    [(32768, 100, None, False), (32768, 6000, None, True), (2048, 6000, None, False), (8192, 4000, 500, True)],
    ids=["fits anyway", "prompt too long", "smaller than loaded", "answer too long"],
)
def test_num_ctx_stays_when_the_prompt_would_be_cut_without_it(
    num_ctx: int, prompt_tokens: int, num_predict: int | None, stays: bool
) -> None:
    options = {"num_ctx": num_ctx} | ({"num_predict": num_predict} if num_predict else {})
    cared = care({"options": options}, prompt_tokens=prompt_tokens)
    assert ("num_ctx" in fields_of(cared)["options"]) is stays
    assert cared.left_out == (() if stays else ("options.num_ctx",))


@pytest.mark.parametrize(
    ("asked", "wanted", "result", "left_out"),
    [
        (0, 1800.0, 1800, ("keep_alive",)),
        ("5m", 1800.0, 1800, ("keep_alive",)),
        ("2h", 1800.0, "2h", ()),
        (-1, 1800.0, -1, ()),
        ("10m", -1.0, -1, ("keep_alive",)),
        ("soon", 1800.0, "soon", ()),
        (None, 300.0, 300, ()),
    ],
    ids=["unload", "shorter", "longer", "for ever", "ours is for ever", "nonsense", "null"],
)
def test_a_caller_may_lengthen_the_stay_of_a_model_but_not_shorten_it(
    asked: object, wanted: float, result: object, left_out: tuple[str, ...]
) -> None:
    cared = care({"keep_alive": asked}, keep_alive_s=wanted)
    assert fields_of(cared)["keep_alive"] == result
    assert cared.left_out == left_out


@pytest.mark.parametrize("empty", [{}, {"prompt": ""}, {"messages": []}], ids=["nothing", "no prompt", "no messages"])
def test_the_idiom_that_loads_or_unloads_passes_untouched(empty: dict[str, Any]) -> None:
    body = msgspec.json.encode({"model": "m", "keep_alive": 0} | empty)
    assert care(body) == Spared(body)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"num_ctx": ', b'{"options":7,"num_ctx":1,"prompt":"x"}', b"{}"])
def test_what_is_no_usable_body_is_left_to_the_engine(body: bytes) -> None:
    assert care(body, keep_alive_s=None).left_out == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("-1s", -1.0),
        ("1.5s", 1.5),
        (300, 300.0),
        ("300", None),
        ("", None),
        (True, None),
        ("1..5s", None),
    ],
)
def test_durations_are_read_as_the_engine_reads_them(text: object, seconds: float | None) -> None:
    assert duration_s(text) == seconds
