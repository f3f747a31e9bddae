"""A bus that is encrypted, of an authority of one's own."""

from __future__ import annotations

from pathlib import Path

from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.trust.certificates import new_ca, new_server


async def test_messages_of_every_size_pass_encrypted_and_after_a_break_too(tmp_path: Path) -> None:
    authority = new_ca(now=wall_s())
    own = new_server(authority, ["127.0.0.1"], now=wall_s())
    files = {"ca.pem": authority.certificate, "server.pem": own.certificate, "key.pem": own.key}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    tls = f'tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/key.pem" }}'
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=tls)
    async with EmbeddedServer(config) as server, Link(server.url) as link:
        bus = await Bus.connect(BusConfig(url=link.url.replace("nats:", "tls:"), tls_ca_file=str(tmp_path / "ca.pem")))
        try:
            bus.subscribe("echo", lambda msg: bus.answer(msg, msg.data))
            sizes = [0, 10, 100_000, bus.max_payload]
            assert [len((await bus.request("echo", bytes(size))).data) for size in sizes] == sizes
            link.cut()
            await eventually(lambda: bus.reconnects == 1)
            assert [len((await bus.request("echo", bytes(size))).data) for size in sizes] == sizes
        finally:
            await bus.close()
