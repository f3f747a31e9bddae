"""The durations that a caller is told include a load that the node did for it."""

from __future__ import annotations

import json

from sollol_agents.node.attempts.loading import with_load


def test_a_load_is_in_the_durations_of_the_last_object() -> None:
    last = b'{"response":"\\"total_duration\\":1,","done":true,"total_duration":7,"load_duration":2,"eval_count":3}'
    told = json.loads(with_load(last, 1.5))
    assert (told["total_duration"], told["load_duration"], told["eval_count"]) == (1_500_000_007, 1_500_000_002, 3)
    assert told["response"] == json.loads(last)["response"]


def test_an_object_without_durations_stays_as_it_is() -> None:
    line = b'{"response":"x","done":false}'
    assert with_load(line, 1.5) == line
