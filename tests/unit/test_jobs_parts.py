"""The pure parts around jobs: intake, answers, callbacks, files of a batch."""

from __future__ import annotations

import ipaddress
import json
import random
from pathlib import Path

import msgspec
import pytest

from sollol_agents.cli.commands.batch_files import AnswerFile, batch_id_of, output_line, read_items
from sollol_agents.dispatcher.jobs.intake import Accepted, check, headers_for, read_job
from sollol_agents.dispatcher.jobs.letters import shortened
from sollol_agents.dispatcher.jobs.life import Again, RetryRules, after_failure
from sollol_agents.dispatcher.jobs.records import stored_status
from sollol_agents.dispatcher.jobs.tries import cause_of
from sollol_agents.dispatcher.requests.intake import UNLIMITED_S, Rejected, Request, take_in
from sollol_agents.posting import is_permitted_address, is_permitted_url, signature
from sollol_agents.requests.detector import WordDetector
from sollol_bus.errors import (
    BackendBrokeProtocol,
    BadRequest,
    ConfigError,
    NoResponders,
    NotConnected,
    RequestTimedOut,
    SollolError,
)
from sollol_bus.sdk.jobs import JobAnswer, make_job, priority_of
from sollol_bus.server.rights import permissions
from sollol_schemas import headers as h
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.inboxes import is_callback_subject
from sollol_schemas.jobs import JobResult, JobState, JobStatus
from sollol_schemas.routing import InvalidRouting, RoutingMode, parse_routing, routing_headers
from sollol_schemas.subjects import Role

BODY = {"model": "m", "prompt": "hi"}
RNG = random.Random(1)
STATUS = JobStatus(job_id="j", state=JobState.QUEUED, priority=7)


def read(job: object, headers: dict[str, str] | None = None, hosts: tuple[str, ...] = ()) -> Accepted:
    return read_job(json.dumps(job).encode(), headers or {}, hosts=hosts)


def test_the_request_of_a_job_says_its_routing_in_the_headers_of_the_contract() -> None:
    told = headers_for(read({"body": BODY, "deadline_s": 60}), "j", 7)
    routing = {name: text for name, text in told.items() if name.startswith(h.ROUTING_PREFIX)}
    assert routing == {"X-Sollol-Routing-Mode": "async", "X-Sollol-Priority": "7", "X-Sollol-Deadline-S": "60.0"}


@pytest.mark.parametrize(
    ("written", "is_same"),
    [
        (b'{"body": {"model": "m", "prompt": "hi"}}', True),
        (b'{"body":{"prompt":"hi","model":"m"},"kind":"generate"}', True),
        (b'{"prompt": "hi", "model": "m"}', True),
        (b'{"body":{"model":"m","prompt":"hi"},"deadline_s":60}', False),
        (b'{"body":{"model":"m","prompt":"ho"}}', False),
        (b'{"body":{"model":"m","prompt":"hi","seed":1e999}}', False),
        (b"nonsense", False),
    ],
)
def test_a_job_is_the_same_however_it_is_written(written: bytes, is_same: bool) -> None:
    def hash_of(data: bytes) -> str:
        return stored_status("jobs.5.j", data, {}, submitted_at="2026-01-01T00:00:00Z").body_hash

    assert (hash_of(written) == hash_of(b'{"body":{"model":"m","prompt":"hi"}}')) is is_same
    assert hash_of(written) == hash_of(written)


def request_of(accepted: Accepted, *, age_s: float = 0.0) -> Request:
    """What a dispatcher makes of a job's request."""
    told = headers_for(accepted, "j", 7) | {h.WAITED: str(age_s), h.CONTROL_INBOX: "_INBOX.ctl"}
    return take_in(accepted.kind, bytes(accepted.job.body), told, "_INBOX.x", default_deadline_s=600.0)


@pytest.mark.parametrize(
    ("job", "kind"),
    [
        ({"body": BODY}, RequestKind.GENERATE),
        ({"body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}, RequestKind.CHAT),
        ({"body": {"model": "m", "input": ["a"]}}, RequestKind.EMBED),
        ({"body": BODY, "path": "/v1/completions"}, RequestKind.PASSTHROUGH),
        ({"body": {"model": "m", "input": "a"}, "kind": "embed"}, RequestKind.EMBED),
        (BODY, RequestKind.GENERATE),
        ({"Model": "m", "Messages": [{"role": "user", "content": "hi"}], "stream": False}, RequestKind.CHAT),
        ({"model": "m", "input": ["a"], "keep_alive": "5m"}, RequestKind.EMBED),
    ],
)
def test_the_kind_follows_from_the_body_unless_it_is_given(job: object, kind: RequestKind) -> None:
    assert read(job).kind is kind


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ("nonsense", ErrorCode.BAD_REQUEST),
        ({}, ErrorCode.BAD_REQUEST),
        ({"body": {"prompt": "hi"}}, ErrorCode.BAD_REQUEST),
        ({"body": "text"}, ErrorCode.BAD_REQUEST),
        ({"body": {**BODY, "priority": 99}}, ErrorCode.BAD_REQUEST),
        ({"body": BODY, "not_before": "tomorrow"}, ErrorCode.BAD_REQUEST),
        ({"body": BODY, "not_before": "2026-01-01T00:00:00"}, ErrorCode.BAD_REQUEST),
        ({"body": BODY, "path": "/api/pull"}, ErrorCode.FORBIDDEN),
        ({"body": BODY, "path": "/v1/completions\r\nSollol-Job-Place: 0 0 0"}, ErrorCode.BAD_REQUEST),
        ({"body": {**BODY, "model": "m" * 600}}, ErrorCode.BAD_REQUEST),
        ({"body": BODY, "callback_subject": "sollol.v1.node.attic.exec"}, ErrorCode.FORBIDDEN),
        ({"body": BODY, "callback_subject": "callbacks.>"}, ErrorCode.FORBIDDEN),
        ({"body": BODY, "callback_url": "http://elsewhere/x"}, ErrorCode.FORBIDDEN),
        ({"body": BODY, "max_tries": 0}, ErrorCode.BAD_REQUEST),
        ({"body": BODY, "deadline_s": -1}, ErrorCode.BAD_REQUEST),
    ],
)
def test_a_job_that_cannot_be_run_says_why(job: object, code: ErrorCode) -> None:
    with pytest.raises(Rejected) as caught:
        check(read(job), WordDetector())
    assert caught.value.error.code is code


def test_a_bare_body_is_the_body_of_a_job_and_says_beside_it_what_a_job_may_say() -> None:
    beside = {"not_before": "2026-01-01T00:00:00Z", "deadline_s": 30, "callback_subject": "callbacks.mine"}
    accepted = read({**BODY, "priority": 2, **beside})
    assert json.loads(bytes(accepted.job.body)) == {**BODY, "priority": 2}
    assert (accepted.job.not_before, accepted.job.deadline_s) == (beside["not_before"], 30)
    assert accepted.job.callback_subject == "callbacks.mine"
    assert (accepted.model, accepted.due_unix_s > 0) == ("m", True)


@pytest.mark.parametrize("form", [b"%b and more", b'{"body": %b}'])
def test_a_job_of_what_only_ollama_takes_for_json_is_read_as_ollama_reads_it(form: bytes) -> None:
    body = form % rb'{"model": "m", "prompt": "\ud83d"}'
    assert json.loads(bytes(read_job(body, {}, hosts=()).job.body)) == {"model": "m", "prompt": "\ufffd"}


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b'{"model": "m"}', "no `body`, and is no bare one either: that has one of messages, prompt, input"),
        (b'{"prompt": "hi", "max_tries": 0}', "max_tries"),
        (b'{"body": 5, "prompt": "hi", "max_tries": "x"}', "max_tries"),
        (b"hello", "JSON is malformed"),
        (b"", "malformed"),
    ],
)
def test_a_message_that_is_neither_a_job_nor_a_bare_body_says_what_it_lacks(payload: bytes, words: str) -> None:
    with pytest.raises(Rejected, match="the job is malformed") as caught:
        read_job(payload, {}, hosts=())
    assert words in caught.value.error.message


def test_a_jobs_request_is_patient_work_under_the_subjects_priority_without_a_limit() -> None:
    accepted = read({"body": {**BODY, "priority": 2, "routing_mode": "fast"}}, {"x-sollol-PRIORITY": "3"})
    request = request_of(accepted, age_s=1e6)
    assert (request.routing.routing_mode, request.routing.priority) == (RoutingMode.ASYNC, 7)
    assert (request.deadline_s, request.waited_s) == (UNLIMITED_S, 1e6)
    assert json.loads(request.body) == BODY
    assert request.context.job_id == "j"


def test_the_deadline_counts_from_when_the_job_was_due() -> None:
    request = request_of(read({"body": BODY, "deadline_s": 30}), age_s=10.0)
    assert (request.deadline_s, request.waited_s) == (30, 10.0)


def test_only_a_job_whose_runner_can_be_missed_waits_without_a_limit() -> None:
    told = {h.JOB: "j", h.WAITED: "1e9"}
    request = take_in(RequestKind.GENERATE, json.dumps(BODY).encode(), told, "_INBOX.x", default_deadline_s=600.0)
    assert (request.deadline_s, request.waited_s) == (600.0, 600.0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotConnected("down"), ErrorCode.ACTOR_STOPPED),
        (NoResponders("nobody"), ErrorCode.NO_NODES),
        (RequestTimedOut("silence"), ErrorCode.CONNECTION_LOST),
        (BackendBrokeProtocol("cut"), ErrorCode.ENGINE_PROTOCOL),
    ],
)
def test_trouble_on_the_way_to_a_dispatcher_ends_no_job(error: SollolError, code: ErrorCode) -> None:
    assert cause_of(error).code is code
    assert isinstance(after_failure(STATUS, cause_of(error), RetryRules(max_tries=4, first_s=1, max_s=1), RNG), Again)


@pytest.mark.parametrize(
    ("url", "is_permitted"),
    [
        ("https://hooks.example/x", True),
        ("http://hooks.example:80/x?y", True),
        ("http://hooks.example:6379/", False),
        ("https://hooks.example:80/", False),
        ("http://any.example:6379/", True),
        ("http://any.example/", True),
        ("http://other.example:9000/", True),
        ("http://other.example:9001/", False),
        ("http://hooks.example.evil/x", False),
        ("http://hooks.example@evil/x", False),
        ("http://evil/?hooks.example", False),
        ("http://evil#hooks.example", False),
        ("ftp://hooks.example/x", False),
        ("//hooks.example/x", False),
        ("http://hooks.example\\@evil/", False),
    ],
)
def test_results_are_posted_to_listed_hosts_only(url: str, is_permitted: bool) -> None:
    assert is_permitted_url(url, ("hooks.example", "other.example:9000", "any.example:*")) is is_permitted


@pytest.mark.parametrize(
    ("subject", "is_permitted"),
    [
        ("callbacks.mine", True),
        ("callbacks.mine.too", True),
        ("_INBOX.abc", True),
        ("callbacks", False),
        ("callbacks.", False),
        ("callbacks.*", False),
        ("sollol.v1.scorer.grant", False),
        ("_INBOX_ctl.x", False),
    ],
)
def test_results_are_published_to_callback_subjects_and_callers_inboxes_only(subject: str, is_permitted: bool) -> None:
    assert is_callback_subject(subject) is is_permitted


@pytest.mark.parametrize(
    ("text", "is_public", "is_own"),
    [
        ("93.184.216.34", True, True),
        ("2606:2800:220:1::1", True, True),
        ("10.0.0.7", False, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("fd00::7", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("::ffff:169.254.169.254", False, False),
        ("2002:7f00:1::1", False, True),
        ("::127.0.0.1", False, True),
        ("::169.254.169.254", False, False),
        ("64:ff9b::7f00:1", False, True),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("64:ff9b::5db8:d822", True, True),
        ("64:ff9b:1::a00:7", False, True),
        ("::ffff:0:7f00:1", False, True),
        ("2001:0:1:2:3:4:80ff:fffe", False, True),
        ("fec0::7", False, True),
        ("169.254.169.254", False, False),
        ("fe80::1", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
    ],
)
def test_a_listed_name_leads_to_public_addresses_only_unless_private_ones_are_permitted(
    text: str, *, is_public: bool, is_own: bool
) -> None:
    address = ipaddress.ip_address(text)
    assert is_permitted_address(address, is_private_permitted=False) is is_public
    assert is_permitted_address(address, is_private_permitted=True) is is_own


def test_a_signature_depends_on_key_time_and_body() -> None:
    made = {signature(key, body, at) for key in ("a", "b") for body in (b"1", b"2") for at in (1, 2)}
    assert len(made) == 8


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [("priority", "frob", "neither 0 to 10 nor one of critical, "), ("routing_mode", "x", "none of fast, reliable")],
)
def test_a_routing_field_that_is_none_says_what_it_may_be(field: str, value: str, allowed: str) -> None:
    with pytest.raises(InvalidRouting, match=f"{field}: '{value}' is {allowed}"):
        parse_routing({field: value})


def test_headers_that_say_nothing_about_routing_or_too_much_do_not_stay_with_a_job() -> None:
    told = {"x-sollol-PRIORITY": "3", "X-Sollol-Session-Id": "s" * 60_000, "X-Sollol-Foo": "f", "Sollol-Job-Place": "0"}
    kept = routing_headers(told)
    assert kept.keys() == {"x-sollol-PRIORITY", "X-Sollol-Session-Id"}
    assert sum(map(len, kept.values())) < 1024
    with pytest.raises(InvalidRouting, match="Session-Id"):
        parse_routing({}, kept)


def test_a_letters_status_fits_into_a_header() -> None:
    long = msgspec.structs.replace(STATUS, error=ErrorBody(code=ErrorCode.ENGINE_FAILED, message="é\r\n" * 5000))
    assert len(msgspec.json.encode(shortened(long))) < 4096


@pytest.mark.parametrize(("given", "number"), [("high", 8), ("deferred", 0), (3, 3), ("4", 4)])
def test_priorities_have_names(given: int | str, number: int) -> None:
    assert priority_of(given) == number


@pytest.mark.parametrize("given", [11, -1, "huge", "11"])
def test_a_priority_that_does_not_exist_is_refused(given: int | str) -> None:
    with pytest.raises(BadRequest):
        priority_of(given)


def test_clients_submit_and_read_jobs_and_only_the_control_role_ends_them() -> None:
    client, control, node = (permissions(role, "attic") for role in (Role.CLIENT, Role.CONTROL, Role.NODE))
    asked = {"jobs.submit.*.*", "jobs.enqueue", "jobs.cancel"}
    assert {f"sollol.v1.as.attic.{subject}" for subject in asked} <= set(client.publish)
    own = {"sollol.v1.jobs.result.attic.*", "sollol.v1.events.job.attic.*.*", "callbacks.attic", "callbacks.attic.>"}
    assert own <= set(client.subscribe)
    others = {"sollol.v1.jobs.result.*", "sollol.v1.jobs.result.*.*", "sollol.v1.events.job.>", "callbacks.>"}
    assert not others & set(client.subscribe)
    mine = {"sollol.v1.jobs.result.*", "sollol.v1.jobs.purge", "sollol.v1.jobs.delayed.*.*", "$KV.SOLLOL_JOB.>"}
    assert mine <= set(control.publish)
    assert not mine & set(client.publish)
    assert not [subject for subject in (*node.publish, *node.subscribe) if ".jobs." in subject]


class TestBatchFiles:
    LINES = (
        '{"model":"m","prompt":"a"}\n\n'
        '{"custom_id":"x","kind":"chat","body":{"model":"m","messages":[]}}\n'
        '{"custom_id":"y","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"a"}}\n'
    )

    def items_of(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "in.jsonl"
        path.write_text(text)
        return path

    def test_three_formats_are_read(self, tmp_path: Path) -> None:
        items = read_items(self.items_of(tmp_path, self.LINES))
        assert [item.custom_id for item in items] == ["1", "x", "y"]
        assert [item.job.kind for item in items] == [None, RequestKind.CHAT, None]
        assert items[2].job.path == "/v1/embeddings"

    @pytest.mark.parametrize("text", ["", "{\n", '{"prompt":"a"}\n', "[1]\n", '{"body":{},"kind":"dance"}\n'])
    def test_a_file_that_cannot_be_used_says_where(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ConfigError, match=r"in\.jsonl"):
            read_items(self.items_of(tmp_path, text))

    def test_a_changed_file_is_another_batch(self, tmp_path: Path) -> None:
        one = batch_id_of(self.items_of(tmp_path, self.LINES))
        assert one == batch_id_of(self.items_of(tmp_path, self.LINES))
        assert one != batch_id_of(self.items_of(tmp_path, self.LINES + self.LINES))

    def test_answers_go_on_behind_the_last_whole_line(self, tmp_path: Path) -> None:
        items = read_items(self.items_of(tmp_path, self.LINES))
        path = tmp_path / "out.jsonl"
        lines = [output_line(item, _answer(item.custom_id, JobState.DONE))[0] for item in items]
        path.write_bytes(lines[0] + b"\n" + lines[1][:10])
        with AnswerFile(path, items) as file:
            assert file.lines == 1
            file.write(lines[1])
            file.write(lines[2])
        assert path.read_bytes() == b"".join(line + b"\n" for line in lines)

    def test_answers_to_other_requests_are_not_continued(self, tmp_path: Path) -> None:
        items = read_items(self.items_of(tmp_path, self.LINES))
        path = tmp_path / "out.jsonl"
        path.write_text('{"custom_id":"other","error":null}\n')
        with pytest.raises(ConfigError, match="other requests"), AnswerFile(path, items):
            pass

    def test_a_failed_request_has_its_error_in_its_line(self, tmp_path: Path) -> None:
        items = read_items(self.items_of(tmp_path, self.LINES))
        line, is_ok = output_line(items[0], _answer("1", JobState.DEAD))
        assert not is_ok
        assert json.loads(line)["error"]["code"] == "engine_failed"


def _answer(job_id: str, state: JobState) -> JobAnswer:
    error = None if state is JobState.DONE else ErrorBody(code=ErrorCode.ENGINE_FAILED, message="x")
    result = JobResult(job_id=job_id, state=state, body=msgspec.Raw(b'{"response":"a"}'))
    return JobAnswer(status=JobStatus(job_id=job_id, state=state, error=error), result=result)


def test_a_job_is_made_from_a_body_and_routing_fields() -> None:
    job = make_job(BODY, not_before="2030-01-01T00:00:00Z")
    assert json.loads(bytes(job.body)) == BODY
    assert job.not_before == "2030-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("body", "not_before"),
    [(b'{"body":{},"not_before":"2026-01-31T19:00:00+01:00"}', "2026-01-31T18:00:00.000Z"), (b"no", "")],
    ids=["a job", "none"],
)
def test_a_stored_message_tells_what_is_known_of_a_job_that_nobody_took_up(body: bytes, not_before: str) -> None:
    status = stored_status("sollol.v1.jobs.delayed.7.j", body, {h.JOB_RUN: "2"}, submitted_at="2026", seq=4)
    assert (status.job_id, status.priority, status.state) == ("j", 7, JobState.QUEUED)
    assert (status.not_before, status.run, status.stream_seq) == (not_before, 2, 4)
