"""Whose fault a refusal is, by what engines answer."""

from __future__ import annotations

import json

import pytest

from sollol_agents.node.engines.refusals import failure, refusal
from sollol_agents.requests.faults import RULES, fault_of, is_alike, is_gone, said
from sollol_bus.transport.messages import error_headers
from sollol_schemas.errors import OWNER, QUOTES_NOBODY, ErrorBody, ErrorCode, Lack, Owner

NO_IMAGES = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"
KILLED = "llama-server process has terminated: signal: killed"
EOF = "an error was encountered while running the model: unexpected EOF"


def native(text: str) -> bytes:
    return json.dumps({"error": text}).encode()


def openai(text: str, kind: str = "server_error") -> bytes:
    return json.dumps({"error": {"code": 500, "message": text, "type": kind}}).encode()


def nested(text: str) -> bytes:
    """As Ollama passes on what the engine behind it says."""
    return native(openai(text).decode())


@pytest.mark.parametrize(
    "body",
    [
        native('option "temperature" must be of type float32'),
        native('option "stop" must be of an array of strings'),
        native("failed to marshal chat template request: json: unsupported value: +Inf"),
        native('invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
        native("template: :1: unclosed action"),
        nested('Failed to parse tools: Unsupported tool type: {"type":""}; tools = []'),
        nested("GGML_ASSERT(n_tokens_all <= cparams.n_batch) failed"),
        openai("[json.exception.parse_error.101] parse error at line 1, column 40: ill-formed UTF-8 byte"),
        openai("Failed to parse messages: Missing 'role' in message: {}"),
        openai("Cannot use both json_schema and grammar"),
        openai('"prompt" must not be empty'),
        openai("'messages' is required"),
    ],
)
def test_a_wrong_request_is_told_with_the_engines_own_status_and_words(body: bytes) -> None:
    error = refusal(500, body).body
    assert (error.blamed, error.code, error.http_status) == (Owner.REQUEST, ErrorCode.ENGINE_REJECTED, 500)
    assert error.details["engine_body"] == body.decode()


@pytest.mark.parametrize(
    ("status", "body", "lack"),
    [
        (404, native("model 'x' not found"), Lack.MODEL),
        (404, openai("The model `x` does not exist."), Lack.MODEL),
        (404, b"404 page not found", Lack.PATH),
        (405, b"405 method not allowed", Lack.PATH),
        (500, nested(NO_IMAGES), Lack.CAPABILITY),
        (501, openai("This server does not support embeddings. Start it with `--embeddings`"), Lack.CAPABILITY),
        (400, openai('"auto" tool choice requires --enable-auto-tool-choice'), Lack.CAPABILITY),
        (400, native('"x" does not support thinking'), Lack.CAPABILITY),
        (
            400,
            nested("request (9 tokens) exceeds the available context size (4 tokens), try increasing it"),
            Lack.CONTEXT,
        ),
        (400, openai("This model's maximum context length is 8192 tokens."), Lack.CONTEXT),
        (500, native("the input length exceeds the context length"), Lack.CONTEXT),
        (500, openai("input (606 tokens) is too large to process. increase the physical batch size"), Lack.CONTEXT),
    ],
)
def test_what_another_node_may_have_is_said_to_be_lacking(status: int, body: bytes, lack: Lack) -> None:
    error = refusal(status, body).body
    assert (error.blamed, error.lack, error.http_status) == (Owner.REQUEST, lack, status)


@pytest.mark.parametrize(
    ("status", "body", "owner", "code"),
    [
        (500, native(EOF), Owner.UNCLEAR, ErrorCode.ENGINE_FAILED),
        (500, native("llama-server process no longer running: unknown "), Owner.UNCLEAR, ErrorCode.ENGINE_FAILED),
        (500, native(KILLED), Owner.UNCLEAR, ErrorCode.LOAD_FAILED),
        (500, native("CUDA error: an illegal memory access was encountered"), Owner.UNCLEAR, ErrorCode.ENGINE_FAILED),
        (500, native("model requires more system memory (9 GiB)"), Owner.UNCLEAR, ErrorCode.LOAD_FAILED),
        (500, b"", Owner.UNCLEAR, ErrorCode.ENGINE_FAILED),
        (502, b"<html>Bad gateway</html>", Owner.UNCLEAR, ErrorCode.ENGINE_FAILED),
        (503, b"<html>down</html>", Owner.ENGINE, ErrorCode.ENGINE_UNAVAILABLE),
        (503, openai("Loading model", "unavailable_error"), Owner.PATH, ErrorCode.BUSY),
        (429, b"", Owner.PATH, ErrorCode.BUSY),
        (401, native("unauthorized"), Owner.NODE, ErrorCode.ENGINE_FAILED),
        (403, b"", Owner.NODE, ErrorCode.ENGINE_FAILED),
        (307, b"", Owner.PATH, ErrorCode.ENGINE_PROTOCOL),
        (508, b'{"error": "this request came round"}', Owner.NODE, ErrorCode.ENGINE_FAILED),
        (301, b'<a href="/v1/models">Moved Permanently</a>', Owner.PATH, ErrorCode.ENGINE_PROTOCOL),
    ],
)
def test_what_may_be_anybodys_fault_is_laid_on_nobody_yet(
    status: int, body: bytes, owner: Owner, code: ErrorCode
) -> None:
    error = refusal(status, body).body
    assert (error.blamed, error.code) == (owner, code)


def test_an_error_in_the_middle_of_an_answer_is_judged_by_its_words() -> None:
    assert failure(EOF).body.blamed is Owner.UNCLEAR
    assert failure(NO_IMAGES).body.blamed is Owner.REQUEST


def test_an_engine_whose_process_ended_is_worth_another_try_soon() -> None:
    assert refusal(500, native(KILLED)).retry_after_s == 2.0
    assert refusal(500, native("boom")).retry_after_s is None
    assert is_gone(EOF)


def test_a_text_is_found_wherever_engines_put_it() -> None:
    assert said(nested(NO_IMAGES)) == NO_IMAGES
    assert said(b'{"detail":[{"msg":"bad"}]}') == "[{'msg': 'bad'}]"
    assert said(b"404 page not found") == "404 page not found"
    assert said(b"<html>page</html>") == said(b"\x00\xff") == said(b"") == ""


def test_refusals_are_alike_whatever_numbers_and_names_they_have() -> None:
    def told(text: str, status: int = 500) -> ErrorBody:
        return refusal(status, native(text)).body

    assert is_alike(told("cannot open '/a/b' at 17"), told("cannot open '/c' at 4"))
    assert not is_alike(told("cannot open"), told("cannot close"))
    assert not is_alike(told("cannot open"), told("cannot open", 502))


def test_every_answer_finds_a_row_and_every_code_an_owner() -> None:
    assert all(fault_of(status, "") for status in range(300, 600))
    assert all(rule.what for rule in RULES)
    assert OWNER.keys() == set(ErrorCode)


def test_only_messages_of_our_own_are_kept() -> None:
    secret = ErrorBody(code=ErrorCode.ENGINE_FAILED, message="my prompt", details={"engine_status": 500})
    assert secret.own_words == "the engine answered 500"
    assert secret.without_quotes().details == {}
    assert ErrorBody(code=ErrorCode.NODE_LOST, message="gone").own_words == "gone"
    assert ErrorBody(code=ErrorCode.CONFLICT, message="another body").own_words == "another body"
    assert not QUOTES_NOBODY & {
        code for code in ErrorCode if code.name.startswith("ENGINE") or code.name == "LOAD_FAILED"
    }


@pytest.mark.parametrize(
    ("code", "told_s", "header"),
    [
        (ErrorCode.QUEUE_FULL, 2.4, "3"),
        (ErrorCode.QUEUE_FULL, None, "1"),
        (ErrorCode.ATTEMPTS_EXHAUSTED, 2.0, "2"),
        (ErrorCode.ATTEMPTS_EXHAUSTED, None, None),
        (ErrorCode.NO_NODES, None, "2"),
        (ErrorCode.NODE_LOST, None, "1"),
        (ErrorCode.CONNECTION_LOST, None, "1"),
        (ErrorCode.ENGINE_UNAVAILABLE, None, "2"),
        (ErrorCode.NO_ELIGIBLE_NODE, 1e9, "5"),
        (ErrorCode.BAD_REQUEST, None, None),
    ],
)
def test_an_error_says_when_to_come_again_where_waiting_helps(
    code: ErrorCode, told_s: float | None, header: str | None
) -> None:
    details = {} if told_s is None else {"retry_after_s": told_s}
    assert error_headers(ErrorBody(code=code, message="no", details=details)).get("Retry-After") == header


@pytest.mark.parametrize(("status", "header"), [(429, "5"), (503, "5"), (500, None), (0, None)])
def test_an_engine_that_has_too_much_to_do_is_asked_again_later(status: int, header: str | None) -> None:
    refused = ErrorBody(code=ErrorCode.ENGINE_FAILED, message="overloaded", status=status)
    assert error_headers(refused).get("Retry-After") == header
