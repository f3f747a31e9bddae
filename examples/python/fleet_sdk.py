"""How the SDK connects with what the environment says: a user and password, or a file of credentials."""

import os

from sollol_bus import BusConfig

env = os.environ.get


def settings() -> BusConfig:
    """The settings of a connection."""
    return BusConfig(
        url=env("SOLLOL_NATS", "nats://127.0.0.1:4222"),
        user=env("SOLLOL_NATS_USER"),
        password=env("SOLLOL_NATS_PASSWORD"),
        creds_file=env("SOLLOL_NATS_CREDS_FILE"),
        tls_ca_file=env("SOLLOL_NATS_TLS_CA_FILE"),
    )
