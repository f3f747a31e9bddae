"""The tables of faults, read off what is decided by: whose fault a refusal of an engine is, and each code of ours."""

from __future__ import annotations

from sollol_agents.requests.faults import RULES
from sollol_schemas.errors import OWNER, RETRYABLE, STATUS, ErrorCode


def engines() -> str:
    """One row for each rule about what engines answer, in the order in which they are tried."""
    rows = ["| status | what the engine says | whose fault | told as | what the node lacks |", "|---|---|---|---|---|"]
    for rule in RULES:
        first, last = rule.statuses
        statuses = str(first) if first == last else f"{first} to {last}"
        fault = rule.fault
        rows.append(
            f"| {statuses} | {rule.what} | {fault.owner.value} | `{fault.code.value}` "
            f"| {fault.lack.value if fault.lack else ''} |"
        )
    return "\n".join(rows)


def codes() -> str:
    """One row for each code."""
    rows = ["| code | status | whose fault | tried elsewhere |", "|---|---|---|---|"]
    rows += [
        f"| `{code.value}` | {STATUS[code]} | {OWNER[code].value} | {'yes' if code in RETRYABLE else ''} |"
        for code in ErrorCode
    ]
    return "\n".join(rows)
