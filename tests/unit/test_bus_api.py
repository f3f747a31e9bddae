"""The public API is complete, and foreign exceptions never leave the module that knows them."""

from __future__ import annotations

import inspect

import nats.errors
import pytest

import sollol_bus
from sollol_bus import errors
from sollol_bus.errors import SollolError, error_from
from sollol_schemas.errors import STATUS, ErrorBody, ErrorCode


def error_classes() -> list[type[SollolError]]:
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, SollolError)]


def test_every_exported_name_exists_once() -> None:
    assert len(set(sollol_bus.__all__)) == len(sollol_bus.__all__)
    assert all(hasattr(sollol_bus, name) for name in sollol_bus.__all__)


@pytest.mark.parametrize("kind", error_classes(), ids=lambda c: c.__name__)
def test_every_error_is_exported_drawn_in_the_tree_and_has_a_default_message(kind: type[SollolError]) -> None:
    assert kind.__name__ in sollol_bus.__all__
    assert kind.__name__ in (errors.__doc__ or "")
    assert str(kind())


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_status_and_becomes_an_error(code: ErrorCode) -> None:
    assert 400 <= STATUS[code] <= 599
    error = error_from(ErrorBody(code=code, message="told", details={"a": 1}))
    assert str(error) == "told"
    assert error.details == {"a": 1}


def test_the_client_librarys_errors_share_the_base_that_the_connection_translates() -> None:
    """`Bus` catches `nats.errors.Error`; a class outside of it would pass through untranslated."""
    foreign = {
        name
        for name, kind in inspect.getmembers(nats.errors, inspect.isclass)
        if issubclass(kind, Exception) and not issubclass(kind, (nats.errors.Error, TimeoutError))
    }
    assert foreign == set()
