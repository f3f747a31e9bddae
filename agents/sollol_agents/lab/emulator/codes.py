"""The +-1 codes of tokens from which a countdown model's embeddings are made.

A generated model draws them from numpy's generator with seed 1. Here the same numbers are drawn without numpy, only
for the tokens that occur: its generator (PCG XSL RR 128/64) can be set forward by any number of steps.
"""

from __future__ import annotations

import functools
import math
import operator
import struct
from typing import TYPE_CHECKING, Final

from sollol_agents.lab.engine.vocabulary import AFTER, BLANKS, DEFAULT_NUMBER, SHARES, build_vocabulary, successors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MASK: Final = (1 << 128) - 1
_FACTOR: Final = 0x2360ED051FC65DA44385DF649FCCF645
# what numpy makes of the seed 1
_STATE: Final = 207833532711051698738587646355624148094
_STEP: Final = 194290289479364712180083596243593368443
_VOCABULARY: Final = build_vocabulary(999)
_INDEX: Final = _VOCABULARY.index() | {" ": _VOCABULARY.index()["\u2581"]}
_SUCCESSORS: Final = successors(_VOCABULARY)
_DEFAULT: Final = _VOCABULARY.numbers[DEFAULT_NUMBER - 1]
_TINY_WIDTH: Final = 256
_GAIN: Final = 120.0
_LOWEST: Final = -3.4028234663852886e38
_MOST_RANKED: Final = 20
_NOT_PLAIN: Final = _VOCABULARY.numbers[DEFAULT_NUMBER]


def token_id(token: str) -> int:
    """Returns the number of a token; control characters are tokens of one byte."""
    found = _INDEX.get(token)
    if found is None:
        found = _INDEX[f"<0x{ord(token[0]) & 0xFF:02X}>"]
    return found


def token_text(number: int) -> str:
    """Returns the token of a number; the unknown one for numbers beyond the vocabulary."""
    text = _VOCABULARY.texts[number] if 0 <= number < len(_VOCABULARY) else "<unk>"
    return " " if text == "\u2581" else text


def embedding(tokens: Sequence[str], width: int) -> list[float]:
    """Returns the normalised bag of tokens; texts that share words have a higher cosine."""
    sums = [float(sum(column)) for column in zip(*(_code(token_id(token), width) for token in tokens), strict=True)]
    return normalised(sums)


def normalised(vector: Sequence[float]) -> list[float]:
    """Returns a vector of length 1, or the null vector as it is."""
    norm = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / norm for value in vector]


@functools.lru_cache(maxsize=4096)
def _code(number: int, width: int) -> tuple[int, ...]:
    """Returns the code of one token; half of it is common to all tokens without a successor of their own."""
    own = tuple(_draw(number * width, width))
    if _SUCCESSORS[number] == _DEFAULT and number != _NOT_PLAIN:
        return _common(width) + own[width // 2 :]
    return own


@functools.lru_cache(maxsize=8)
def _common(width: int) -> tuple[int, ...]:
    return tuple(_draw(len(_VOCABULARY) * width, width // 2))


def _draw(first: int, count: int) -> Iterator[int]:
    """Yields draws of +-1 from place `first`; each 64 bits of the generator give two."""
    assert first % 2 == 0
    state = _advanced(_STATE, first // 2)
    for _ in range(0, count, 2):
        state = (state * _FACTOR + _STEP) & _MASK
        turn = state >> 122
        folded = (state >> 64) ^ (state & 0xFFFFFFFFFFFFFFFF)
        bits = ((folded >> turn) | (folded << (64 - turn))) & 0xFFFFFFFFFFFFFFFF
        yield 1 if bits >> 31 & 1 else -1
        yield 1 if bits >> 63 else -1


def _advanced(state: int, steps: int) -> int:
    """Returns the state after so many steps, in as many operations as `steps` has bits."""
    factor, plus = 1, 0
    power, add = _FACTOR, _STEP
    while steps:
        if steps & 1:
            factor = factor * power & _MASK
            plus = (plus * power + add) & _MASK
        add = (power + 1) * add & _MASK
        power = power * power & _MASK
        steps >>= 1
    return (factor * state + plus) & _MASK


def runners_up(before: str, count: int) -> tuple[tuple[str, float], ...]:
    """Returns the most likely tokens after a token but the one that is said, with their log probabilities."""
    return _ranking(token_id(before))[1 : count + 1]


@functools.lru_cache(maxsize=64)
def _ranking(number: int) -> tuple[tuple[str, float], ...]:
    """Returns the twenty most likely tokens after a token, as the tiny model's weights rank them."""
    read = _code(number, _TINY_WIDTH)
    scale = _GAIN / _TINY_WIDTH
    logits = [scale * sum(map(operator.mul, row, read)) for row in _head()]
    best = sorted(range(len(logits)), key=lambda place: -logits[place])[: _MOST_RANKED + 1]
    top = logits[best[0]]
    return tuple((token_text(place), _logprob(logits[place] - top)) for place in best)


def _logprob(value: float) -> float:
    """Returns a log probability as the engine tells it, which keeps the probability in 32 bits."""
    probability = struct.unpack("<f", struct.pack("<f", math.exp(value)))[0]
    return math.log(probability) if probability else _LOWEST


@functools.cache
def _head() -> list[list[float]]:
    """Returns the rows of the tiny model's last matrix, before they are scaled; see `engine.weights`."""
    rows = [[0.0] * _TINY_WIDTH for _ in range(len(_VOCABULARY))]
    code = [*map(float, _common(_TINY_WIDTH)), *[0.0] * (_TINY_WIDTH - _TINY_WIDTH // 2)]
    _add(rows[_DEFAULT], code, 2.0)
    for number, after in enumerate(_SUCCESSORS):
        if after != _DEFAULT or number == _NOT_PLAIN:
            _add(rows[after], _code(number, _TINY_WIDTH), 1.0)
    for text, share in SHARES:
        _add(rows[_INDEX[text]], code, share * 2.0)
    for text, choices in AFTER.items():
        for choice, share in choices:
            _add(rows[_INDEX[choice]], _code(_INDEX[text], _TINY_WIDTH), share)
    for text in BLANKS:
        _add(rows[_INDEX[text]], code, -1.0)
        for closer in AFTER:
            _add(rows[_INDEX[text]], _code(_INDEX[closer], _TINY_WIDTH), -0.5)
    _add(rows[_INDEX["<tool_call>"]], _code(_VOCABULARY.numbers[0], _TINY_WIDTH), 0.5)
    return rows


def _add(row: list[float], values: Sequence[float], factor: float) -> None:
    for place, value in enumerate(values):
        row[place] += factor * value
