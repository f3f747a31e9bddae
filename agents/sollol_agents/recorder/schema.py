"""Tables of the recorder's database, as a list of migrations: entry n brings version n to n + 1.

An entry that was released is never changed; a new one is appended.
"""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('name', lower(hex(randomblob(6))));

    CREATE TABLE outcomes (
        attempt_id    TEXT PRIMARY KEY,
        rank          INTEGER NOT NULL,  -- 0 presumed, 1 reported by others, 2 by the node: never replaced by less
        recorded_at   REAL NOT NULL,     -- seconds of Unix time when the bus stored it: one clock for all nodes
        request_id    TEXT NOT NULL,
        job_id        TEXT NOT NULL,     -- empty for a request that is no job's
        node_id       TEXT NOT NULL,
        model         TEXT NOT NULL,
        mode          TEXT NOT NULL,
        verdict       TEXT NOT NULL,
        code          TEXT NOT NULL,
        latency_s     REAL,              -- from arrival to the complete answer, successes only
        actual_s      REAL,
        predicted_s   REAL,
        output_tokens INTEGER NOT NULL,
        decode_s      REAL NOT NULL,
        body          BLOB NOT NULL      -- the whole outcome as it came
    ) WITHOUT ROWID;
    CREATE INDEX outcomes_by_time ON outcomes (
        recorded_at, mode, node_id, verdict, output_tokens, decode_s, latency_s
    );
    CREATE INDEX outcomes_by_request ON outcomes (request_id);
    CREATE INDEX outcomes_by_job ON outcomes (job_id) WHERE job_id <> '';
    CREATE INDEX outcomes_by_model ON outcomes (node_id, model, verdict, code, recorded_at, actual_s, predicted_s);

    CREATE TABLE decisions (
        stored_at_ns  INTEGER NOT NULL,  -- with stream_seq: which message it was, so that it counts once
        stream_seq    INTEGER NOT NULL,
        request_id    TEXT NOT NULL,
        job_id        TEXT NOT NULL,
        body          BLOB NOT NULL,
        PRIMARY KEY (stored_at_ns, stream_seq)
    ) WITHOUT ROWID;
    CREATE INDEX decisions_by_request ON decisions (request_id);
    CREATE INDEX decisions_by_job ON decisions (job_id) WHERE job_id <> '';

    CREATE TABLE events (
        stored_at_ns  INTEGER NOT NULL,
        stream_seq    INTEGER NOT NULL,
        kind          TEXT NOT NULL,     -- node, breaker or scorer
        node_id       TEXT NOT NULL,
        body          BLOB NOT NULL,
        PRIMARY KEY (stored_at_ns, stream_seq)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE outcomes ADD COLUMN caller TEXT NOT NULL DEFAULT '';  -- opaque; empty: not known
    ALTER TABLE outcomes ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE outcomes ADD COLUMN slot_s REAL NOT NULL DEFAULT 0;
    ALTER TABLE decisions ADD COLUMN caller TEXT NOT NULL DEFAULT '';
    CREATE INDEX outcomes_by_caller ON outcomes (caller, recorded_at) WHERE caller <> '';

    CREATE TABLE acts (
        stored_at_ns  INTEGER NOT NULL,
        stream_seq    INTEGER NOT NULL,
        body          BLOB NOT NULL,     -- who did what, when and from where
        PRIMARY KEY (stored_at_ns, stream_seq)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE outcomes ADD COLUMN number INTEGER NOT NULL DEFAULT 1;  -- which attempt of its request it was
    ALTER TABLE outcomes ADD COLUMN first_token_s REAL;  -- from arrival to the first token, successes only
    UPDATE outcomes SET number = max(1, CAST(substr(attempt_id, length(request_id) + 2) AS INTEGER));
    DROP INDEX outcomes_by_time;
    CREATE INDEX outcomes_by_time ON outcomes (
        recorded_at, mode, node_id, verdict, number, output_tokens, decode_s, latency_s, first_token_s
    );
    """,
    """
    CREATE TABLE outcomes_of_nodes (
        attempt_id    TEXT NOT NULL,
        rank          INTEGER NOT NULL,
        recorded_at   REAL NOT NULL,
        request_id    TEXT NOT NULL,
        job_id        TEXT NOT NULL,
        node_id       TEXT NOT NULL,
        model         TEXT NOT NULL,
        mode          TEXT NOT NULL,
        verdict       TEXT NOT NULL,
        code          TEXT NOT NULL,
        latency_s     REAL,
        actual_s      REAL,
        predicted_s   REAL,
        output_tokens INTEGER NOT NULL,
        decode_s      REAL NOT NULL,
        body          BLOB NOT NULL,
        caller        TEXT NOT NULL DEFAULT '',
        prompt_tokens INTEGER NOT NULL DEFAULT 0,
        slot_s        REAL NOT NULL DEFAULT 0,
        number        INTEGER NOT NULL DEFAULT 1,
        first_token_s REAL,
        PRIMARY KEY (attempt_id, node_id)  -- what one node says of an attempt never hides what another says
    ) WITHOUT ROWID;
    INSERT INTO outcomes_of_nodes SELECT
        attempt_id, rank, recorded_at, request_id, job_id, node_id, model, mode, verdict, code, latency_s, actual_s,
        predicted_s, output_tokens, decode_s, body, caller, prompt_tokens, slot_s, number, first_token_s
    FROM outcomes;
    DROP TABLE outcomes;
    ALTER TABLE outcomes_of_nodes RENAME TO outcomes;
    CREATE INDEX outcomes_by_time ON outcomes (
        recorded_at, mode, node_id, verdict, number, output_tokens, decode_s, latency_s, first_token_s
    );
    CREATE INDEX outcomes_by_request ON outcomes (request_id);
    CREATE INDEX outcomes_by_job ON outcomes (job_id) WHERE job_id <> '';
    CREATE INDEX outcomes_by_model ON outcomes (node_id, model, verdict, code, recorded_at, actual_s, predicted_s);
    CREATE INDEX outcomes_by_caller ON outcomes (caller, recorded_at) WHERE caller <> '';
    """,
    """
    CREATE TABLE feedback (
        stored_at_ns  INTEGER NOT NULL,
        stream_seq    INTEGER NOT NULL,
        request_id    TEXT NOT NULL,     -- empty: of a model, not of a request
        model         TEXT NOT NULL,     -- as names of models compare
        is_forgotten  INTEGER NOT NULL DEFAULT 0,
        body          BLOB NOT NULL,
        PRIMARY KEY (stored_at_ns, stream_seq)
    ) WITHOUT ROWID;
    CREATE INDEX feedback_by_request ON feedback (request_id) WHERE request_id <> '';

    CREATE TABLE feedback_comments (
        request_id    TEXT PRIMARY KEY,
        given_at      REAL NOT NULL,     -- seconds of Unix time
        comment       TEXT NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE feedback_waiting (      -- for requests of which nothing is recorded yet
        request_id    TEXT NOT NULL,
        caller        TEXT NOT NULL,     -- its name; empty: an operator, or an open bus
        job           TEXT NOT NULL,     -- the reference that the job has if it is one's id
        given_at      REAL NOT NULL,
        body          BLOB NOT NULL,
        PRIMARY KEY (request_id, caller)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE outcomes ADD COLUMN energy_j REAL;  -- NULL: not known, as of everything older
    ALTER TABLE outcomes ADD COLUMN expense REAL;
    ALTER TABLE outcomes ADD COLUMN currency TEXT NOT NULL DEFAULT '';
    CREATE INDEX outcomes_by_expense ON outcomes (recorded_at) WHERE expense IS NOT NULL OR energy_j IS NOT NULL;
    """,
    """
    ALTER TABLE outcomes ADD COLUMN category TEXT NOT NULL DEFAULT '';  -- of its work; empty: not known
    """,
    """
    ALTER TABLE outcomes ADD COLUMN continued_tokens INTEGER NOT NULL DEFAULT 0;  -- said by attempts before it
    CREATE TABLE cuts (
        stored_at_ns  INTEGER NOT NULL,
        stream_seq    INTEGER NOT NULL,
        request_id    TEXT NOT NULL,     -- whose answer was moved
        body          BLOB NOT NULL,
        PRIMARY KEY (stored_at_ns, stream_seq)
    ) WITHOUT ROWID;
    CREATE INDEX cuts_by_request ON cuts (request_id);
    """,
    """
    ALTER TABLE cuts ADD COLUMN in_favour_of TEXT NOT NULL DEFAULT '';  -- the request that got the slot; empty: none
    CREATE INDEX cuts_by_favoured ON cuts (in_favour_of) WHERE in_favour_of != '';
    CREATE INDEX outcomes_that_go_on ON outcomes (request_id) WHERE continued_tokens > 0;
    """,
)
