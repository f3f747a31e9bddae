"""What every program here needs: a connection as the caller, its subjects, and how to read an answer."""

import asyncio
import json
import os
import re
import ssl
import sys
from pathlib import Path

import nats
import nats.aio.client
import nats.aio.msg
import nats.errors

CREDS_FILE = os.environ.get("SOLLOL_NATS_CREDS_FILE")
INBOXES = re.search(r"_INBOX_cli\.([\w-]+)", Path(CREDS_FILE).read_text()) if CREDS_FILE else None
"""Whoever has a file of credentials asks under the name in it, and listens for answers below that."""
HEARS_DECISIONS = INBOXES is None
"""A client among members hears nobody's decisions; those about its own requests come with the answers."""
CONNECT_S = 5
PATIENCE_S = 5
"""An answer to a deadline that has passed may come so much later."""
NOBODY = "503: nobody answers there: is `sollol up` running?"


def on(what: str) -> str:
    """The subject for a question."""
    return f"sollol.v1.as.{INBOXES[1]}.{what}" if INBOXES else f"sollol.v1.{what}"


def news_of_jobs() -> str:
    """The subject on which the caller's jobs are told of; the last two tokens are a job's id and its state."""
    return f"sollol.v1.events.job.{INBOXES[1]}.*.*" if INBOXES else "sollol.v1.events.job.*.*"


async def connect() -> nats.aio.client.Client:
    """A connection with what the environment says: a user and password, or a file of credentials."""
    given = {
        "user": os.environ.get("SOLLOL_NATS_USER"),
        "password": os.environ.get("SOLLOL_NATS_PASSWORD"),
        "user_credentials": CREDS_FILE,
    }
    if ca_file := os.environ.get("SOLLOL_NATS_TLS_CA_FILE"):
        given["tls"] = ssl.create_default_context(cafile=ca_file)
    url = os.environ.get("SOLLOL_NATS", "nats://127.0.0.1:4222")
    try:
        return await asyncio.wait_for(  # by itself it tries for two minutes
            nats.connect(
                url,
                inbox_prefix=INBOXES[0] if INBOXES else "_INBOX",
                error_cb=tell,
                **{name: value for name, value in given.items() if value},
            ),
            CONNECT_S,
        )
    except (OSError, TimeoutError, nats.errors.Error):
        sys.exit(f"cannot connect to {url}: is `sollol up` running?")


async def tell(error: Exception) -> None:
    """One line about what goes wrong with the connection."""
    print(f"nats: {error}", file=sys.stderr)


def check(msg: nats.aio.msg.Msg) -> nats.aio.msg.Msg:
    """The message; ends the program when it is an error, or says that nobody is there."""
    headers = msg.headers or {}
    if "Nats-Service-Error-Code" in headers:
        sys.exit(f"{headers['Nats-Service-Error-Code']}: {headers.get('Nats-Service-Error')}")
    if headers.get("Status") == "503":  # the server itself says so, with an empty message: not the end of an answer
        sys.exit(NOBODY)
    return msg


async def ask(nc: nats.aio.client.Client, what: str, body: dict, limit_s: float) -> nats.aio.msg.Msg:
    """The answer to a question that has one."""
    try:
        return check(await nc.request(on(what), json.dumps(body).encode(), timeout=limit_s))
    except nats.errors.NoRespondersError:
        sys.exit(NOBODY)


def is_end(msg: nats.aio.msg.Msg, count: int) -> bool:
    """Whether a stream is whole with this message, after `count` others."""
    if msg.data:
        return False
    if (msg.headers or {}).get("Sollol-Chunks") != str(count):
        sys.exit("pieces of the answer were lost on the way")
    return True
