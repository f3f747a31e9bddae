"""Requests made from the gateway's own OpenAPI document, right ones and wrong ones: the answers keep its word.

`test_gateway_openapi` runs this file in a process of its own: the package that makes the requests takes ten seconds to
import, and must be there when tests are collected, which every worker does.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from sollol_agents.gateway.pages.openapi import document

schemathesis = pytest.importorskip("schemathesis")
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
def test_every_answer_is_one_that_the_document_names(case: Any) -> None:
    case.headers["X-Sollol-Deadline-S"] = "5"
    answer = case.call(base_url=os.environ["SOLLOL_TEST_GATEWAY"], timeout=20)
    case.validate_response(answer, excluded_checks=LEFT_OUT)
