-- durable_bus: the journal, schema version 1.
--
-- One supervisor writes this file; anybody may read it, at any time, with plain SQL. What it holds:
--
--   A *buffer* is one fan-out: N *items*, a target listener, and where its completion goes. Items arrive in numbered
--   chunks; the commit that sets `opened_commit` is the moment from which nothing of the buffer can be lost.
--   A *dispatch* is a contiguous range of items handed to one worker. It is written before it is sent, so after a crash
--   the dispatches that have not ended say what was running. An *answer* is a contiguous range of answers that came back
--   together; a *result* is the final answer of one item and points to it. A *failure* is one attempt that failed.
--   An item whose handler passed its work on (a forward, or another buffer) has a row in `forwarded_item`: that is its
--   outcome, and its result comes later, on its thread. A *message* goes from a name to a name on a *thread*.
--   Every change is made by a *commit* (one row of `journal_commit`), and every commit by a *run* (one supervisor).
--
-- How to read it: use the views at the end (buffers, items, results, in_flight, dispatches, failures, messages, runs,
-- throughput); they are the public interface and change only with a major version. The tables are the supervisor's own.
-- Times are integer milliseconds since the epoch, UTC. A transition is a column that names the commit that made it
-- (opened_commit, ended_commit, ...): states are derived from those, so the past stays readable.
-- Keys: items and results are keyed `buffer_seq << 32 | item_index`, which keeps a buffer's rows together and in order
-- without a second index. Rows decide, counters only repeat them: `durable-bus check` recounts every one.

CREATE TABLE run (
    run_id INTEGER PRIMARY KEY,
    pid INTEGER NOT NULL,
    app TEXT NOT NULL,
    version TEXT NOT NULL,
    listeners TEXT,     -- JSON: the table of listeners that a worker of this run reported last; NULL before the first
    worker_error TEXT,  -- why the last worker could not import the app; NULL once one has
    started_at INTEGER NOT NULL,
    stopped_at INTEGER,
    CONSTRAINT pid_is_positive CHECK (pid > 0),
    CONSTRAINT listeners_is_json CHECK (listeners IS NULL OR json_valid(listeners))
) STRICT;

CREATE TABLE journal_commit (
    commit_id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    committed_at INTEGER NOT NULL,
    results INTEGER NOT NULL,   -- rows this commit added to result
    failures INTEGER NOT NULL   -- rows this commit added to failure
) STRICT;
CREATE INDEX journal_commit_of_run ON journal_commit (run_id);
CREATE INDEX journal_commit_by_time ON journal_commit (committed_at);

CREATE TABLE buffer (
    buffer_seq INTEGER PRIMARY KEY,
    buffer_id TEXT NOT NULL,
    target TEXT NOT NULL,
    return_to TEXT NOT NULL,          -- '' when nobody has asked for BufferComplete by name
    from_id TEXT NOT NULL,            -- '' for a client without a name
    thread_id TEXT NOT NULL,          -- items run on `thread_id/index`
    starter_thread_id TEXT NOT NULL,  -- BufferComplete travels on it
    collect INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    digest TEXT,                      -- of the items, made by the client; NULL while receiving
    next_chunk INTEGER NOT NULL DEFAULT 0,
    received INTEGER NOT NULL DEFAULT 0,
    total INTEGER,                    -- NULL while receiving
    succeeded INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    low_water INTEGER NOT NULL DEFAULT 0,  -- every item below it has its outcome; only shortens a scan
    retry_of INTEGER REFERENCES buffer (buffer_seq),
    touched_at INTEGER NOT NULL,      -- when its last chunk arrived
    created_commit INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    opened_commit INTEGER REFERENCES journal_commit (commit_id),
    cancelled_commit INTEGER REFERENCES journal_commit (commit_id),
    ended_commit INTEGER REFERENCES journal_commit (commit_id),
    pruned_commit INTEGER REFERENCES journal_commit (commit_id),
    dropped_commit INTEGER REFERENCES journal_commit (commit_id),  -- never opened and given up; its id is free again
    CONSTRAINT buffer_seq_fits_the_key CHECK (buffer_seq BETWEEN 1 AND 2147483647),
    CONSTRAINT buffer_id_is_a_name CHECK (length(buffer_id) BETWEEN 1 AND 200 AND buffer_id NOT GLOB '*[^A-Za-z0-9_.-]*'),
    CONSTRAINT collect_is_bool CHECK (collect IN (0, 1)),
    CONSTRAINT an_open_buffer_has_items CHECK (opened_commit IS NULL OR (total > 0 AND digest IS NOT NULL)),
    CONSTRAINT never_more_results_than_items CHECK (succeeded >= 0 AND failed >= 0 AND succeeded + failed <= coalesce(total, 0)),
    CONSTRAINT ended_after_opened CHECK (ended_commit IS NULL OR ended_commit >= opened_commit),
    CONSTRAINT ended_means_whole_or_cancelled
        CHECK (ended_commit IS NULL OR cancelled_commit IS NOT NULL OR succeeded + failed = total),
    CONSTRAINT pruned_after_ended CHECK (pruned_commit IS NULL OR pruned_commit >= ended_commit),
    CONSTRAINT dropped_was_never_open CHECK (dropped_commit IS NULL OR opened_commit IS NULL)
) STRICT;
CREATE UNIQUE INDEX buffer_id_is_used_once ON buffer (buffer_id) WHERE dropped_commit IS NULL;
CREATE UNIQUE INDEX buffer_by_thread ON buffer (thread_id, buffer_seq);
CREATE INDEX buffer_to_clear ON buffer (buffer_seq)
WHERE received > 0 AND (dropped_commit IS NOT NULL OR pruned_commit IS NOT NULL);
CREATE INDEX buffer_dropped ON buffer (buffer_seq) WHERE dropped_commit IS NOT NULL;
CREATE INDEX buffer_to_prune ON buffer (ended_commit, buffer_seq) WHERE ended_commit IS NOT NULL AND pruned_commit IS NULL;
CREATE INDEX buffer_not_ended ON buffer (buffer_seq) WHERE ended_commit IS NULL;

CREATE TABLE pause (
    pause_id INTEGER PRIMARY KEY,
    buffer_seq INTEGER NOT NULL REFERENCES buffer (buffer_seq),
    paused_commit INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    resumed_commit INTEGER REFERENCES journal_commit (commit_id),
    CONSTRAINT resumed_after_paused CHECK (resumed_commit IS NULL OR resumed_commit >= paused_commit)
) STRICT;
CREATE UNIQUE INDEX paused_once_at_a_time ON pause (buffer_seq) WHERE resumed_commit IS NULL;

CREATE TABLE item (
    item_key INTEGER PRIMARY KEY,
    payload TEXT NOT NULL,
    is_xml INTEGER NOT NULL,
    buffer_seq INTEGER GENERATED ALWAYS AS (item_key >> 32) VIRTUAL,
    item_index INTEGER GENERATED ALWAYS AS (item_key & 4294967295) VIRTUAL,
    CONSTRAINT is_xml_is_bool CHECK (is_xml IN (0, 1))
) STRICT;

-- What is taken back of one before it was started becomes a row of its own, which has ended then: so a row's items are
-- in somebody's hands from its one commit to its other, and nothing about the past is ever overwritten.
CREATE TABLE dispatch (
    dispatch_id INTEGER PRIMARY KEY,
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    buffer_seq INTEGER NOT NULL REFERENCES buffer (buffer_seq),
    first_index INTEGER NOT NULL,
    item_count INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    alone INTEGER NOT NULL,  -- 1: sent to a worker that held nothing else: a death has been near these items
    worker_pid INTEGER NOT NULL,
    ended_commit INTEGER REFERENCES journal_commit (commit_id),
    ended_how TEXT,
    CONSTRAINT dispatch_is_not_empty CHECK (item_count > 0),
    CONSTRAINT dispatch_ends_in_a_known_way
        CHECK ((ended_commit IS NULL) = (ended_how IS NULL) AND ended_how IN ('answered', 'returned', 'died', 'crashed'))
) STRICT;
CREATE INDEX dispatch_not_ended ON dispatch (buffer_seq, first_index) WHERE ended_commit IS NULL;
CREATE INDEX retry_not_ended ON dispatch (buffer_seq, first_index) WHERE ended_commit IS NULL AND attempt > 1;
CREATE INDEX dispatch_of_buffer ON dispatch (buffer_seq, first_index);

CREATE TABLE answer (
    answer_id INTEGER PRIMARY KEY,
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    dispatch_id INTEGER REFERENCES dispatch (dispatch_id),  -- NULL: recorded by the supervisor, not answered by a worker
    buffer_seq INTEGER NOT NULL REFERENCES buffer (buffer_seq),
    first_index INTEGER NOT NULL,
    item_count INTEGER NOT NULL,  -- how many the frame answered
    recorded INTEGER NOT NULL,    -- how many of them were the first for their item
    success INTEGER NOT NULL,     -- the same for all of them
    attempt INTEGER NOT NULL,
    worker_pid INTEGER,
    durations TEXT NOT NULL,  -- microseconds, ten digits an item from first_index on; '' where nothing was measured
    CONSTRAINT success_is_bool CHECK (success IN (0, 1)),
    CONSTRAINT an_answer_that_recorded_nothing_is_not_kept CHECK (recorded BETWEEN 1 AND item_count)
) STRICT;

CREATE INDEX answer_of_buffer ON answer (buffer_seq, answer_id);

CREATE TABLE result (
    item_key INTEGER PRIMARY KEY REFERENCES item (item_key),
    payload TEXT NOT NULL,
    success INTEGER NOT NULL,
    is_xml INTEGER NOT NULL,
    answer_id INTEGER NOT NULL REFERENCES answer (answer_id),
    buffer_seq INTEGER GENERATED ALWAYS AS (item_key >> 32) VIRTUAL,
    item_index INTEGER GENERATED ALWAYS AS (item_key & 4294967295) VIRTUAL,
    CONSTRAINT success_is_bool CHECK (success IN (0, 1)),
    CONSTRAINT is_xml_is_bool CHECK (is_xml IN (0, 1))
) STRICT;

CREATE TABLE traceback (
    traceback_id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL CONSTRAINT traceback_is_stored_once UNIQUE,
    body TEXT NOT NULL
) STRICT;

CREATE TABLE message (
    message_seq INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL CONSTRAINT message_id_is_used_once UNIQUE,
    kind TEXT NOT NULL,
    from_id TEXT NOT NULL,
    to_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    payload TEXT NOT NULL,
    is_xml INTEGER NOT NULL,
    buffer_seq INTEGER REFERENCES buffer (buffer_seq),  -- the buffer that a BufferComplete is of
    due_at INTEGER NOT NULL DEFAULT 0,                  -- not delivered before
    interruptions INTEGER NOT NULL DEFAULT 0,           -- deaths near it that nobody was charged with
    worker_pid INTEGER,                                 -- who has it, or had it last
    created_commit INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    delivered_commit INTEGER REFERENCES journal_commit (commit_id),
    settled_commit INTEGER REFERENCES journal_commit (commit_id),
    failed INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT is_xml_is_bool CHECK (is_xml IN (0, 1)),
    CONSTRAINT failed_is_settled CHECK (failed = 0 OR (failed = 1 AND settled_commit IS NOT NULL)),
    CONSTRAINT settled_after_created CHECK (settled_commit IS NULL OR settled_commit >= created_commit)
) STRICT;
CREATE UNIQUE INDEX one_buffer_complete_each ON message (buffer_seq) WHERE kind = 'BufferComplete' AND buffer_seq IS NOT NULL;
CREATE INDEX message_waiting ON message (to_id, message_seq) WHERE settled_commit IS NULL AND delivered_commit IS NULL;
CREATE INDEX message_delivered ON message (message_seq) WHERE settled_commit IS NULL AND delivered_commit IS NOT NULL;
CREATE INDEX message_of_thread ON message (thread_id);

CREATE TABLE failure (
    failure_id INTEGER PRIMARY KEY,
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    item_key INTEGER,     -- an item or
    message_seq INTEGER REFERENCES message (message_seq),  -- a message, never both
    attempt INTEGER NOT NULL,
    kind TEXT NOT NULL,
    supervisor_died INTEGER NOT NULL DEFAULT 0,  -- lost with the whole supervisor, not with a worker alone
    message TEXT NOT NULL,
    traceback_id INTEGER REFERENCES traceback (traceback_id),
    retry_at INTEGER,         -- the item goes out again, not before; NULL: this was its last attempt, or a message's
    retried_commit INTEGER REFERENCES journal_commit (commit_id),
    CONSTRAINT failure_is_of_an_item_or_a_message CHECK ((item_key IS NULL) <> (message_seq IS NULL)),
    CONSTRAINT failure_has_a_known_kind CHECK (kind IN ('exception', 'timeout', 'lost', 'malformed', 'answer'))
) STRICT;
CREATE INDEX failure_of_item ON failure (item_key) WHERE item_key IS NOT NULL;
CREATE INDEX failure_of_message ON failure (message_seq) WHERE message_seq IS NOT NULL;
CREATE INDEX failure_to_retry ON failure (item_key >> 32, retry_at) WHERE retry_at IS NOT NULL AND retried_commit IS NULL;

CREATE TABLE forwarded_item (
    item_key INTEGER PRIMARY KEY REFERENCES item (item_key),
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    dispatch_id INTEGER NOT NULL REFERENCES dispatch (dispatch_id),
    attempt INTEGER NOT NULL
) STRICT;

CREATE TABLE thread (
    thread_id TEXT PRIMARY KEY,
    chain TEXT NOT NULL,  -- JSON array of hops: "name", or ["buffer_id", index] for an item
    created_commit INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    changed_commit INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    CONSTRAINT chain_is_a_json_array CHECK (json_valid(chain) AND json_type(chain) = 'array')
) STRICT, WITHOUT ROWID;

CREATE TABLE mailbox (
    name TEXT PRIMARY KEY,
    created_commit INTEGER NOT NULL REFERENCES journal_commit (commit_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE request (
    request_id TEXT PRIMARY KEY,
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    answer TEXT NOT NULL,  -- JSON: what the client was told, and is told again
    CONSTRAINT answer_is_json CHECK (json_valid(answer))
) STRICT, WITHOUT ROWID;
CREATE INDEX request_by_commit ON request (commit_id);

-- The views: the public interface.

CREATE VIEW buffers AS
SELECT
    b.buffer_id,
    CASE
        WHEN b.pruned_commit IS NOT NULL THEN 'pruned'
        WHEN b.cancelled_commit IS NOT NULL THEN 'cancelled'
        WHEN b.ended_commit IS NOT NULL THEN 'complete'
        WHEN b.opened_commit IS NOT NULL THEN 'open'
        ELSE 'receiving'
    END AS state,
    EXISTS (SELECT 1 FROM pause p WHERE p.buffer_seq = b.buffer_seq AND p.resumed_commit IS NULL) AS paused,
    b.target,
    b.return_to,
    b.from_id,
    b.thread_id,
    b.collect,
    coalesce(b.total, b.received) AS total,
    b.succeeded + b.failed AS completed,
    b.succeeded AS successful,
    b.failed,
    CASE WHEN b.opened_commit IS NOT NULL AND b.ended_commit IS NULL THEN b.total - b.succeeded - b.failed ELSE 0 END AS pending,
    strftime('%Y-%m-%dT%H:%M:%fZ', created.committed_at / 1000.0, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', ended.committed_at / 1000.0, 'unixepoch') AS completed_at,
    (ended.committed_at - created.committed_at) / 1000.0 AS seconds,
    b.starter_thread_id,
    retried.buffer_id AS retry_of
FROM buffer b
JOIN journal_commit created ON created.commit_id = b.created_commit
LEFT JOIN journal_commit ended ON ended.commit_id = b.ended_commit
LEFT JOIN buffer retried ON retried.buffer_seq = b.retry_of
WHERE b.dropped_commit IS NULL;

CREATE VIEW items AS
SELECT
    b.buffer_id,
    i.item_key & 4294967295 AS item_index,
    CASE
        WHEN r.success = 1 THEN 'succeeded'
        WHEN r.success = 0 THEN 'failed'
        WHEN b.ended_commit IS NOT NULL THEN 'missing'
        WHEN EXISTS (SELECT 1 FROM forwarded_item f WHERE f.item_key = i.item_key) THEN 'forwarded'
        WHEN (
            -- first attempts never overlap, so the last one that begins at or before the item decides
            SELECT d.first_index + d.item_count
            FROM dispatch d INDEXED BY dispatch_not_ended
            WHERE d.ended_commit IS NULL AND d.buffer_seq = b.buffer_seq AND d.first_index <= i.item_key & 4294967295
                AND d.attempt = 1
            ORDER BY d.first_index DESC
            LIMIT 1
        ) > i.item_key & 4294967295 THEN 'in_flight'
        WHEN EXISTS (
            SELECT 1
            FROM dispatch d INDEXED BY retry_not_ended
            WHERE d.ended_commit IS NULL AND d.attempt > 1 AND d.buffer_seq = b.buffer_seq
                AND d.first_index <= i.item_key & 4294967295
                AND d.first_index + d.item_count > i.item_key & 4294967295
        ) THEN 'in_flight'
        ELSE 'waiting'
    END AS state,
    coalesce(
        a.attempt,
        (SELECT f.attempt FROM forwarded_item f WHERE f.item_key = i.item_key),
        (SELECT count(*) FROM failure f WHERE f.item_key = i.item_key)
    ) AS attempts,
    i.payload,
    i.is_xml
FROM buffer b
CROSS JOIN item i ON i.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
LEFT JOIN result r ON r.item_key = i.item_key
LEFT JOIN answer a ON a.answer_id = r.answer_id
WHERE b.dropped_commit IS NULL;

CREATE VIEW results AS
SELECT
    b.buffer_id,
    r.item_key & 4294967295 AS item_index,
    r.success,
    r.payload,
    r.is_xml,
    CASE WHEN r.success = 0 THEN coalesce(
        (
            SELECT f.kind || ': ' || f.message
            FROM failure f
            WHERE f.item_key = r.item_key AND f.attempt = a.attempt
            ORDER BY f.failure_id DESC
            LIMIT 1
        ),
        r.payload
    ) END AS error,
    a.attempt,
    CASE WHEN a.durations <> ''
        -- of a blob, because substr of a text counts characters from its beginning
        THEN CAST(CAST(
            substr(CAST(a.durations AS BLOB), ((r.item_key & 4294967295) - a.first_index) * 10 + 1, 10) AS TEXT
        ) AS INTEGER) / 1000.0
    END AS duration_ms,
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS recorded_at,
    c.run_id,
    a.worker_pid
FROM buffer b
CROSS JOIN result r ON r.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
JOIN answer a ON a.answer_id = r.answer_id
JOIN journal_commit c ON c.commit_id = a.commit_id
WHERE b.dropped_commit IS NULL;

CREATE VIEW in_flight AS
SELECT
    b.buffer_id,
    d.first_index,
    d.item_count,
    d.attempt,
    d.worker_pid,
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS since,
    c.run_id
FROM dispatch d
JOIN buffer b ON b.buffer_seq = d.buffer_seq
JOIN journal_commit c ON c.commit_id = d.commit_id
WHERE d.ended_commit IS NULL;

CREATE VIEW dispatches AS
SELECT
    d.dispatch_id,
    b.buffer_id,
    d.first_index,
    d.item_count,
    d.attempt,
    d.worker_pid,
    c.run_id,
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS sent_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', ended.committed_at / 1000.0, 'unixepoch') AS ended_at,
    d.ended_how AS ended
FROM dispatch d
JOIN buffer b ON b.buffer_seq = d.buffer_seq
JOIN journal_commit c ON c.commit_id = d.commit_id
LEFT JOIN journal_commit ended ON ended.commit_id = d.ended_commit
WHERE b.dropped_commit IS NULL;

CREATE VIEW failures AS
SELECT
    b.buffer_id,
    f.item_key & 4294967295 AS item_index,
    CAST(NULL AS TEXT) AS message_id,
    f.attempt,
    f.kind,
    f.message,
    t.body AS traceback,
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS failed_at
FROM buffer b
CROSS JOIN failure f ON f.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
CROSS JOIN journal_commit c ON c.commit_id = f.commit_id
LEFT JOIN traceback t ON t.traceback_id = f.traceback_id
WHERE b.dropped_commit IS NULL
UNION ALL
SELECT
    CAST(NULL AS TEXT),
    NULL,
    m.message_id,
    f.attempt,
    f.kind,
    f.message,
    t.body,
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch')
FROM failure f
JOIN message m ON m.message_seq = f.message_seq
JOIN journal_commit c ON c.commit_id = f.commit_id
LEFT JOIN traceback t ON t.traceback_id = f.traceback_id;

CREATE VIEW messages AS
SELECT
    m.message_id,
    m.kind,
    m.from_id,
    m.to_id,
    m.thread_id,
    CASE
        WHEN m.failed = 1 THEN 'failed'
        WHEN m.settled_commit IS NOT NULL THEN 'settled'
        WHEN m.delivered_commit IS NOT NULL THEN 'delivered'
        ELSE 'waiting'
    END AS state,
    m.payload,
    strftime('%Y-%m-%dT%H:%M:%fZ', created.committed_at / 1000.0, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', settled.committed_at / 1000.0, 'unixepoch') AS settled_at,
    m.is_xml
FROM message m
JOIN journal_commit created ON created.commit_id = m.created_commit
LEFT JOIN journal_commit settled ON settled.commit_id = m.settled_commit;

CREATE VIEW runs AS
SELECT
    r.run_id,
    r.pid,
    r.app,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.started_at / 1000.0, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.stopped_at / 1000.0, 'unixepoch') AS stopped_at,
    (
        SELECT strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch')
        FROM journal_commit c
        WHERE c.run_id = r.run_id
        ORDER BY c.commit_id DESC
        LIMIT 1
    ) AS last_commit_at,
    CASE
        WHEN r.stopped_at IS NOT NULL THEN 'clean'
        WHEN r.run_id = (SELECT max(newest.run_id) FROM run newest) THEN 'running'
        ELSE 'crashed'
    END AS ended
FROM run r;

CREATE VIEW throughput AS
SELECT
    strftime('%Y-%m-%dT%H:%M:%SZ', c.committed_at / 1000, 'unixepoch') AS second,
    sum(c.results) AS results,
    sum(c.failures) AS failures
FROM journal_commit c
WHERE c.results > 0 OR c.failures > 0
GROUP BY c.committed_at / 1000;

PRAGMA application_id = 1145197907;  -- 'DBUS'
PRAGMA user_version = 1;
