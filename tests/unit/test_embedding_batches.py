"""Which requests for embeddings go together, and how their answer is taken apart again; all pure."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.dispatcher.requests.collecting import KINDS_MAX, Collector
from sollol_agents.dispatcher.requests.intake import Request, take_in
from sollol_agents.dispatcher.requests.merging import (
    Key,
    Part,
    Unlike,
    figures_for,
    merged,
    part_of,
    shares,
    taken_apart,
)
from sollol_schemas import headers as h
from sollol_schemas.callers import Standing
from sollol_schemas.context import RequestKind
from sollol_schemas.execution import Figures
from sollol_schemas.inboxes import CLIENT_INBOX_PREFIX

ANYBODY = Standing()


def request(body: dict[str, Any], *, path: str = "", **headers: str) -> Request:
    kind = RequestKind.PASSTHROUGH if path else RequestKind.EMBED
    head = {**({h.PATH: path} if path else {}), **headers}
    return take_in(kind, json.dumps(body).encode(), head, f"{CLIENT_INBOX_PREFIX}.x", default_deadline_s=60.0)


def kind_of(
    body: dict[str, Any], *, path: str = "", standing: Standing = ANYBODY, head: dict[str, str] | None = None
) -> Key | None:
    found = part_of(request(body, path=path, **(head or {})), standing)
    return None if found is None else found[0]


BASE = {"model": "e", "input": "one"}
ROUTING = "X-Sollol-"


def test_only_what_differs_in_its_texts_alone_goes_together() -> None:
    key = kind_of(BASE)
    assert key is not None
    assert kind_of(BASE | {"input": ["two", "three"], "stream": True}) == key
    others = [
        kind_of(BASE | {"model": "f"}),
        kind_of(BASE | {"dimensions": 64}),
        kind_of(BASE | {"truncate": False}),
        kind_of(BASE | {"options": {"num_ctx": 9}}),
        kind_of(BASE | {"keep_alive": 0}),
        kind_of(BASE | {"priority": "high"}),
        kind_of(BASE | {"node_id": "attic"}),
        kind_of(BASE, path="/v1/embeddings"),
        kind_of(BASE | {"encoding_format": "base64"}, path="/v1/embeddings"),
        kind_of(BASE, head={h.CALLER: "alice"}),
        kind_of(BASE, head={h.CALLER: "bob"}),
    ]
    assert None not in others
    assert len({key, *others}) == len(others) + 1


@pytest.mark.parametrize(
    "body",
    [
        {"input": []},
        {"input": ""},
        {"input": ["a", ""]},
        {"input": [1, 2, 3]},
        {"input": [[1, 2], [3]]},
        {"input": ["a", 1]},
        {"input": ["x"] * 9},
        {"input": "x" * 4096},
        {"auto_batch": False},
    ],
    ids=str,
)
def test_what_is_large_or_odd_or_asks_for_it_goes_alone(body: dict[str, Any]) -> None:
    assert kind_of(BASE | body) is None


def test_jobs_and_what_was_sent_before_go_alone_and_so_does_whoever_is_counted() -> None:
    assert kind_of(BASE, head={h.JOB: "night-1"}) is None
    assert kind_of(BASE, head={h.RESEND: "1"}) is None
    assert kind_of(BASE, head={h.NUMBER: "2"}) is None
    assert kind_of(BASE, head={f"{ROUTING}Auto-Batch": "false"}) is None
    assert kind_of(BASE, path="/v1/chat/completions") is None
    assert kind_of({"model": "e", "prompt": "x"}, path="/api/embeddings") is None
    assert kind_of(BASE, standing=Standing(requests_per_minute=60)) is None
    assert kind_of(BASE, standing=Standing(max_concurrent=2)) is None
    assert kind_of(BASE, standing=Standing(max_priority=3)) is not None


# -- one body, and back ---------------------------------------------------------------------------------------


def pair(*texts: list[str], path: str = "") -> tuple[Key, list[Part]]:
    found = [part_of(request(BASE | {"input": own}, path=path), ANYBODY) for own in texts]
    assert None not in found
    return found[0][0], [one[1] for one in found if one is not None]  # type: ignore[index]


def test_texts_go_in_as_they_were_written_and_vectors_come_back_digit_by_digit() -> None:
    key, parts = pair(["ü\n"], ["b", "c"])
    assert json.loads(merged(key, parts)) == {"model": "e", "input": ["ü\n", "b", "c"]}
    told = (
        b'{"model":"e","embeddings":[[1.10,2E-3],[3],[0.30000000000000004]],"total_duration":7,"prompt_eval_count":9}'
    )
    first, second = taken_apart(key, told, parts)
    assert first.startswith(b'{"model":"e","embeddings":[[1.10,2E-3]],"total_duration":7')
    assert b"[[3],[0.30000000000000004]]" in second
    assert sum(json.loads(one)["prompt_eval_count"] for one in (first, second)) == 9


def test_openais_rows_are_numbered_anew_for_each_caller() -> None:
    key, parts = pair(["a", "b"], ["cc"], path="/v1/embeddings")
    rows = [
        {"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(("A", "B", "C"))
    ]
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    told = json.dumps({"object": "list", "data": rows[::-1], "model": "e", "usage": usage}).encode()
    first, second = (json.loads(one) for one in taken_apart(key, told, parts))
    assert [(row["index"], row["embedding"]) for row in first["data"]] == [(0, "A"), (1, "B")]
    assert [(row["index"], row["embedding"]) for row in second["data"]] == [(0, "C")]
    assert first["usage"]["prompt_tokens"] + second["usage"]["prompt_tokens"] == 8
    assert (first["object"], first["model"], first["usage"]["total_tokens"]) == ("list", "e", 4)


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"[]",
        b'{"model":"e"}',
        b'{"embeddings":[[1]]}',
        b'{"embeddings":[[1],[2],[3]]}',
        b'{"embeddings":7}',
        b'{"embeddings":[[1],[2]],"prompt_eval_count":"many"}',
    ],
)
def test_an_answer_of_another_shape_is_not_taken_apart(told: bytes) -> None:
    key, parts = pair(["a"], ["b"])
    with pytest.raises(Unlike):
        taken_apart(key, told, parts)
    key, parts = pair(["a"], ["b"], path="/v1/embeddings")
    for index in (b"0", b"null", b"1.5", b'"x"', b"[]"):  # of an engine that says anything at all
        with pytest.raises(Unlike):
            taken_apart(key, b'{"data":[{"index":0},{"index":%s}]}' % index, parts)


def test_counts_of_any_size_are_shared() -> None:
    assert shares(10**400, [1, 1]) == [10**400 // 2] * 2
    assert sum(shares(-7, [3, 2])) == -7


@given(st.integers(0, 10_000), st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_shares_add_up_and_follow_the_weights(total: int, weights: list[int]) -> None:
    parts = shares(total, weights)
    assert sum(parts) == total
    assert min(parts) >= (1 if total >= len(weights) else 0)
    by_weight = sorted(zip(weights, parts, strict=True))
    assert all(low <= high + 1 for (_, low), (_, high) in itertools.pairwise(by_weight))


def test_what_was_used_is_shared_and_the_time_is_everybodys() -> None:
    _, parts = pair(["aaa"], ["bbb"])
    first, second = figures_for(Figures(actual_s=1.5, prompt_tokens=9, energy_j=4.0), parts)
    assert (first.actual_s, second.actual_s) == (1.5, 1.5)
    assert (first.prompt_tokens or 0) + (second.prompt_tokens or 0) == 9
    assert (first.energy_j or 0) + (second.energy_j or 0) == 4.0
    assert figures_for(None, parts)[0] == Figures()


# -- who waits ------------------------------------------------------------------------------------------------


def collector(**changes: Any) -> Collector[str, int]:
    return Collector(**{"window_s": 0.004, "texts_max": 4, "tokens_max": 100, **changes})


def offer(
    made: Collector[str, int], member: int, now: float, *, key: str = "k", texts: int = 1, tokens: int = 1
) -> bool:
    return made.offer(key, member, texts=texts, tokens=tokens, now=now)


def test_who_is_alone_goes_at_once_and_others_wait_for_each_other() -> None:
    made = collector()
    assert not offer(made, 1, 0.0)
    assert offer(made, 2, 0.001)
    assert offer(made, 3, 0.002)
    assert not offer(made, 9, 0.002, key="another kind")
    assert made.next_at() == 0.005
    assert made.due(0.004) == []
    assert made.due(0.005) == [("k", [2, 3])]
    assert len(made) == 0


def test_nobody_waits_once_nothing_of_the_kind_is_under_way() -> None:
    made = collector()
    offer(made, 1, 0.0)
    offer(made, 2, 0.001)
    made.ended("k")
    assert made.due(0.001) == [("k", [2])]
    made.ended("k")
    assert not offer(made, 3, 0.002)


def test_a_full_collection_goes_at_once_and_what_exceeds_it_alone() -> None:
    made = collector()
    offer(made, 1, 0.0)
    assert all(offer(made, member, 0.001) for member in (2, 3, 4, 5))
    assert made.due(0.001) == [("k", [2, 3, 4, 5])]
    assert offer(made, 6, 0.002, tokens=90)
    assert not offer(made, 7, 0.002, tokens=20)
    assert offer(made, 8, 0.002, tokens=10)
    assert made.due(0.002) == [("k", [6, 8])]


def test_who_is_gone_waits_no_more() -> None:
    made = collector()
    offer(made, 1, 0.0)
    offer(made, 2, 0.001)
    made.withdraw("k", 2)
    made.withdraw("k", 2)
    made.withdraw("x", 2)
    assert made.next_at() == float("inf")
    assert made.due(9.0) == []


def test_kinds_that_wait_are_bounded() -> None:
    made = collector()
    for number in range(2 * KINDS_MAX):
        offer(made, number, 0.0, key=str(number))
        offer(made, number, 0.0, key=str(number))
    assert len(made) == KINDS_MAX


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 5), st.booleans()), max_size=60))
def test_every_member_goes_exactly_once_and_within_the_window(steps: list[tuple[str, int, bool]]) -> None:
    made = collector()
    now, gone, came = 0.0, list[int](), dict[int, float]()
    under_way = list[str]()
    for number, (key, texts, ends) in enumerate(steps):
        now += 0.001
        if ends and under_way:
            made.ended(under_way.pop(0))
        for one, members in made.due(now):
            under_way.append(one)
            gone += members
            assert all(now - came[member] <= 0.0051 for member in members)
        came[number] = now
        if not offer(made, number, now, key=key, texts=texts):
            gone.append(number)
            under_way.append(key)
    for one, members in made.due(now + 1.0):
        under_way.append(one)
        gone += members
    assert sorted(gone) == list(range(len(steps)))
    assert len(made) == 0
