"""Ids of requests and jobs."""

from __future__ import annotations

import time

from sollol_schemas.ids import attempt_id, is_bus_id, is_request_id, new_id, request_id_of


def test_a_new_id_names_a_request_and_no_other() -> None:
    made = [new_id() for _ in range(2000)]
    assert len(set(made)) == len(made)
    assert {len(one) for one in made} == {23}
    assert all(is_request_id(one) and is_bus_id(attempt_id(one, 99_999_999)) for one in made)
    assert request_id_of(attempt_id(made[0], 7)) == made[0]


def test_new_ids_are_in_the_order_of_time_for_centuries() -> None:
    before = new_id()
    until = time.time_ns() + (2 << 20)
    while time.time_ns() < until:
        pass
    assert before < new_id()
    in_400_years = f"{time.time_ns() + 400 * 366 * 86_400 * 10**9 >> 20:011x}"
    assert new_id() < in_400_years
    assert len(in_400_years) == 11
