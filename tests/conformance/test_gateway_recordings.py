"""The gateway is held to what a real Ollama says at its door, with an emulated one behind it.

What is compared leaves out the fields that the gateway says it adds. `python -m
sollol_agents.lab.testing.recordings --gateway` plays any group against any gateway and lists the differences.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.recordings.form import load_cases
from sollol_agents.lab.testing.recordings.playing import ADDED_BY_GATEWAY, play_cases, table
from sollol_agents.lab.testing.stack import QUICK_WARM_UP_S, EmulatedSystem
from sollol_agents.scorer.config import ScorerConfig

FOLDER: Final = Path(os.environ.get("SOLLOL_TEST_RECORDINGS") or Path(__file__).parent / "recordings")
CASES: Final = load_cases(FOLDER / "ollama-0.33.jsonl")
AT_LEAST: Final = {
    "BODY": 75,
    "METHODS": 20,
    "MGMT_ERR": 17,
    "ORIGIN": 33,
    "PATHS": 47,
    "READ": 26,
    "SHOW": 5,
    "UNICODE": 42,
    "MANAGE": 45,
    "CLOUD": 6,
    "NAMES": 30,
    "TYPES": 170,
    "CAPS": 70,
    "IMAGE": 18,
    "GEN": 36,
    "FORMAT": 13,
    "CHAT": 18,
    "CONTINUE": 17,
    "EMBED": 15,
    "EMBEDX": 39,
    "RAW": 34,
    "RESPONSES": 22,
    "MESSAGES": 29,
    "V1": 35,
    "V1X": 12,
    "LOGPROBS": 26,
    "KEEP": 13,  # a fourteenth hangs on whether a model is loaded ahead by then
    "LIMITS": 32,
}
"""Cases of each group that are answered as recorded; what improves raises its number."""
MODELS: Final = ("READ", "MGMT_ERR", "NAMES", "MANAGE", "CLOUD", "SHOW")
PLAYED_TOGETHER: Final = [MODELS, *((group,) for group in AT_LEAST if group not in MODELS)]
"""Groups on one system, in the order in which they were recorded: what models there are depends on those before."""
GATEWAY: Final = GatewayConfig(port=0)
ENGINE: Final = {
    "preset": "recorded",
    "model": (),
    "preload": (),
    "time_scale": 20.0,
    "decode_tps": 0.0,
    "prefill_tps": 0.0,
}

# one caller's wrong requests must not decide about the next case
NO_BREAKER: Final = ScorerConfig(
    failures_to_open=1000,
    breaker_open_s=0.001,
    breaker_trials=100,
    successes_to_close=1,
    warm_up_s=QUICK_WARM_UP_S,
)


@pytest.mark.parametrize("groups", PLAYED_TOGETHER, ids="+".join)
async def test_as_many_cases_as_before_are_answered_as_recorded(groups: tuple[str, ...], tmp_path: Path) -> None:
    cases = [case for case in CASES if case.group in groups and case.server is None]
    async with EmulatedSystem(tmp_path, slots=1, engine=ENGINE, gateway=GATEWAY, scorer=NO_BREAKER) as system:
        outcomes = await play_cases(system.gateway.url, cases, ADDED_BY_GATEWAY)
    print(table(outcomes))
    told = [f"{one.name}: {difference}" for one in outcomes for difference in one.differences]
    for group in groups:
        answered = sum(one.group == group and not one.differences for one in outcomes)
        assert answered >= AT_LEAST[group], "\n".join([group, *told])
