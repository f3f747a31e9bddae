"""Files that the settings of a connection name."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sollol_bus.errors import ConfigError
from sollol_bus.transport.config import BusConfig
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.credentials import credentials_of


@pytest.mark.parametrize("field", ["creds_file", "tls_ca_file"])
async def test_a_file_that_is_not_there_is_named_before_anybody_is_called(field: str) -> None:
    config = msgspec.structs.replace(BusConfig(url="nats://127.0.0.1:1"), **{field: "/no/such.file"})
    with pytest.raises(ConfigError, match=rf"{field}='/no/such.file' cannot be read: No such file or directory"):
        await Bus.connect(config)


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(ConfigError, match=rf"tls_ca_file='{path}' holds no certificate"):
        credentials_of(BusConfig(tls_ca_file=str(path)))


def test_a_user_goes_before_a_token() -> None:
    assert credentials_of(BusConfig(user="me", password="secret")) == {"user": "me", "password": "secret"}
    assert credentials_of(BusConfig(password="secret")) == {"token": "secret"}
