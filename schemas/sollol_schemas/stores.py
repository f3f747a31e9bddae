"""What JetStream keeps: names of streams, buckets and object stores, and what lies under which key of a bucket."""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from sollol_schemas.units import BusId

EVENTS_STREAM: Final = "SOLLOL_EVENTS"
JOBS_STREAM: Final = "SOLLOL_JOBS"
DELAYED_STREAM: Final = "SOLLOL_DELAYED"
RESULTS_STREAM: Final = "SOLLOL_RESULTS"
LETTERS_STREAM: Final = "SOLLOL_LETTERS"
CALLBACKS_STREAM: Final = "SOLLOL_CALLBACKS"
ADVISORIES_STREAM: Final = "SOLLOL_ADVISORIES"

NODES_BUCKET: Final = "SOLLOL_NODES"
OFFICES_BUCKET: Final = "SOLLOL_OFFICES"
SETTINGS_BUCKET: Final = "SOLLOL_SETTINGS"
LEARNED_BUCKET: Final = "SOLLOL_LEARNED"
JOBS_BUCKET: Final = "SOLLOL_JOB"
BATCHES_BUCKET: Final = "SOLLOL_BATCHES"
BUCKETS: Final = (NODES_BUCKET, OFFICES_BUCKET, SETTINGS_BUCKET, LEARNED_BUCKET, JOBS_BUCKET, BATCHES_BUCKET)

JOB_BLOBS: Final = "SOLLOL_JOB_BLOBS"
FILES_STORE: Final = "SOLLOL_FILES"

ABOUT: Final = {
    EVENTS_STREAM: "Events of the last 24 hours: decisions, outcomes, changes of nodes, breakers, offices, settings.",
    JOBS_STREAM: "Jobs that wait or run, by priority; one leaves when it has ended.",
    DELAYED_STREAM: "Jobs that are not due yet.",
    RESULTS_STREAM: "How jobs ended, with their answers.",
    LETTERS_STREAM: "Dead letters: jobs of which every try failed.",
    CALLBACKS_STREAM: "Results that wait until they are delivered.",
    ADVISORIES_STREAM: "Jobs that the server delivers no more, until a dispatcher has buried them.",
    NODES_BUCKET: "Which process owns the id of which node.",
    OFFICES_BUCKET: "Which scorer and which recorder is in office.",
    SETTINGS_BUCKET: "What operators chose: strategy, groups of models, nodes that are drained, keys and callers.",
    LEARNED_BUCKET: "What the scorer has learnt of nodes and models, and which nodes sleep.",
    JOBS_BUCKET: "The state of each job, and what a batch of them is.",
    BATCHES_BUCKET: "Files and batches, without their contents.",
    JOB_BLOBS: "Answers of jobs that are too large for a message.",
    FILES_STORE: "Contents of files.",
}
"""What each of them is for; NATS' own tools show it."""

SCORER_LEASE: Final = "scorer"
RECORDER_LEASE: Final = "recorder"
API_KEYS: Final = "api_keys"
CALLERS: Final = "callers"
OPERATORS_CHOICE: Final = "scorer"
INTENTS: Final = "intents"
GROUPS: Final = "groups"
LEAVES: Final = "leaves"
LEARNED: Final = "scorer"
SLEEPERS: Final = "sleeper.{}"


class NodeClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Which process owns a node's id."""

    node_id: BusId
    instance: BusId
    host: str = ""


Tenure = Annotated[int, Meta(ge=1, le=60, description="How long a holder is in office without renewing, in seconds.")]


class Holder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who holds an office."""

    instance: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$(?!\n)")]
    """Empty: it was left, and whoever comes first may take it."""
    tenure_s: Tenure
    is_lone: bool = False
    """Whether the holder is connected to a server that is no part of a cluster and has the store itself."""


class LeaveSecret(msgspec.Struct, frozen=True, kw_only=True):
    """With what dispatchers make the tickets of nodes."""

    leave_secret: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Kept(NamedTuple):
    """The values of one kind in a bucket."""

    bucket: str
    key: str
    """With its parameters in braces."""
    value: str
    """Name of the Struct."""

    def is_about(self, key: str, value: object) -> bool:
        """Whether a value lies under its own key, as far as it names what it is about."""
        return all(
            mine.strip("{}") == theirs or getattr(value, mine.strip("{}"), theirs) == theirs
            for mine, theirs in zip(self.key.split("."), key.split("."), strict=False)
        )


KEPT: Final = (
    Kept(NODES_BUCKET, "node.{node_id}", "NodeClaim"),
    Kept(OFFICES_BUCKET, "{office}", "Holder"),
    Kept(SETTINGS_BUCKET, API_KEYS, "KeyRing"),
    Kept(SETTINGS_BUCKET, CALLERS, "Standings"),
    Kept(SETTINGS_BUCKET, OPERATORS_CHOICE, "StrategyRequest"),
    Kept(SETTINGS_BUCKET, INTENTS, "Intents"),
    Kept(SETTINGS_BUCKET, GROUPS, "Groups"),
    Kept(SETTINGS_BUCKET, LEAVES, "LeaveSecret"),
    Kept(LEARNED_BUCKET, LEARNED, "Learned"),
    Kept(LEARNED_BUCKET, SLEEPERS.format("{node_id}"), "KeptSleeper"),
    Kept(JOBS_BUCKET, "job.{job_id}", "JobStatus"),
    Kept(JOBS_BUCKET, "batch.{batch_id}", "BatchPlan"),
    Kept(BATCHES_BUCKET, "file.{owner}.{file_id}", "FileRecord"),
    Kept(BATCHES_BUCKET, "batch.{owner}.{batch_id}", "BatchRecord"),
)
"""Everything that is kept under keys."""
