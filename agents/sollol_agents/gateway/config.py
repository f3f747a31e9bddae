"""Settings of the gateway."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one gateway."""

    host: Annotated[str, Meta(description="Address to listen on; the default serves this machine alone.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 picks a free one.")] = 8000
    reuse_port: Annotated[
        bool, Meta(description="Share the port with other gateways of this machine; the kernel spreads connections.")
    ] = False
    max_body_bytes: Annotated[
        int, Meta(ge=1024, description="Largest request body; the bus's own limit holds as well.")
    ] = 64 << 20
    max_active: Annotated[int, Meta(ge=1, description="Requests served at a time; beyond it new ones get 429.")] = 2048
    keep_alive_s: Annotated[
        float, Meta(gt=0, description="Seconds of waiting after which an event stream begins with comments.")
    ] = 15.0
    deadline_s: Annotated[float, Meta(gt=0, description="Deadline of a request that names none.")] = 600.0
    cors_origins: Annotated[
        tuple[str, ...], Meta(description="Web origins that browsers may call from; empty: none.")
    ] = ()
    hosts: Annotated[
        tuple[str, ...],
        Meta(description="Host names that requests may use, beside loopback ones and addresses; `*` allows all."),
    ] = ()
    require_key: Annotated[bool, Meta(description="Refuse requests without an API key.")] = False
    max_file_bytes: Annotated[int, Meta(ge=1024, description="Largest file of a batch.")] = 200 << 20
    max_blob_bytes: Annotated[int, Meta(ge=1024, description="Largest file of a model that is uploaded.")] = 1 << 40
    max_stored_bytes: Annotated[int, Meta(ge=1024, description="Files that one key may have stored.")] = 4 << 30
    max_batch_requests: Annotated[int, Meta(ge=1, le=1_000_000, description="Requests in one batch.")] = 50_000
    batches_at_once: Annotated[
        int, Meta(ge=0, description="Batches that this gateway works on at a time; 0: it leaves them to others.")
    ] = 4
    files_keep_s: Annotated[
        float, Meta(ge=60, description="Seconds that files and ended batches are kept, from when they are stored.")
    ] = 30 * 86_400.0
    open_paths: Annotated[
        tuple[str, ...],
        Meta(description="Engine paths that clients may use although they change it or tell of its inside."),
    ] = ()
    resume_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=64 << 20,
            description="Bytes of text kept of each answer, so that it goes on when it breaks; 0: none.",
        ),
    ] = 1 << 20
    drain_timeout_s: Annotated[float, Meta(ge=0, description="Seconds that running answers may take to finish.")] = 30.0
