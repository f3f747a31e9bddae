"""The streams and buckets of durable jobs.

Every priority has a subject of its own, listed one by one: a job under a priority that does not exist meets no
responder instead of a durable ack that nothing consumes. A full queue refuses (`discard=new`). Delayed jobs need a
stream of their own, because the server does not offer schedules beside that refusal.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sollol_bus.jetstream.streams import StreamSpec, bucket_spec
from sollol_schemas import stores, subjects

KEEP_S: Final = 7 * 86_400.0
LETTERS_KEEP_S: Final = 90 * 86_400.0
ADVISORIES_KEEP_S: Final = 30 * 86_400.0
MAX_JOBS: Final = 1_000_000
MAX_RESULTS_BYTES: Final = 1 << 30
"""The server sets such sizes aside at once, so that only the results have one; the others are limited in number."""
MAX_DELIVERIES: Final = 100_000
"""After so many deliveries without an end a job is buried, whatever the reason."""

MAX_DELIVERIES_ADVISORY: Final = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stores.JOBS_STREAM}.*"


def job_streams(keep_s: float = KEEP_S) -> tuple[StreamSpec, ...]:
    """What jobs need of JetStream; for `provision`.

    Args:
        keep_s: How long results are kept.
    """
    submits = tuple(subjects.JOB_SUBMIT.of(priority, "*") for priority in subjects.JOB_PRIORITIES)
    waiting = (subjects.JOB_DELAYED, subjects.JOB_DUE)
    return (
        StreamSpec(
            name=stores.JOBS_STREAM,
            subjects=submits,
            retention="workqueue",
            discard="new",
            max_msgs=MAX_JOBS,
        ),
        StreamSpec(
            name=stores.DELAYED_STREAM,
            subjects=tuple(row.of(priority, "*") for row in waiting for priority in subjects.JOB_PRIORITIES),
            retention="workqueue",
            max_msgs=MAX_JOBS,
            allow_msg_schedules=True,
        ),
        StreamSpec(
            name=stores.RESULTS_STREAM,
            subjects=(subjects.JOB_RESULT.all, subjects.OWN_JOB_RESULT.all),
            max_age_s=keep_s,
            max_bytes=MAX_RESULTS_BYTES,
            max_msgs_per_subject=1,
        ),
        StreamSpec(
            name=stores.LETTERS_STREAM,
            subjects=(subjects.JOB_LETTER.all,),
            max_age_s=LETTERS_KEEP_S,
            max_msgs=MAX_JOBS,
            max_msgs_per_subject=1,
        ),
        StreamSpec(
            name=stores.CALLBACKS_STREAM,
            subjects=(subjects.JOB_CALLBACK.all,),
            retention="workqueue",
            max_age_s=keep_s,
            max_msgs=MAX_JOBS,
        ),
        StreamSpec(
            name=stores.ADVISORIES_STREAM,
            subjects=(MAX_DELIVERIES_ADVISORY,),
            retention="workqueue",
            max_age_s=ADVISORIES_KEEP_S,
        ),
        bucket_spec(stores.JOBS_BUCKET),
        blob_spec(stores.JOB_BLOBS, keep_s),
    )


def blob_spec(bucket: str, keep_s: float) -> StreamSpec:
    """The stream behind an object store, laid out as every NATS client expects it."""
    plain = StreamSpec(name=f"OBJ_{bucket}", subjects=(f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"), discard="new")
    return msgspec.structs.replace(plain, max_age_s=keep_s, allow_rollup_hdrs=True)
