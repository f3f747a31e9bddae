"""Requests made from the gateway's own OpenAPI document, right ones and wrong ones: the answers keep its word."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings

from sollol_agents.gateway.pages.openapi import document
from sollol_agents.lab.testing.gateway_fleet import GatewayFleet

schemathesis = pytest.importorskip("schemathesis", reason="make install puts schemathesis here")
from schemathesis import checks  # noqa: E402
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

LEFT_OUT = [
    # 501 to 504 say that engines or nodes fail; that a model exists, or can embed, is in no schema
    checks.not_a_server_error,
    openapi_checks.positive_data_acceptance,
    # fields beside those of the schema go to the engine, which says what it thinks of them
    openapi_checks.negative_data_rejection,
]
EXAMPLES = 5


pytest_plugins = ["schemathesis.pytest.plugin"]  # for these tests alone: its import is slow
api = schemathesis.openapi.from_dict(document())


@api.parametrize()  # type: ignore[untyped-decorator]  # a package that the type check does without
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.timeout(120)
def test_every_answer_is_one_that_the_document_names(case: Any, fleet_behind_gateway: GatewayFleet) -> None:
    case.headers["X-Sollol-Deadline-S"] = "5"
    answer = case.call(base_url=fleet_behind_gateway.url, timeout=20)
    case.validate_response(answer, excluded_checks=LEFT_OUT)


def test_the_document_is_the_one_that_is_served(fleet_behind_gateway: GatewayFleet) -> None:
    served = httpx.get(f"{fleet_behind_gateway.url}/openapi.json", trust_env=False)
    assert served.json() == msgspec.json.decode(msgspec.json.encode(document()))


def test_nothing_is_left_open_afterwards(fleet_behind_gateway: GatewayFleet) -> None:
    with httpx.Client(base_url=fleet_behind_gateway.url, trust_env=False, timeout=20) as http:
        for _ in range(400):
            views = http.get("/api/dashboard").json()["nodes"]["nodes"]
            open_here = "sollol_gateway_active_requests 0.0" not in http.get("/metrics").text
            if not open_here and not any(view.get("in_flight") or view["telemetry"].get("in_flight") for view in views):
                break
        else:
            raise AssertionError(f"still in flight: {views}")
        answer = http.post("/api/generate", json={"model": "countdown", "prompt": "count 2", "stream": False})
        assert answer.json()["response"].split() == ["1", "0"]
        assert 'code="internal"' not in http.get("/metrics").text
