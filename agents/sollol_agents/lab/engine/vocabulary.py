"""The words of the countdown model and which one follows which.

Pure data: no numpy, no GGUF. The weights in `countdown` are built from the two
tables made here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

DEFAULT_NUMBER: Final = 32
"""A prompt whose last token is not special is answered as though it ended in this number."""

UNKNOWN_ID: Final = 0
BOS_ID: Final = 1
EOS_ID: Final = 2

# The prompt ends with the content of the last message, so that its last token decides the
# answer. The tool-call part is written the way common models write it, because the servers
# work out the tool syntax from the template.
CHAT_TEMPLATE: Final = """\
{%- if tools %}{{- '<|system|>Tools:' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- '<|end|>' }}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}{{- '<|tool|>' + m.content }}
{%- elif m.role == 'assistant' %}
{{- '<|assistant|>' }}
{%- if m.reasoning_content %}{{- '<think>' + m.reasoning_content + '</think>' }}{%- endif %}
{%- if m.content %}{{- m.content }}{%- endif %}
{%- for tc in m.tool_calls %}
{%- if tc.function %}{%- set tc = tc.function %}{%- endif %}
{{- '<tool_call>{"name": "' + tc.name + '", "arguments": ' }}{{- tc.arguments | tojson }}{{- '}</tool_call>' }}
{%- endfor %}
{%- else %}{{- '<|' + m.role + '|>' + m.content }}{%- endif %}
{%- if not (loop.last and add_generation_prompt) %}{{- '<|end|>' }}{%- endif %}
{%- endfor %}"""  # noqa: E501 - a template line cannot be broken without changing the prompt

WORDS: Final = tuple(
    (  # noqa: SIM905 - ninety quoted words would hide the list
        "the a an of to and in is it you that for on with as at be this have from or by not are "
        "what which how why when where who can do does will would should could tell me about write "
        "hello world please count down model node request answer token time fast slow good new one "
        "two three system user assistant text list name number short long story code test data call think hmm"
    ).split()
)

_ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>", "<|end|>")
_MARKS: Final = ("<tool_call>", "</tool_call>", "<think>", "</think>")

_FOLLOWS: Final = (
    # "... call" answers with a tool call, "... think" reasons first and then counts
    (" call", "<tool_call>"),
    (" think", "<think>"),
    ("<think>", " hmm"),
    (" hmm", "</think>"),
    ("</tool_call>", "</s>"),
)
_CLOSES: Final = (("{", "}"), ("[", "]"), ("}", "</s>"), ("]", "</s>"), ('"', '"'))

# Lesser choices, used where a grammar (JSON mode, tools) forbids the first one: end, close
# strings, objects, lists and calls; no white space, no second call.
SHARES: Final = (("</s>", 0.5), ('"', 0.6), ("}", 0.5), (":", 0.45), (",", 0.4), ("]", 0.35))
AFTER: Final = {
    '"': SHARES[2:],
    "{": (('"', 0.6),),
    "[": (('"', 0.6),),
    "}": (("}", 0.6), ("</tool_call>", 0.55), ("]", 0.5), (",", 0.45)),
    "]": (("}", 0.6), ("]", 0.55), (",", 0.45)),
}
BLANKS: Final = ("\u2581", "<0x20>", "<0x0A>", "<0x09>", "<0x0D>")


class TokenKind(IntEnum):
    """The token types of the GGUF format that the model uses."""

    NORMAL = 1  # may be merged by the tokenizer
    UNKNOWN = 2  # stands for what has no token
    CONTROL = 3  # never printed
    USER_DEFINED = 4  # matched whole before anything else
    BYTE = 6  # the raw byte when nothing matches


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """All tokens in order of their id.

    Attributes:
        texts: the text of each token.
        kinds: the kind of each token.
        numbers: token id of each number from 0 to the largest.
    """

    texts: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def index(self) -> dict[str, int]:
        """Returns the id of each text; of two equal texts the later one."""
        return {text: number for number, text in enumerate(self.texts)}


def build_vocabulary(top_number: int) -> Vocabulary:
    """Returns the vocabulary with the numbers 0..`top_number`, each written with a space before it."""
    tokens = [("<unk>", TokenKind.UNKNOWN), ("<s>", TokenKind.CONTROL), ("</s>", TokenKind.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", TokenKind.BYTE) for byte in range(256)]
    tokens += [(text, TokenKind.CONTROL) for text in _ROLES]
    tokens += [(text, TokenKind.USER_DEFINED) for text in _MARKS]
    first = len(tokens)
    tokens += [(f" {number}", TokenKind.USER_DEFINED) for number in range(top_number + 1)]
    tokens += [(f" {word}", TokenKind.USER_DEFINED) for word in WORDS]
    # plain characters, so that ordinary text is one token a character and not a byte token
    tokens += [(chr(code), TokenKind.NORMAL) for code in range(33, 127)]
    tokens.append(("\u2581", TokenKind.NORMAL))
    return Vocabulary(
        texts=tuple(text for text, _ in tokens),
        kinds=tuple(kind for _, kind in tokens),
        numbers=tuple(range(first, first + top_number + 1)),
    )


def successors(vocabulary: Vocabulary) -> list[int]:
    """Returns, for each token id, the id of the token that the model says next."""
    following = [vocabulary.numbers[DEFAULT_NUMBER - 1]] * len(vocabulary)
    for number, token in enumerate(vocabulary.numbers):
        following[token] = vocabulary.numbers[number - 1] if number else EOS_ID
    index = vocabulary.index()
    for text, after in _FOLLOWS:
        following[index[text]] = index[after]
    # help grammar-constrained output (JSON mode, tool calls) to end soon, as byte tokens too
    for text, after in _CLOSES:
        following[index[text]] = following[index[f"<0x{ord(text):02X}>"]] = index[after]
    return following
