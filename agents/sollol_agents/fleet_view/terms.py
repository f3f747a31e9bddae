"""The terms of a cost in the order in which they come, with the heading of each; and what the figures mean."""

from __future__ import annotations

from typing import Final

TERMS: Final = {
    "wait_s": "WAIT",
    "overtaking_s": "OVERTAKEN",
    "wake_s": "WAKE",
    "load_s": "LOAD",
    "prefill_s": "PREFILL",
    "decode_s": "DECODE",
    "slowdown_s": "SLOWED",
    "evict_s": "EVICTS",
    "prefix_evict_s": "PREFIXES",
    "risk_s": "RISK",
    "preference_s": "PREFERENCE",
    "rtt_s": "DISTANCE",
}
MATTERS_S: Final = 0.0005
"""A term is shown when it is larger for some candidate."""
LEGEND: Final = (
    "cost: predicted seconds that the request takes on a node, those included that it takes from others; "
    "the least wins. predicted: from the start on the node to the end of the answer. "
    "actual: the same, as the node measured it."
)
