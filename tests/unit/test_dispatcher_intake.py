"""Messages become requests, or errors that say what is wrong."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.dispatcher.requests import continuing
from sollol_agents.dispatcher.requests.continuing import Resumer
from sollol_agents.dispatcher.requests.handing_on import handed_on
from sollol_agents.dispatcher.requests.intake import Rejected, Request, check_path, take_in
from sollol_bus.trust.callers import Roster
from sollol_schemas import headers as h
from sollol_schemas.callers import Standing, Standings
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import Continuation, ContinueFrom, packed
from sollol_schemas.errors import ErrorCode
from sollol_schemas.grant import Birth
from sollol_schemas.inboxes import is_client_inbox
from sollol_schemas.routing import RoutingMode

INBOX = "_INBOX.abc"


def take(body: object, headers: dict[str, str] | None = None, kind: RequestKind = RequestKind.GENERATE) -> Request:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return take_in(kind, payload, headers, INBOX, default_deadline_s=600.0)


def test_a_body_without_routing_fields_goes_to_the_engine_byte_for_byte() -> None:
    body = b'{ "model":"m",  "prompt":"hi \\u00e9", "options": {"seed":1} }'
    assert take(body).body is body


def test_routing_fields_are_read_and_removed() -> None:
    request = take({"model": "m", "prompt": "hi", "priority": "high", "routing_mode": "RELIABLE", "deadline_s": 5})
    assert json.loads(request.body) == {"model": "m", "prompt": "hi"}
    assert request.routing.priority == 8
    assert request.routing.routing_mode is RoutingMode.RELIABLE
    assert request.deadline_s == 5


def test_names_of_a_native_body_hold_in_any_case_and_the_last_one_counts() -> None:
    request = take(b'{"Model":"m","PROMPT":"hi","priority":2,"Priority":8,"stream":false,"Stream":true}')
    assert (request.context.model, request.routing.priority, request.wants_stream) == ("m", 8, True)
    assert json.loads(request.body) == {"model": "m", "prompt": "hi", "stream": True}


def test_headers_win_over_the_body() -> None:
    request = take({"model": "m", "prompt": "hi", "priority": 2}, {"X-Sollol-Priority": "9"})
    assert request.routing.priority == 9


@pytest.mark.parametrize(
    ("headers", "body", "priority"),
    [
        ({}, {}, 3),
        ({"X-Sollol-Priority": "urgent"}, {}, 3),
        ({}, {"priority": 9}, 3),
        ({}, {"PRIORITY": 9}, 3),
        ({"X-Sollol-Reasoning-Style": "fast"}, {}, 3),
        ({}, {"priority": "low"}, 2),
        ({"X-Sollol-Priority": "1"}, {"priority": 9}, 1),
    ],
)
def test_a_priority_is_lowered_to_its_callers_wherever_it_stands(
    headers: dict[str, str], body: dict[str, object], priority: int
) -> None:
    roster = Roster(Standings(callers={"laptop": Standing(max_priority=3)}))
    payload = json.dumps({"model": "m", "prompt": "hi", **body}).encode()

    def asked_by(caller: str) -> Request:
        head = headers | {h.CALLER: caller}
        return take_in(RequestKind.GENERATE, payload, head, INBOX, default_deadline_s=600.0, roster=roster)

    assert asked_by("laptop").routing.priority == priority
    assert asked_by("stranger").routing.priority >= priority


def test_a_passthrough_body_keeps_its_own_priority_field() -> None:
    body = b'{"model":"m","messages":[],"priority":"not ours"}'
    request = take(body, {h.PATH: "/v1/chat/completions"}, RequestKind.PASSTHROUGH)
    assert request.body is body
    assert request.routing.priority == 5


def test_a_request_sent_again_numbers_its_attempts_apart_and_keeps_its_age() -> None:
    request = take({"model": "m", "prompt": "hi"}, {h.REQUEST_ID: "r1", h.RESEND: "2", h.WAITED: "4.5"})
    assert request.first_attempt == 21
    assert request.waited_s == 4.5


HEADERS = st.dictionaries(
    st.sampled_from(
        [h.REQUEST_ID, h.RESEND, h.WAITED, h.NUMBER, h.STREAM, h.CANCEL_SECRET, h.JOB, "X-Sollol-Priority"]
    ),
    st.sampled_from(["1", "2", "7"]),
)


@given(HEADERS, st.integers(1, 99), st.floats(0.0, 500.0))
def test_a_request_that_is_handed_on_is_the_same_but_for_its_age_and_its_next_attempt(
    headers: dict[str, str], number: int, waited_s: float
) -> None:
    first = take({"model": "m", "prompt": "hi", "priority": 3, "deadline_s": 500.0}, headers)
    second = take(first.payload, handed_on(first, number=first.first_attempt + number, waited_s=waited_s))
    assert second.first_attempt == first.first_attempt + number
    assert second.waited_s == pytest.approx(waited_s, abs=0.001)
    told = {"number": second.number, "waited_s": second.waited_s, "headers": second.headers}
    assert msgspec.structs.replace(first, **told) == second


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "missing request body"),
        (b"not json", "invalid character 'o' in literal null (expecting 'u')"),
        (b"\xff\xfe", "invalid character 'ÿ' looking for beginning of value"),
        (b"[1]", "cannot unmarshal array into Go value of type api.GenerateRequest"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "exceeded max depth"),
        ({"prompt": "x"}, "model is required"),
        ({"model": 3}, "cannot unmarshal number into Go struct field GenerateRequest.model of type string"),
        ({"model": "m" * 600}, "at most 512 characters"),
        ({"model": "m", "prompt": 5}, "GenerateRequest.prompt of type string"),
        ({"model": "m", "prompt": "x", "stream": "yes"}, "GenerateRequest.stream of type bool"),
        ({"model": "m", "prompt": "x", "priority": 11}, "priority"),
        ({"model": "m", "prompt": "x", "priority": "huge"}, "priority"),
        ({"model": "m", "prompt": "x", "deadline_s": -1}, "deadline_s"),
        ({"model": "m", "prompt": "x", "node_id": "a b"}, "node_id"),
        ({"model": "m", "prompt": "x", "options": 5}, "GenerateRequest.options of type map"),
        ({"model": "m", "prompt": "x", "routing_mode": "warp"}, "routing_mode"),
    ],
)
def test_bad_bodies_get_an_error_that_names_what_is_wrong(body: object, part: str) -> None:
    with pytest.raises(Rejected) as caught:
        take(body)
    assert caught.value.error.code is ErrorCode.BAD_REQUEST
    assert part in caught.value.error.message


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'{"model":"m","prompt":"x"} and more', b'{"model": "m", "prompt": "x"}'),
        (b'{"model":"m","prompt":"a\\ud83d"}', b'{"model": "m", "prompt": "a\\ufffd"}'),
        (b'{"Model":"n","MODEL":"m","prompt":"x"}', b'{"model":"m","prompt":"x"}'),
        (b'{"model":"m","prompt":"\xff"}', b'{"model": "m", "prompt": "\\ufffd"}'),
    ],
)
def test_the_engine_gets_a_body_that_it_can_read(sent: bytes, kept: bytes) -> None:
    request = take(sent)
    assert (request.body, request.context.model) == (kept, "m")


def test_an_option_of_the_wrong_type_is_for_the_engine_to_judge() -> None:
    request = take({"model": "m", "prompt": "x", "options": {"num_predict": "many", "num_ctx": 2048.5}})
    assert (request.context.max_output_tokens, request.context.num_ctx) == (None, 2048)


@pytest.mark.parametrize("bad", ["", "a.b", "a b", "x" * 57, "*", "é"])
def test_an_invalid_request_id_is_refused(bad: str) -> None:
    with pytest.raises(Rejected, match="Request-Id"):
        take({"model": "m", "prompt": "x"}, {h.REQUEST_ID: bad})


def test_a_control_inbox_outside_the_inbox_space_is_refused() -> None:
    with pytest.raises(Rejected, match="Control"):
        take({"model": "m", "prompt": "x"}, {h.CONTROL_INBOX: "sollol.v1.telemetry.n1"})


def test_a_trace_goes_on_to_the_node_only_as_far_as_one_can_be_long() -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert take({"model": "m", "prompt": "x"}, {h.TRACEPARENT: trace}).traceparent == trace
    assert len(take({"model": "m", "prompt": "x"}, {h.TRACEPARENT: trace * 1000}).traceparent) < 1000


def test_an_empty_prompt_is_a_wish_to_load_the_model() -> None:
    assert take({"model": "m", "prompt": ""}).context.is_load_only
    assert take({"model": "m"}).context.is_load_only
    assert take({"model": "m", "messages": []}, kind=RequestKind.CHAT).context.is_load_only
    assert not take({"model": "m", "prompt": "x"}).context.is_load_only


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses?x=1", "/api/chat", "/v1/messages/count_tokens"]
)
def test_plain_engine_paths_pass(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "v1/chat",
        "http://evil/v1",
        "//evil/v1",
        "/v1/../api/pull",
        "/v1//x",
        "/v1/%2e%2e/x",
        "/v1/%2Fx",
        "/a b",
        "/a\r\nHost: x",
        "/a#b",
        "\\x",
        "/" + "a" * 600,
    ],
)
def test_paths_that_could_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(Rejected) as caught:
        check_path(path)
    assert caught.value.error.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    "path", ["/api/pull", "/api/%70ull", "/API/Pull/", "/api/blobs/sha256:1", "/api/delete", "/api/create?x"]
)
def test_management_paths_are_forbidden(path: str) -> None:
    with pytest.raises(Rejected) as caught:
        check_path(path)
    assert caught.value.error.code is ErrorCode.FORBIDDEN


@given(st.binary(max_size=200), st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=4))
def test_no_input_raises_anything_but_a_rejection(body: bytes, headers: dict[str, str]) -> None:
    for kind in RequestKind:
        with contextlib.suppress(Rejected):
            assert take(body, headers, kind).context.model


@pytest.mark.parametrize(
    ("place", "birth", "behind"),
    [
        ("1700000000500000000 7 55", Birth(at_s=1_700_000_000.5, clock="jobs", number=7), 55),
        ("soon 7 55", None, 0),
        ("1 2", None, 0),
        ("", None, 0),
    ],
    ids=["told", "no number", "a part lacks", "not told"],
)
def test_a_job_is_as_old_as_its_storing_and_says_how_many_wait_behind_it(
    place: str, birth: Birth | None, behind: int
) -> None:
    request = take({"model": "m", "prompt": "hi"}, {h.JOB: "j", h.JOB_PLACE: place})
    assert (request.birth, request.behind) == (birth, behind)
    assert take({"model": "m", "prompt": "hi"}, {h.JOB_PLACE: place}).birth is None


@pytest.mark.parametrize("end", ["a", "a.b", "a_b.c-d", "a" * 249])
def test_a_concrete_subject_among_callers_inboxes_is_one(end: str) -> None:
    assert is_client_inbox(f"_INBOX.{end}")
    assert is_client_inbox(f"_INBOX_mine.{end[:240]}")
    for root in ("_INBOX_ctl", "_INBOX_node", "_INBOX_new", "_INBOXES", "my.inbox", "sollol.v1"):
        assert not is_client_inbox(f"{root}.{end}")


@pytest.mark.parametrize("end", ["a..b", "a.", "*", "a.>", "a b", "a\tb", "a\n", "a\r\nb", "ä", "", "a" * 250])
def test_a_subject_that_is_none_is_no_inbox(end: str) -> None:
    assert not is_client_inbox(f"_INBOX.{end}")


def going_on(**told: object) -> dict[str, object]:
    return {"model": "m", "prompt": "hi", "stream": True, "continue_from": told}


def test_what_was_said_of_an_answer_is_taken_out_of_a_native_body() -> None:
    request = take(going_on(text="one two", pieces=2, fingerprint="ollama:1", excluded=["attic"], model="big"))
    assert json.loads(request.body) == {"model": "m", "prompt": "hi", "stream": True}
    assert request.said == ContinueFrom(
        text="one two", pieces=2, fingerprint="ollama:1", excluded=("attic",), model="big"
    )
    assert request.excluded == ("attic",)
    assert request.continuation(0) == Continuation(fingerprint="ollama:1", model="big", said_tokens=2)
    assert request.resumer is Resumer.NOBODY


def test_what_stands_behind_a_body_is_no_part_of_it_and_goes_to_a_node_as_it_came() -> None:
    said = ContinueFrom(text="one", pieces=1, cuts=1, resumed=2)
    body = b'{ "model":"m",  "messages":[{"role":"user","content":"hi"}] , "stream":true}'
    payload, headers = packed(body, said)
    for kind, path in ((RequestKind.CHAT, {}), (RequestKind.PASSTHROUGH, {h.PATH: "/v1/chat/completions"})):
        request = take(payload, headers | path, kind)
        assert (request.body, request.said) == (body, said)
        assert continuing.sent(request.body, request.said) == (payload, len(body))
        assert request.continuation(1) == Continuation(said_tokens=1, resumed=2, cuts=2)


def test_of_what_nothing_was_said_a_node_gets_the_body_alone() -> None:
    request = take(going_on(fingerprint="ollama:1"))
    assert continuing.sent(request.body, request.said) == (request.body, None)
    assert request.continuation(0) == Continuation(), "it begins anew wherever it may"


@pytest.mark.parametrize(
    ("body", "headers", "kind", "says"),
    [
        ({**going_on(text="a"), "stream": False}, {}, RequestKind.GENERATE, "only a stream goes on"),
        ({"model": "m", "stream": True, "continue_from": {"text": "a"}}, {}, RequestKind.GENERATE, "no answer of this"),
        (
            {"model": "m", "input": "hi", "continue_from": {"text": "a"}},
            {h.STREAM: "1"},
            RequestKind.EMBED,
            "no answer of this kind",
        ),
        (going_on(text=1), {}, RequestKind.GENERATE, "field 'continue_from'"),
        (going_on(excluded=["a.b"]), {}, RequestKind.GENERATE, "field 'continue_from'"),
        (going_on(excluded=["a"] * 65), {}, RequestKind.GENERATE, "field 'continue_from'"),
        (going_on(pieces=-1), {}, RequestKind.GENERATE, "field 'continue_from'"),
        (going_on(text="a", model="m" * 513), {}, RequestKind.GENERATE, "at most 512 characters"),
        (going_on(text="a"), {h.CONTINUE: "x"}, RequestKind.GENERATE, "must be the length of the body"),
        (going_on(text="a"), {h.CONTINUE: "9999999"}, RequestKind.GENERATE, "must be the length of the body"),
        (going_on(text="a"), {h.CONTINUE: "20"}, RequestKind.GENERATE, "what was said so far cannot be read"),
        ({"model": "m", "prompt": "hi", "resume": "yes"}, {}, RequestKind.GENERATE, "field 'resume'"),
        (going_on(text="a") | {"resume": True}, {}, RequestKind.GENERATE, "leave out one of the two"),
        (going_on(text="a"), {h.RESUME: "dispatcher"}, RequestKind.GENERATE, "leave out one of the two"),
        (going_on(excluded=["n1"]), {h.RESUME: "dispatcher"}, RequestKind.GENERATE, "leave out one of the two"),
        ({"model": "m", "prompt": "hi"}, {h.RESUME: "2"}, RequestKind.GENERATE, "header Sollol-Resume must be"),
    ],
)
def test_what_cannot_go_on_is_refused_in_a_sentence(
    body: dict[str, object], headers: dict[str, str], kind: RequestKind, says: str
) -> None:
    with pytest.raises(Rejected, match=says) as caught:
        take(body, headers, kind)
    assert caught.value.error.code is ErrorCode.BAD_REQUEST


def test_what_was_said_stands_in_one_place() -> None:
    payload, headers = packed(json.dumps(going_on(text="a")).encode(), ContinueFrom(text="b"))
    with pytest.raises(Rejected, match="behind the body already"):
        take(payload, headers)


@pytest.mark.parametrize(
    ("fields", "headers", "resumer"),
    [
        ({}, {}, Resumer.NOBODY),
        ({"resume": False}, {}, Resumer.NOBODY),
        ({"resume": True}, {}, Resumer.DISPATCHER),
        ({"resume": True}, {h.RESUME: "1"}, Resumer.CALLER),
        ({"resume": False}, {h.RESUME: "1"}, Resumer.CALLER),
        ({}, {h.RESUME: "dispatcher"}, Resumer.DISPATCHER),
        ({"resume": True, "stream": False}, {}, Resumer.NOBODY),
        ({"prompt": "", "resume": True}, {}, Resumer.NOBODY),
    ],
)
def test_who_goes_on_is_said_by_the_header_else_by_a_field(
    fields: dict[str, object], headers: dict[str, str], resumer: Resumer
) -> None:
    request = take({"model": "m", "prompt": "hi", "stream": True} | fields, headers)
    assert request.resumer is resumer
    assert "resume" not in json.loads(request.body)


@pytest.mark.parametrize(
    ("fields", "is_bound"),
    [
        ({}, False),
        ({"priority": 8, "session_id": "s", "routing_mode": "fast"}, False),
        ({"node_id": "attic"}, True),
        ({"where": "site=office"}, True),
        ({"min_vram_gb": 4}, True),
        ({"prefer_cpu": True}, True),
        ({"routing_mode": "reliable"}, True),
        ({"options": {"num_ctx": 8192}}, True),
        (going_on(text="a", excluded=["attic"]), True),
        (going_on(text="a"), False),
    ],
    ids=str,
)
def test_a_request_for_which_not_every_node_would_do_is_told_as_bound(
    fields: dict[str, object], is_bound: bool
) -> None:
    request = take({"model": "m", "prompt": "hi", "stream": True} | fields)
    assert continuing.is_bound(request.routing, request.context, request.said) is is_bound


def test_what_was_moved_before_it_spoke_counts_as_moved() -> None:
    assert take({"model": "m", "prompt": "hi"}).continuation(0) is None
    assert take({"model": "m", "prompt": "hi"}).continuation(1) == Continuation(resumed=0, cuts=1)


@given(st.text(max_size=50), st.text(max_size=50), st.integers(0, 10**12))
def test_tokens_said_are_bounded_by_what_was_said(text: str, thinking: str, pieces: int) -> None:
    said = ContinueFrom(text=text, thinking=thinking, pieces=pieces)
    tokens = continuing.said_tokens(said)
    assert (tokens == 0) is said.is_blank
    assert tokens <= len((text + thinking).encode())


@given(st.binary(max_size=200), st.text(max_size=20))
def test_whatever_stands_behind_a_body_is_read_or_refused(payload: bytes, header: str) -> None:
    with contextlib.suppress(Rejected):
        take(payload, {h.CONTINUE: header})
