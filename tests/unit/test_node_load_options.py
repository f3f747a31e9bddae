"""Bodies that would make an engine load a model anew, and what becomes of them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from sollol_agents.node.attempts.durations import duration_s
from sollol_agents.node.attempts.load_options import RunnerOptions, Settled, _change_often, settled
from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.ollama_wire import RUNNER_OPTIONS
from sollol_agents.node.engines.runners import InForce
from sollol_bus.errors import BadRequest
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorCode

KEEP, ERROR, ALLOW = RunnerOptions.KEEP, RunnerOptions.ERROR, RunnerOptions.ALLOW
COLD = InForce(trained_tokens=32768)
WARM = InForce(is_loaded=True, context_tokens=4096, automatic_tokens=4096, trained_tokens=32768)
LONG = "x" * 9000
OTHERS = [name for name in RUNNER_OPTIONS if name not in ("num_ctx", "use_mmap")]


def settle(
    fields: dict[str, Any] | bytes,
    in_force: InForce = WARM,
    rule: RunnerOptions = KEEP,
    *,
    kind: RequestKind = RequestKind.GENERATE,
    path: str = "",
    keep_alive_s: float | None = None,
    **more: Any,
) -> Settled:
    body = fields if isinstance(fields, bytes) else msgspec.json.encode({"model": "m", "prompt": "hi"} | fields)
    request = EngineRequest(kind=kind, model="m", body=body, path=path, keep_alive_s=keep_alive_s)
    return settled(request, rule, in_force, **more)


def fields_of(made: Settled) -> dict[str, Any]:
    return msgspec.json.decode(made.body, type=dict[str, Any])


def test_a_body_without_touchy_fields_gets_what_is_in_force_in_front_and_stays_byte_for_byte() -> None:
    body = b'{ "model":"m","prompt":"\xc3\xa4\\u00e4 1.50 \\"options\\": "}'
    made = settle(body, keep_alive_s=1800.0)
    assert made.body == b'{"options":{"num_ctx":4096},"keep_alive":1800,' + body[2:]
    assert made.load is None
    assert settle(body, InForce(is_loaded=True)).body == body
    assert fields_of(settle({}, keep_alive_s=-1.0))["keep_alive"] == -1


def test_a_model_that_is_not_loaded_is_loaded_with_what_is_asked() -> None:
    options = {"num_ctx": 8192, "num_thread": 3, "temperature": 0.5}
    made = settle({"options": options, "shift": False}, COLD)
    assert made.load == {"num_ctx": 8192, "num_thread": 3, "shift": False}
    assert (fields_of(made)["options"], made.left_out) == (options, ())
    assert settle({}, COLD).load == {}


def test_a_request_without_num_ctx_gets_the_one_in_force() -> None:
    larger = WARM._replace(context_tokens=8192)
    made = settle({"prompt": LONG}, larger)
    assert (made.load, fields_of(made)["options"]) == (None, {"num_ctx": 8192})


@pytest.mark.parametrize(
    ("num_ctx", "prompt", "num_predict", "load"),
    [
        (32768, "x" * 1000, None, None),
        (32768, LONG, None, {"num_ctx": 32768}),
        (2048, LONG, None, None),
        (4096, LONG, None, None),
        (8192, "x" * 1000, 4000, {"num_ctx": 8192}),
        (8192.5, LONG, None, {"num_ctx": 8192}),
        (0, LONG, None, None),
        (-1, LONG, None, None),
        (None, LONG, None, None),
    ],
    ids=["fits", "too long", "smaller", "the same", "answer too long", "fraction", "0", "-1", "null"],
)
def test_a_context_grows_when_more_is_asked_for_and_the_prompt_may_not_fit(
    num_ctx: float | None, prompt: str, num_predict: int | None, load: dict[str, int] | None
) -> None:
    options = {"num_ctx": num_ctx} | ({"num_predict": num_predict} if num_predict else {})
    made = settle({"options": options, "prompt": prompt})
    assert made.load == load
    assert fields_of(made)["options"]["num_ctx"] == 4096, "what is loaded, until the load has ended"


def test_what_exceeds_the_training_context_is_not_asked_for_again_and_again() -> None:
    largest = WARM._replace(context_tokens=32768)
    made = settle({"options": {"num_ctx": 99999}, "prompt": "x" * 40000}, largest)
    assert (made.load, made.left_out, fields_of(made)["options"]["num_ctx"]) == (None, (), 32768)


def test_a_context_smaller_than_the_automatic_one_grows_to_it_for_who_asks_for_nothing() -> None:
    smaller = WARM._replace(context_tokens=1024, options={"num_thread": 2})
    assert settle({"prompt": LONG}, smaller).load == {"num_thread": 2}
    assert settle({"prompt": "hi"}, smaller).load is None
    unknown = smaller._replace(automatic_tokens=0)
    assert settle({"prompt": LONG}, unknown).load is None


def test_pictures_count_by_the_estimate() -> None:
    fields = {"options": {"num_ctx": 8192}, "images": ["A" * 90_000]}
    assert settle(fields, prompt_tokens=700).load is None
    assert settle(fields, prompt_tokens=1000).load == {"num_ctx": 8192}


@pytest.mark.parametrize("name", OTHERS)
def test_another_load_option_than_is_in_force_is_left_out_and_named_and_the_rest_stays(name: str) -> None:
    made = settle({"options": {name: 7, "temperature": 0.5}})
    assert made.left_out == (f"options.{name}",)
    assert fields_of(made)["options"] == {"temperature": 0.5, "num_ctx": 4096}


@pytest.mark.parametrize("name", OTHERS)
def test_a_load_option_in_force_is_told_with_every_request(name: str) -> None:
    in_force = WARM._replace(options={name: 7, "shift": False})
    for asked in ({}, {"options": {name: 7}}, {"options": None}):
        made = settle(asked, in_force)
        assert made.left_out == ()
        assert fields_of(made)["options"] == {name: 7, "num_ctx": 4096}
        assert fields_of(made)["shift"] is False
    assert settle({"options": {name: 8}, "shift": True}, in_force).left_out == (f"options.{name}", "shift")


def test_shift_as_it_is_by_itself_is_left_alone_and_another_is_left_out() -> None:
    assert settle({"shift": True}).left_out == ()
    made = settle({"shift": False})
    assert (made.left_out, fields_of(made)["shift"]) == (("shift",), True)


@pytest.mark.parametrize("fields", [{"options": {"num_batch": 7}}, {"options": {"num_ctx": 2048}}, {"shift": False}])
def test_under_error_the_request_is_refused_by_the_options_name(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        settle(fields, rule=ERROR)
    name = next(iter(fields.get("options", {}).keys()), "")
    assert caught.value.body.details["field"] == (f"options.{name}" if name else "shift")
    assert caught.value.body.code is ErrorCode.UNSUPPORTED_FIELD
    assert settle(fields, COLD, ERROR).left_out == ()
    assert settle({"options": {"num_ctx": 4096}}, rule=ERROR).left_out == ()


def test_under_allow_nothing_is_touched() -> None:
    body = b'{"model":"m","prompt":"hi","options":{"num_ctx":8192},"keep_alive":0}'
    assert settle(body, rule=ALLOW).body == body
    assert settle(body, rule=ALLOW).load is None
    assert settle(body, COLD, ALLOW).load == {"num_ctx": 8192}


def test_a_body_that_cannot_carry_options_is_not_touched_and_needs_the_automatic_ones() -> None:
    body = b'{"model":"m","options":{"num_ctx":8192},"keep_alive":0}'
    plain: dict[str, Any] = {"kind": RequestKind.PASSTHROUGH, "path": "/v1/chat/completions"}
    assert settle(body, **plain) == Settled(body)
    assert settle(body, COLD, **plain) == Settled(body, {})
    assert settle(body, WARM._replace(context_tokens=8192), **plain) == Settled(body, {})
    assert settle(body, WARM._replace(options={"num_thread": 1}), **plain) == Settled(body, {})
    old = settle({}, kind=RequestKind.PASSTHROUGH, path="/api/embeddings")
    assert fields_of(old)["options"] == {"num_ctx": 4096}


@pytest.mark.parametrize(
    ("asked", "ours", "result", "left_out"),
    [
        (0, 1800.0, 1800, ("keep_alive",)),
        ("5m", 1800.0, 1800, ("keep_alive",)),
        ("2h", 1800.0, "2h", ()),
        (-1, 1800.0, -1, ()),
        ("10m", -1.0, -1, ("keep_alive",)),
        ("-1", 1800.0, "-1", ()),
        (None, 300.0, 300, ()),
    ],
    ids=["unload", "shorter", "longer", "for ever", "ours is for ever", "nonsense", "null"],
)
def test_a_caller_may_lengthen_the_stay_of_a_model_but_not_shorten_it(
    asked: object, ours: float, result: object, left_out: tuple[str, ...]
) -> None:
    made = settle({"keep_alive": asked}, keep_alive_s=ours)
    assert fields_of(made)["keep_alive"] == result
    assert made.left_out == left_out


def test_a_stay_that_somebody_wanted_longer_is_not_shortened_by_the_next_request() -> None:
    pinned = WARM._replace(floor_s=math.inf)
    assert fields_of(settle({}, pinned, keep_alive_s=300.0))["keep_alive"] == -1
    longer = WARM._replace(floor_s=600.0)
    assert fields_of(settle({}, longer, keep_alive_s=300.0))["keep_alive"] == 600
    assert fields_of(settle({"keep_alive": "1m"}, longer, keep_alive_s=300.0))["keep_alive"] == 600
    assert (settle({"keep_alive": "1h"}, keep_alive_s=300.0).asked_s, settle({}, keep_alive_s=300.0).asked_s) == (
        3600,
        0,
    )


@pytest.mark.parametrize("empty", [{"prompt": ""}, {"messages": [], "prompt": None}], ids=["no prompt", "no messages"])
def test_an_order_to_unload_passes_untouched_and_one_to_keep_a_model_does_not_shrink_it(empty: dict[str, Any]) -> None:
    unload = msgspec.json.encode({"model": "m", "keep_alive": 0} | empty)
    assert settle(unload) == Settled(unload, is_order=True, is_unload=True)
    keep = settle({"keep_alive": "1m"} | empty, WARM._replace(floor_s=math.inf), keep_alive_s=1800.0)
    assert (fields_of(keep)["keep_alive"], fields_of(keep)["options"]) == ("1m", {"num_ctx": 4096})
    assert (keep.asked_s, keep.is_order) == (60.0, True)
    assert "keep_alive" not in fields_of(settle(empty, keep_alive_s=1800.0))
    assert settle(empty | {"options": {"num_ctx": 8192}}).load == {"num_ctx": 8192}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"options": ',
        b'{"options":7,"prompt":"x"}',
        b'{"options":{"num_ctx":"big"},"prompt":"x"}',
        b'{"options":{"num_ctx":true},"prompt":"x"}',
        b'{"options":{"use_mmap":1},"prompt":"x"}',
        b'{"shift":"no","prompt":"x"}',
        b"{}",
    ],
)
def test_what_is_no_usable_body_is_left_to_the_engine(body: bytes) -> None:
    assert settle(body, keep_alive_s=300.0).body == body


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("+5m", 300.0),
        ("-1m", math.inf),
        ("0", 0.0),
        ("1.5s", 1.5),
        (".5s", 0.5),
        (300, 300.0),
        (1.5, 1.0),
        (0.5, 0.0),
        (-1, math.inf),
        (1e30, None),
        (math.nan, None),
        ("300", None),
        ("-1", None),
        ("1d", None),
        ("5M", None),
        (" 5m", None),
        ("99999999h", None),
        ("", None),
        (True, None),
        ([], None),
        ("1..5s", None),
    ],
)
def test_durations_are_read_as_the_engine_reads_them(value: object, seconds: float | None) -> None:
    assert duration_s(value) == seconds


def test_a_body_is_not_kept_for_a_long_value_of_a_field_that_is_looked_at() -> None:
    kept = _change_often.cache_info().currsize
    for name in ("keep_alive", "options", "shift"):
        settle({name: "x" * 100_000} if name != "options" else {"options": {"stop": ["x" * 100_000]}})
    assert _change_often.cache_info().currsize == kept
    settle({"keep_alive": "17m3s"})
    assert _change_often.cache_info().currsize == kept + 1
