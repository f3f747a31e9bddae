"""What work on files and batches needs: the stores, the jobs, the clock."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import msgspec

from sollol_agents.gateway.batches.store import Contents, Records, Writer, streams
from sollol_agents.gateway.config import GatewayConfig
from sollol_bus.errors import Conflict
from sollol_bus.jetstream.streams import provision
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import Jobs
from sollol_bus.transport.connection import Bus
from sollol_schemas.batches import BatchRecord, FileRecord
from sollol_schemas.instants import instant


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch may be at most."""

    requests: int
    line_bytes: int
    keep_s: float


class BatchResources:
    """Stores, jobs and clock.

    Args:
        bus: The gateway's connection.
        contents: Contents of files.
        files: Records of files.
        batches: Records of batches.
        jobs: Durable jobs.
        limits: What a batch may be.
        now_s: Seconds since 1970.
        new_id: A new id with a prefix.
        most_jobs: How many jobs of a caller may wait or run; 0: no ceiling.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        contents: Contents,
        files: Records[FileRecord],
        batches: Records[BatchRecord],
        jobs: Jobs,
        limits: Limits,
        now_s: Callable[[], int],
        new_id: Callable[[str], str],
        most_jobs: Callable[[str], int],
    ) -> None:
        self._bus = bus
        self._preparing = asyncio.Lock()
        self._is_prepared = False
        self.contents = contents
        self.files = files
        self.batches = batches
        self.jobs = jobs
        self.limits = limits
        self.now_s = now_s
        self.new_id = new_id
        self.most_jobs = most_jobs

    async def prepare(self) -> None:
        """Makes the streams that are missing; once.

        Raises:
            SollolError: JetStream is off or has no room.
        """
        async with self._preparing:
            if not self._is_prepared:
                await provision(self._bus, streams=streams(self.limits.keep_s))
                self._is_prepared = True

    async def keep(self, writer: Writer, owner: str, purpose: str, filename: str) -> FileRecord:
        """The record of a file whose content is written.

        Raises:
            SollolError: It could not be stored.
        """
        await writer.finish()
        now_s = self.now_s()
        record = FileRecord(
            file_id=writer.file_id,
            owner=owner,
            purpose=purpose,
            filename=filename,
            size_bytes=writer.size_bytes,
            created_at=instant(now_s),
            expires_at=instant(now_s + self.limits.keep_s),
        )
        if await self.files.write(record, record.file_id, 0, ttl_s=int(self.limits.keep_s)) is None:
            raise Conflict(f"file {record.file_id} exists")
        return record


def resources_of(client: Client, config: GatewayConfig, most_jobs: Callable[[str], int]) -> BatchResources:
    """The resources of a gateway, which knows how many jobs of a caller may wait or run."""
    bus = client.bus
    return BatchResources(
        bus,
        contents=Contents(bus),
        files=Records(bus, "file", FileRecord),
        batches=Records(bus, "batch", BatchRecord),
        jobs=client.jobs,
        limits=Limits(
            requests=config.max_batch_requests,
            line_bytes=bus.max_payload // 2,
            keep_s=config.files_keep_s,
        ),
        now_s=lambda: int(bus.clock.now_unix()),
        new_id=lambda prefix: f"{prefix}-{secrets.token_hex(12)}",
        most_jobs=most_jobs,
    )
