"""Bodies are read, and refused, as Go's JSON package does it."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.emulator.gotemplate import Template
from sollol_agents.lab.emulator.options import read_options
from sollol_agents.lab.emulator.refusals import RefusalError
from sollol_agents.requests.ollama import bodies, fields, gojson
from sollol_agents.requests.ollama.gojson import BodyError


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(), st.lists, max_leaves=20))
def test_the_scanner_reads_what_any_reader_reads(value: object) -> None:
    content = msgspec.json.encode(value)
    assert gojson.read(content + b" and more") == value


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a":1}{"a":2}', {"a": 1}),
        (b'{"a":1,"a":2}!', {"a": 2}),
        (b'["\\ud800x"]', ["\ufffdx"]),
        (b'["\\ude00\\ud83d"]', ["\ufffd\ufffd"]),
        (b'["\\ud83d\\ude00"]]', ["\U0001f600"]),
        (b'["\xff"]', ["\ufffd"]),
        (b"[1e400]", [math.inf]),
    ],
)
def test_what_is_left_of_odd_json(content: bytes, value: object) -> None:
    assert gojson.read(content) == value


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b" ", "EOF"),
        (b'{"a"', "unexpected EOF"),
        (b"{'a'", "invalid character '\\'' looking for beginning of object key string"),
        (b'{"a" 1', "invalid character '1' after object key"),
        (b'{"a":1 "b"', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'"\n"', "invalid character '\\n' in string literal"),
        (b'"\\x"', "invalid character 'x' in string escape code"),
        (b'"\\u12 "', "invalid character ' ' in \\u hexadecimal character escape"),
        (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
        (b"-x", "invalid character 'x' in numeric literal"),
        (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
        (b"\xff\xfe", "invalid character 'ÿ' looking for beginning of value"),
        (b"\xef\xbb\xbf{}", "invalid character 'ï' looking for beginning of value"),
    ],
)
def test_what_is_no_json_is_refused_in_the_words_of_go(content: bytes, text: str) -> None:
    with pytest.raises(gojson.JsonSyntaxError) as caught:
        gojson.read(content)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"5", "json: cannot unmarshal number into Go value of type api.ChatRequest"),
        (b'{"model":5}', "json: cannot unmarshal number into Go struct field ChatRequest.model of type string"),
        (
            b'{"top_logprobs":1.5}',
            "json: cannot unmarshal number 1.5 into Go struct field ChatRequest.top_logprobs of type int",
        ),
        (
            b'{"MESSAGES":[{"content":[]}]}',
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
        ),
        (
            b'{"tools":[{"function":{"parameters":"x"}}]}',
            (
                "json: cannot unmarshal string into Go struct field ToolFunction.tools.function.parameters "
                "of type api.ToolFunctionParameters"
            ),
        ),
        (
            b'{"options":{"x":1e999}}',
            "json: cannot unmarshal number 1e999 into Go struct field ChatRequest.options of type float64",
        ),
    ],
)
def test_a_value_of_another_type_is_named_with_its_field(content: bytes, text: str) -> None:
    with pytest.raises(BodyError) as caught:
        bodies.read_body(content, bodies.CHAT)
    assert str(caught.value) == text


def test_keys_are_read_in_any_case_and_unknown_ones_and_nulls_are_not_there() -> None:
    found = bodies.read_body(b'{"Model":"m","stream":null,"zzz":1,"messages":[null]}', bodies.CHAT)
    assert found == {"model": "m", "messages": [{}]}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (30, 30.0),
        (1.5, 1.0),
        (-1, math.inf),
        (1e30, 0.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("+5m", 300.0),
        ("-1m", math.inf),
        ("0", 0.0),
        ("1us", 1e-6),
    ],
)
def test_a_keep_alive_is_read_as_ollama_reads_it(value: object, seconds: float) -> None:
    assert fields.read_keep_alive(value) == seconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("5M", 'time: unknown unit "M" in duration "5M"'),
        ("", 'time: invalid duration ""'),
        (" 5m", 'time: invalid duration " 5m"'),
        ("soon", 'time: invalid duration "soon"'),
        ("99999999h", 'time: invalid duration "99999999h"'),
        ([], "Unsupported type: '[]interface {}'"),
        (True, "Unsupported type: 'bool'"),
    ],
)
def test_a_wrong_keep_alive_is_refused_with_its_text(value: object, message: str) -> None:
    with pytest.raises(BodyError) as caught:
        fields.read_keep_alive(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "place"),
    [("aGVsbG8=", None), ("", None), ("@@@", 0), ("data:x", 4), ("aGVs\nbG8=", None)],
)
def test_base64_is_refused_at_the_first_wrong_byte(text: str, place: int | None) -> None:
    assert fields.first_wrong_base64(text) == place


def test_options_of_a_request_come_before_the_models_and_fractions_are_cut() -> None:
    assert read_options({"num_ctx": 2048.5, "stop": None, "zzz": []}, {"num_ctx": 1, "stop": ["x"]}) == {
        "num_ctx": 2048,
        "stop": ["x"],
        "zzz": [],
    }


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"temperature": "0.5"}, "float32"),
        ({"num_predict": True}, "integer"),
        ({"use_mmap": 1}, "boolean"),
        ({"stop": "x"}, "array"),
    ],
)
def test_an_option_of_the_wrong_type_is_the_servers_error(options: dict[str, object], kind: str) -> None:
    with pytest.raises(RefusalError, match=f"must be of type {kind}$") as caught:
        read_options(options, {})
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x {{ .System }} y {{ .Prompt }}", "x be nice y count 2"),
        ("{{ .Nope }}", "<no value>"),
        ("{{- if .Suffix }}a{{ else }}b{{ end -}}  c", "bc"),
        ("{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}", "<user>hi"),
    ],
)
def test_a_template_of_go_is_rendered(source: str, text: str) -> None:
    data = {"System": "be nice", "Prompt": "count 2", "Suffix": "", "Messages": [{"Role": "user", "Content": "hi"}]}
    assert Template(source).render(data) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{", "template: :1: unclosed action"),
        ("{{ if .X }}", "template: :1: unexpected EOF"),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
        ("{{ nope }}", 'template: :1: function "nope" not defined'),
    ],
)
def test_a_broken_template_is_refused_in_the_words_of_go(source: str, text: str) -> None:
    with pytest.raises(RefusalError) as caught:
        Template(source)
    assert (str(caught.value), caught.value.status) == (text, 500)
