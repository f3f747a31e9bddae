"""The gateway's own OpenAPI document, and what is asked of the gateway by it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import msgspec
import pytest

from sollol_agents.gateway.pages.openapi import document
from sollol_agents.lab.testing.gateway_fleet import GatewayFleet

CASES = Path(__file__).with_name("gateway_openapi_cases.py")


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="make install puts schemathesis here")
@pytest.mark.timeout(600)
def test_every_answer_is_one_that_the_document_names(fleet_behind_gateway: GatewayFleet) -> None:
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=120", str(CASES))
    surroundings = {**os.environ, "SOLLOL_TEST_GATEWAY": fleet_behind_gateway.url}
    ran = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False, timeout=540)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout


def test_the_document_is_the_one_that_is_served(fleet_behind_gateway: GatewayFleet) -> None:
    served = httpx.get(f"{fleet_behind_gateway.url}/openapi.json", trust_env=False)
    assert served.json() == msgspec.json.decode(msgspec.json.encode(document()))


def test_nothing_is_left_open_afterwards(fleet_behind_gateway: GatewayFleet) -> None:
    with httpx.Client(base_url=fleet_behind_gateway.url, trust_env=False, timeout=20) as http:
        until_mono_s = time.monotonic() + 60
        while time.monotonic() < until_mono_s:
            views = http.get("/api/dashboard").json()["nodes"]["nodes"]
            open_here = "sollol_gateway_active_requests 0.0" not in http.get("/metrics").text
            if not open_here and not any(view.get("in_flight") or view["telemetry"].get("in_flight") for view in views):
                break
            time.sleep(0.02)
        else:
            raise AssertionError(f"still in flight: {views}")
        answer = http.post("/api/generate", json={"model": "countdown", "prompt": "count 2", "stream": False})
        assert answer.json()["response"].split() == ["1", "0"]
        assert 'code="internal"' not in http.get("/metrics").text
