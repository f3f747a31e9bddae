"""What a request in one of the /v1 dialects asks for, as far as its answer's going on depends on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from sollol_bus.sdk.resume.interface import PENALTIES, Shape

_INVALID: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_EMPTY: Final = frozenset({b"null", b'""', b"false", b"[]", b"{}", b"0", b"0.0"})
_FORM: Final = "its text follows a form, which cannot be entered in its middle"
_PROBABILITIES: Final = "it tells log probabilities, which a rest alone has not"
_SEVERAL: Final = "it has several answers in one stream"
_CALL: Final = "a tool must be called in it"
_MEDIA: Final = "it is about images or other media"
_UNREADABLE: Final = "its body cannot be read"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

Fields = Mapping[str, msgspec.Raw]


class Asked(NamedTuple):
    """A request, as far as whoever tells its answer must know it."""

    shape: Shape
    model: str = ""
    stops: tuple[str, ...] = ()
    """The texts at which the answer ends."""
    includes_usage: bool = False
    """Whether OpenAI's stream is to end with its usage."""


def _is_set(value: msgspec.Raw) -> bool:
    return bytes(value).strip() not in _EMPTY


def _is_several(value: msgspec.Raw) -> bool:
    return _is_set(value) and _decoded(value) != 1


def _is_form(value: msgspec.Raw) -> bool:
    """Whether a response_format is another than text."""
    return _names_form(_decoded(value))


def _has_form(value: msgspec.Raw) -> bool:
    """Whether the format in a `text` or an `output_config` is another than text."""
    given = _decoded(value)
    return isinstance(given, dict) and _names_form(given.get("format"))


def _names_form(given: object) -> bool:
    return isinstance(given, dict) and given.get("type", "text") != "text"


def _must_call(value: msgspec.Raw) -> bool:
    given = _decoded(value)
    kind = given.get("type") if isinstance(given, dict) else given
    return kind not in (None, "", "auto", "none")


def _is_no_text(value: msgspec.Raw) -> bool:
    """Whether a prompt is another than one text: several, tokens, or one that the vendor keeps."""
    given = _decoded(value)
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    return given is not None and not isinstance(given, str)


def _has_media(value: msgspec.Raw) -> bool:
    """Quotes in a text are escaped, so that none of these is a part of one."""
    raw = bytes(value)
    return b'"images"' in raw or (b'"type"' in raw and any(kind in raw for kind in _MEDIA_KINDS))


_MEDIA_KINDS: Final = (
    *(b'"image"', b'"image_url"', b'"input_image"', b'"input_audio"', b'"audio_url"', b'"video_url"'),
    *(b'"document"', b'"file"', b'"input_file"'),
)
_REFUSALS: Final[dict[str, tuple[str, Callable[[msgspec.Raw], bool]]]] = {
    "response_format": (_FORM, _is_form),
    "text": (_FORM, _has_form),
    "output_format": (_FORM, _is_set),
    "output_config": (_FORM, _has_form),
    **dict.fromkeys(("format", "grammar", "json_schema", "structured_outputs"), (_FORM, _is_set)),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), (_FORM, _is_set)),
    **dict.fromkeys(("logprobs", "top_logprobs", "prompt_logprobs", "n_probs"), (_PROBABILITIES, _is_set)),
    **dict.fromkeys(("n", "best_of", "n_cmpl"), (_SEVERAL, _is_several)),
    "use_beam_search": (_SEVERAL, _is_set),
    "prompt": ("its prompt is not one text", _is_no_text),
    **dict.fromkeys(("previous_response_id", "conversation"), ("its conversation is kept elsewhere", _is_set)),
    "tool_choice": (_CALL, _must_call),
    "echo": ("it repeats its prompt", _is_set),
    **dict.fromkeys(("suffix", "input_suffix"), ("it goes between a prompt and a suffix", _is_set)),
    "thinking_budget_tokens": ("its thought has a limit of its own", _is_set),
    "images": (_MEDIA, _is_set),
    "return_token_ids": ("it tells its tokens", _is_set),
    "background": ("it is made in the background", _is_set),
    "_debug_render_only": ("it is a rendered prompt", _is_set),
    **dict.fromkeys(("messages", "input", "system"), (_MEDIA, _has_media)),
}
"""By field: why an answer cannot go on, and when the field's value says so."""
_COUNTED: Final = "its usage is told with every piece"
_ORDER: Final = tuple(_REFUSALS)
_UNMOVABLE: Final = frozenset({"tools", "functions", *PENALTIES})


def shape_in(body: bytes) -> Shape:
    """What a body in any of the dialects says of going on; all that is looked at before anything was said."""
    try:
        return _shape(_read(body))
    except _INVALID:
        return Shape(_UNREADABLE)


def _read(body: bytes) -> dict[str, msgspec.Raw]:
    return {name.lower(): value for name, value in _fields.decode(body).items()}


def _shape(fields: Fields) -> Shape:
    said = [name for name in fields if name in _REFUSALS and _REFUSALS[name][1](fields[name])]
    refusal = _REFUSALS[min(said, key=_ORDER.index)][0] if said else ""
    if not refusal and "stream_options" in fields and _object(fields, "stream_options").get("continuous_usage_stats"):
        refusal = _COUNTED
    is_stream = "stream" in fields and _is_set(fields["stream"])
    may_be_moved = (
        is_stream and not refusal and not any(name in _UNMOVABLE and _is_set(fields[name]) for name in fields)
    )
    return Shape(refusal, may_be_moved)


def asked(body: bytes) -> Asked:
    """What a body in any of the dialects asks for."""
    try:
        fields = _read(body)
        return Asked(
            shape=_shape(fields),
            model=_text(fields, "model"),
            stops=_texts(fields, "stop") + _texts(fields, "stop_sequences"),
            includes_usage=bool(_object(fields, "stream_options").get("include_usage")),
        )
    except _INVALID:
        return Asked(Shape(_UNREADABLE))


def _decoded(value: msgspec.Raw) -> Any:  # noqa: ANN401 whatever a caller put there
    return msgspec.json.decode(value)


def _object(fields: Fields, name: str) -> dict[str, Any]:
    given = _decoded(fields[name]) if name in fields else None
    return given if isinstance(given, dict) else {}


def _text(fields: Fields, name: str) -> str:
    given = _decoded(fields[name]) if name in fields else None
    return given if isinstance(given, str) else ""


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    given = _decoded(fields[name]) if name in fields else None
    listed = given if isinstance(given, list) else [given]
    return tuple(one for one in listed if isinstance(one, str) and one)
