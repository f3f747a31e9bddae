"""Provisioning of JetStream and the key-value helper, on a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import BusError, ConfigError, NoResponders, RequestTimedOut
from sollol_bus.jetstream import buckets
from sollol_bus.jetstream.api import JetStreamRefused, api, publish_acked
from sollol_bus.jetstream.buckets import Bucket, Entry
from sollol_bus.jetstream.stored import delete_message, purge_subject, stored_block, stored_message, stream_info
from sollol_bus.jetstream.streams import StreamSpec, ensure_stream, patiently, provision
from sollol_bus.server.config import find_binary
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas import stores, subjects
from sollol_schemas.jobs import JobRef


@pytest.fixture
async def offices(bus: Bus) -> Bucket:
    await provision(bus)
    return Bucket(bus, stores.OFFICES_BUCKET)


async def config_of(bus: Bus, stream: str) -> dict[str, object]:
    config: dict[str, object] = msgspec.json.decode(await api(bus, f"STREAM.INFO.{stream}"))["config"]
    return config


def has_told(ports_dir: Path) -> bool:
    return any(path.stat().st_size for path in ports_dir.glob("*.ports"))


def told_url(ports_dir: Path) -> str:
    url: str = msgspec.json.decode(next(ports_dir.glob("*.ports")).read_bytes())["nats"][0]
    return url


async def test_actors_that_provision_at_once_agree(bus: Bus) -> None:
    await asyncio.gather(*(provision(bus) for _ in range(4)))
    events = await config_of(bus, stores.EVENTS_STREAM)
    assert events["subjects"] == list(subjects.STORED_EVENTS)
    assert events["max_age"] == 24 * 3600 * 10**9
    assert events["max_bytes"] == 1 << 30
    assert events["duplicate_window"] == 120 * 10**9
    assert events["discard"] == "old"
    assert events["allow_direct"] is True
    for bucket in (stores.NODES_BUCKET, stores.OFFICES_BUCKET, stores.SETTINGS_BUCKET):
        assert (await config_of(bus, f"KV_{bucket}"))["storage"] == "file"


async def test_an_old_stream_gets_new_subjects_and_keeps_the_limits_its_operator_set(bus: Bus) -> None:
    await ensure_stream(bus, StreamSpec(name="S", subjects=("old",), max_bytes=1000))
    await ensure_stream(bus, StreamSpec(name="S", subjects=("old", "new"), max_bytes=5000))
    await ensure_stream(bus, StreamSpec(name="S", subjects=("old",)))  # an older version starts once more
    config = await config_of(bus, "S")
    assert config["subjects"] == ["old", "new"]
    assert config["max_bytes"] == 1000


async def test_a_server_whose_disk_stands_still_is_waited_for_longer(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = iter([True])

    async def slow_api(bus: Bus, what: str, request: object = None) -> bytes:
        if next(silent, False):
            raise RequestTimedOut("no answer within its time, which was all that is waited for")
        return await api(bus, what, request)

    monkeypatch.setattr("sollol_bus.jetstream.streams.api", slow_api)
    await provision(bus, timeout_s=0.0)
    assert next(silent, None) is None


async def test_provisioning_waits_for_a_server_that_is_coming_up(nats_server: EmbeddedServer, bus: Bus) -> None:
    await nats_server.kill()
    provisioning = asyncio.gather(provision(bus, timeout_s=20))
    await nats_server.start()
    await provisioning
    assert await config_of(bus, stores.EVENTS_STREAM)


async def test_an_account_without_jetstream_is_said_to_be_one(tmp_path: Path) -> None:
    accounts = "accounts { PLAIN { users: [ {user: u, password: p} ] } }"
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path), extra_config=accounts)
    async with EmbeddedServer(config) as server:
        bus = await Bus.connect(BusConfig(url=server.url, user="u", password="p"))
        with pytest.raises(ConfigError, match="JetStream"):
            await provision(bus, timeout_s=0.3)
        await bus.close()


async def test_a_server_without_jetstream_is_said_to_be_one(tmp_path: Path) -> None:
    binary = await asyncio.to_thread(find_binary)
    server = await asyncio.create_subprocess_exec(
        binary, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", tmp_path, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: asyncio.to_thread(has_told, tmp_path))
        bus = await Bus.connect(BusConfig(url=told_url(tmp_path)))
        with pytest.raises(ConfigError, match="start nats-server with -js"):
            await provision(bus, timeout_s=0.3)
        await bus.close()
    finally:
        server.kill()
        await server.wait()


async def test_a_publish_with_a_known_id_is_acked_as_a_duplicate(bus: Bus) -> None:
    await ensure_stream(bus, StreamSpec(name="S", subjects=("s",)))
    first = await publish_acked(bus, "s", b"1", headers={"Nats-Msg-Id": "one"})
    again = await publish_acked(bus, "s", b"1", headers={"Nats-Msg-Id": "one"})
    assert not first.duplicate
    assert again.duplicate
    assert again.seq == first.seq


async def test_a_refusal_names_what_the_server_said(bus: Bus) -> None:
    with pytest.raises(JetStreamRefused, match="stream not found") as caught:
        await api(bus, "STREAM.INFO.ABSENT")
    assert caught.value.is_not_found


async def test_a_key_is_created_once_and_updated_only_from_its_last_revision(offices: Bucket) -> None:
    first = await offices.create("k", b"1")
    assert first is not None
    assert await offices.create("k", b"2") is None
    second = await offices.update("k", b"2", first)
    assert second is not None
    assert await offices.update("k", b"3", first) is None
    entry = await offices.get("k")
    assert (entry.value, entry.revision) == (b"2", second)


async def test_a_key_nobody_wrote_has_no_value_and_revision_0(offices: Bucket) -> None:
    entry = await offices.get("absent")
    assert (entry.value, entry.revision) == (None, 0)


async def test_a_deleted_key_has_no_value_and_may_be_created_again(offices: Bucket) -> None:
    first = await offices.put("k", b"1")
    assert not await offices.delete("k", first + 7)
    assert await offices.delete("k", first)
    assert (await offices.get("k")).value is None
    again = await offices.create("k", b"2")
    assert again is not None
    assert again > first


async def test_an_expired_key_has_no_value_and_may_be_created_again(offices: Bucket) -> None:
    first = await offices.create("k", b"1", ttl_s=1)

    async def is_gone() -> bool:
        return (await offices.get("k")).value is None

    await eventually(is_gone)
    again = await offices.create("k", b"2")
    assert first is not None
    assert again is not None
    assert again > first


async def test_revisions_go_on_after_the_server_was_killed(nats_server: EmbeddedServer, bus: Bus) -> None:
    await provision(bus)
    bucket = Bucket(bus, stores.OFFICES_BUCKET)
    before = await bucket.put("k", b"1")
    await nats_server.kill()
    await nats_server.start()
    await eventually(lambda: bus.is_connected)
    assert await bucket.put("k", b"2") == before + 1


async def test_of_many_that_create_one_key_exactly_one_wins(offices: Bucket) -> None:
    results = await asyncio.gather(*(offices.create("k", str(n).encode()) for n in range(8)))
    assert sum(revision is not None for revision in results) == 1


async def test_the_entries_of_a_bucket_are_listed_in_the_order_of_their_writing_without_those_that_are_gone(
    offices: Bucket,
) -> None:
    for key in ("a.one", "a.two", "b.one", "a.three"):
        await offices.put(key, key.encode())
    await offices.put("a.one", b"again")
    await offices.delete("a.two", (await offices.get("a.two")).revision)
    await offices.forget("a.three")
    found = await offices.every("a.*")
    assert [(entry.key, entry.value) for entry in found] == [("a.one", b"again")]
    assert found[0].revision == (await offices.get("a.one")).revision
    assert await offices.get("a.three") == Entry(key="a.three", value=None, revision=0)


async def test_whoever_follows_a_key_gets_its_value_now_and_at_every_change(
    nats_server: EmbeddedServer, offices: Bucket, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[JobRef | None] = []

    async def follow() -> None:
        async for value in offices.follow("key", JobRef):
            seen.append(value)  # noqa: PERF401 each is looked at as it comes

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        await eventually(lambda: seen == [None])
        last = await offices.put("key", b'{"job_id":"one"}')
        await eventually(lambda: seen[-1] == JobRef(job_id="one"))
        assert await offices.update("key", b'{"job_id":"late"}', last - 1) is None
        await offices.put("key", b"not a reference")
        await eventually(lambda: "is ignored" in caplog.text)
        await nats_server.kill()
        await eventually(lambda: not bus.is_connected)
        await nats_server.start()
        await eventually(lambda: bus.is_connected)
        await offices.put("key", b'{"job_id":"two"}')
        await eventually(lambda: seen[-1] == JobRef(job_id="two"))
        following.cancel()
    assert seen == [None, JobRef(job_id="one"), JobRef(job_id="two")]


async def test_whoever_follows_a_key_looks_until_a_write_that_was_overheard_is_stored(
    offices: Bucket, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JobRef | None] = []
    read, late = offices.get, [0]

    async def follow() -> None:
        async for value in offices.follow("key", JobRef):
            seen.append(value)  # noqa: PERF401 each is looked at as it comes

    async def get(key: str, **limits: float) -> Entry:
        if late[0]:
            late[0] -= 1
            return Entry(key=key, value=None, revision=0)
        return await read(key, **limits)

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        await eventually(lambda: seen == [None])
        late[0] = 3
        monkeypatch.setattr(offices, "get", get)
        await offices.put("key", b'{"job_id":"one"}')
        await eventually(lambda: seen[-1] == JobRef(job_id="one"), within_s=8.0)
        following.cancel()
    assert late == [0]


@pytest.mark.parametrize(("is_alone", "rests_s"), [(True, [10, 60, 60, 10, 60]), (False, [10, 10, 10, 10, 10])])
async def test_whoever_follows_a_key_looks_seldom_where_every_write_is_overheard_and_sooner_after_one(
    offices: Bucket, monkeypatch: pytest.MonkeyPatch, is_alone: bool, rests_s: list[float]
) -> None:
    rests: list[float] = []

    async def happens(_: asyncio.Event, within_s: float) -> bool:
        rests.append(within_s)
        if len(rests) == len(rests_s):
            await asyncio.Event().wait()
        return len(rests) == 3

    async def follow() -> None:
        async for value in offices.follow("key", JobRef):
            assert value is None

    monkeypatch.setattr(buckets, "is_lone", lambda _: is_alone)
    monkeypatch.setattr(buckets, "happens", happens)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        await eventually(lambda: len(rests) == len(rests_s))
        following.cancel()
    assert rests == rests_s


async def test_a_block_ends_with_its_subject_and_tells_a_stream_that_is_not_there(bus: Bus) -> None:
    await ensure_stream(bus, StreamSpec(name="S", subjects=("s.*",)))
    for number in range(5):
        headers = {"Status": "204"} if number == 2 else {}  # somebody's own header is no end
        await publish_acked(bus, f"s.{number % 2}", str(number).encode(), headers=headers)
    block = await stored_block(bus, "S", "s.*", 2, count=3)
    assert [(one.seq, one.subject, one.data) for one in block] == [(2, "s.1", b"1"), (3, "s.0", b"2"), (4, "s.1", b"3")]
    assert await stored_block(bus, "S", "s.1", 5) == []
    assert (await stream_info(bus, "S")).state.last_seq == 5
    with pytest.raises(NoResponders):
        await stored_block(bus, "NONE", "s.*", 1)
    await purge_subject(bus, "S", "s.0")
    assert await stored_message(bus, "S", subject="s.0") is None
    found = await stored_message(bus, "S", seq=4)
    assert found is not None
    assert (found.data, found.headers) == (b"3", {})
    await delete_message(bus, "S", 4)
    await delete_message(bus, "S", 4)
    assert await stored_message(bus, "S", seq=4) is None


@pytest.mark.parametrize(
    "error",
    [
        RequestTimedOut("no leader answers"),
        NoResponders("no server has it yet"),
        JetStreamRefused(err_code=10008, description="JetStream system temporarily unavailable"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_read_waits_for_servers_that_choose_their_leaders(error: BusError) -> None:
    failing = iter([error])

    async def read() -> str:
        for one in failing:
            raise one
        return "read"

    assert await patiently(read) == "read"
    failing = iter([error])
    with pytest.raises(type(error)):
        await patiently(read, within_s=0.0)


async def test_a_read_that_is_refused_for_good_is_not_tried_again() -> None:
    tries: list[int] = []

    async def read() -> None:
        tries.append(1)
        raise JetStreamRefused(err_code=10059, description="stream not found")

    with pytest.raises(JetStreamRefused):
        await patiently(read)
    assert len(tries) == 1
