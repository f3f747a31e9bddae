"""What strangers put on the wire past every client library: nothing of it deafens anybody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import certifi
import pytest

from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import ConfigError
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg
from sollol_schemas import subjects

CANARY = "crown-jewels"
HEADERS = [
    pytest.param(b"NATS/1.0", id="nothing after the version"),
    pytest.param(b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", id="a status that is no text"),
    pytest.param(b"NATS/1.0 404 \xff crown-jewels\r\n\r\n", id="a description that is no text"),
    pytest.param(b"NATS/1.0\r\n\xff\xff: \xfe\r\n\r\n", id="a name that is no text"),
    pytest.param(b"NATS/1.0\r\nno colon\r\n\r\n", id="a line without a colon"),
    pytest.param(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00", id="no version at all"),
]


async def publish_raw(url: str, subject: str, headers: bytes, *, reply: str = "") -> None:
    """Publishes a message whose block of headers is whatever it is, and returns when the server has it."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        await reader.readline()
        writer.write(b'CONNECT {"headers":true,"no_responders":true,"verbose":false}\r\n')
        told = b"HPUB %s %s %d %d\r\n" % (subject.encode(), reply.encode(), len(headers), len(headers))
        writer.write(told + headers + b"\r\nPING\r\n")
        while (line := await reader.readline()) != b"PONG\r\n":
            assert line, "the server closed the connection"
            assert not line.startswith(b"-ERR"), line
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("headers", HEADERS)
async def test_a_message_with_broken_headers_ends_no_reading_and_is_not_quoted(
    nats_server: EmbeddedServer, bus: Bus, headers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Msg] = []
    bus.subscribe("strange", heard.append)
    await bus.flush()
    await publish_raw(nats_server.url, "strange", headers)
    bus.publish("strange", b"after it")
    await eventually(lambda: any(msg.data == b"after it" for msg in heard))
    assert bus.reconnects == 0
    assert CANARY not in caplog.text


@pytest.mark.parametrize("headers", HEADERS[:3])
async def test_no_actor_is_deafened_and_no_queue_chokes_on_a_message_with_broken_headers(
    tmp_path: Path, headers: bytes
) -> None:
    async with EmulatedSystem(tmp_path) as system:
        url = system.client.bus.config.url
        for subject in ("$SRV.PING", subjects.CHAT, subjects.TELEMETRY.of("n1"), subjects.JOB_SUBMIT.of(5, "strange")):
            await publish_raw(url, subject, headers)
        job_id = await system.client.generate_async(MODEL, "count down from 3")
        assert (await system.client.wait_for_task(job_id, timeout_s=20)).text.split() == ["2", "1", "0"]
        assert (await system.client.generate(MODEL, "count down from 2")).text.split() == ["1", "0"]


async def test_a_connection_whose_reading_ends_is_made_anew_at_once(bus: Bus) -> None:
    heard: list[Msg] = []
    bus.subscribe("news", heard.append)
    await bus.flush()
    parser = bus.nats._ps
    parse = parser.parse

    async def fails_once(data: bytes = b"") -> None:
        parser.parse = parse  # type: ignore[method-assign]
        raise LookupError("a defect of the library")

    parser.parse = fails_once  # type: ignore[method-assign]
    bus.publish("news")
    await eventually(lambda: bus.reconnects == 1)
    bus.publish("news", b"again")
    await eventually(lambda: any(msg.data == b"again" for msg in heard))


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_where_tls_is_asked_for_nothing_is_sent_to_a_server_that_offers_none(scheme: str) -> None:
    sent = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","headers":true,"max_payload":1048576}\r\n')
        sent.extend(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        config = BusConfig(
            url=f"{scheme}://127.0.0.1:{port}",
            user="u",
            password="secret",
            tls_ca_file=certifi.where() if scheme == "nats" else None,
            connect_timeout_s=1.0,
        )
        with pytest.raises(ConfigError, match="offers no TLS"):
            await Bus.connect(config)
    assert not sent
