"""What the scorer has learnt, as the document that outlives it.

The document is read strictly: a figure outside its range makes the whole of it unusable, because a value that no
scorer writes says nothing about the others beside it.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sollol_schemas.instants import NOT_WRITTEN, seconds_of, take_over
from sollol_schemas.units import FormerInstant, Instant

NAME_MAX = 512
"""Longer names are not kept: callers choose those of models that they ask for."""

CATEGORY_MAX = 64
"""Of the names of categories: those of coding tasks, and of task types."""

_Speed = Annotated[float, Meta(ge=0, le=1e6)]
_Seconds = Annotated[float, Meta(ge=0, le=1e9)]
_Samples = Annotated[int, Meta(ge=0, le=2**53)]
_Weight = Annotated[float, Meta(ge=0, le=1e6)]
_Log = Annotated[float, Meta(ge=-50, le=50)]
_Name = Annotated[str, Meta(max_length=NAME_MAX)]


class LearnedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Speeds of one model on one node, alone and at the usual pace; 0 is not measured."""

    prompt_tps: _Speed = 0.0
    prompt_samples: _Samples = 0
    decode_tps: _Speed = 0.0
    decode_samples: _Samples = 0
    load_s: _Seconds = 0.0


class LearnedSpeeds(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Speeds of one node."""

    machine: tuple[_Speed, _Speed]
    """Bandwidth and prompt speed that the hardware was taken to have; speeds of other hardware are not used."""
    beta: Annotated[float, Meta(ge=0, le=10)]
    log_ratio: dict[str, _Log] = {}
    """How far measured speeds lie from the expected ones (natural logarithm), by kind of speed."""
    ratio_samples: dict[str, _Samples] = {}
    models: dict[_Name, LearnedModel] = {}


class LearnedRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Decayed counts of attempts and successes."""

    attempts: _Weight = 0.0
    successes: _Weight = 0.0
    deviation: _Weight = 0.0

    def __post_init__(self) -> None:
        if self.successes > self.attempts:
            raise ValueError("more successes than attempts")


class LearnedPrefix(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence in an engine's cache."""

    key: _Name
    tokens: _Samples
    hashes: tuple[_Name, ...] = ()


class LearnedNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one node beyond what it says itself."""

    instance: _Name
    """Of the node monitor; breakers and caches of another process are not used."""
    speeds: LearnedSpeeds
    wake_s: _Seconds = 0.0
    """How long waking it takes; 0: it was never measured."""
    pace: Annotated[float, Meta(ge=0.01, le=2)] = 1.0
    record: LearnedRecord = LearnedRecord()
    model_records: dict[_Name, LearnedRecord] = {}
    opened_for_s: dict[_Name, _Seconds] = {}
    """Circuit breakers that are not closed, by model: how long ago they opened."""
    prefixes: dict[_Name, tuple[LearnedPrefix, ...]] = {}


class LearnedLength(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cell of the table of answer lengths."""

    key: Annotated[tuple[_Name, ...], Meta(min_length=1, max_length=3)]
    samples: _Samples
    mean_log: _Log


class LearnedQuality(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a model's answers were rated in one category."""

    model: _Name
    category: Annotated[str, Meta(max_length=CATEGORY_MAX)] = ""
    """Empty: all of them together."""
    caller: _Name = ""
    """Who said so, as an opaque word."""
    good: _Weight = 0.0
    """How much of the answers was good."""
    answers: _Weight = 0.0
    """Rated answers, old ones counting for less."""
    idle_s: _Seconds = 0.0
    """Seconds since the latest of them."""

    def __post_init__(self) -> None:
        if self.good > self.answers:
            raise ValueError("more good answers than answers")


class LearnedPosition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last feedback that was learnt from, by its place in the stream of events."""

    stream_seq: _Samples = 0
    stored_at: Instant = ""

    def is_before(self, stream_seq: int, stored_at: str) -> bool:
        """Whether a message was stored later; numbers begin anew in a new stream, and clocks may be set back."""
        return stream_seq > self.stream_seq or seconds_of(stored_at) > seconds_of(self.stored_at)


class LearnedScores(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many answers were rated, and the sum of their scores."""

    count: _Samples = 0
    sum: Annotated[float, Meta(ge=0, le=1e9)] = 0.0


NOT_RATED: Final = LearnedScores()


class LearnedTrial(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the trial of a group's candidate is."""

    group: _Name = ""
    model: _Name
    """The candidate's."""
    candidate: LearnedScores = NOT_RATED
    others: LearnedScores = NOT_RATED
    candidate_unpaired: LearnedScores = NOT_RATED
    """Rated since the last pair."""
    others_unpaired: LearnedScores = NOT_RATED
    pairs: _Samples = 0
    difference_sum: Annotated[float, Meta(ge=-1e9, le=1e9)] = 0.0
    square_sum: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    up: Annotated[float, Meta(ge=0, le=1e12)] = 1.0
    """Wealth of whoever bets that the candidate is better; `down`: that it is worse."""
    down: Annotated[float, Meta(ge=0, le=1e12)] = 1.0


class Learned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="scorer.learned.v1", tag_field="type"):
    """Everything worth keeping, least recently used first where there is an order."""

    term: _Samples = 0
    """Of the scorer that wrote it: one out of office never overwrites its successor's."""
    saved_at: Instant = ""
    saved_at_unix_s: FormerInstant = NOT_WRITTEN
    nodes: dict[_Name, LearnedNode] = {}
    lengths: tuple[LearnedLength, ...] = ()
    demand: dict[_Name, _Speed] = {}
    """Requests per second of each model."""
    qualities: tuple[LearnedQuality, ...] = ()
    """How the models' answers were rated, the best known last."""
    trials: tuple[LearnedTrial, ...] = ()
    """Of candidates, one for each group at most."""
    heard: LearnedPosition = LearnedPosition()
    """How far feedback was learnt from."""

    def __post_init__(self) -> None:
        """Reads what older versions wrote."""
        take_over(self, "saved_at_unix_s", "saved_at")
