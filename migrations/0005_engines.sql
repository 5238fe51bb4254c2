-- Says where work ran: an engine runs items in other processes, perhaps on other hosts.
--
-- An *engine* is an executor such as Dask or MPI. One process of ours speaks for it, and `worker_pid` is that process. So
-- `dispatch.place` says which engine a range of items was given to, such as `dask:tcp://10.0.0.1:8786`; `answer.place` and
-- `failure.place` say where an attempt ran, such as `node7:4711`, or as the engine calls its worker. A batch that was lost,
-- or of which the engine did not say it, has the name of the engine. NULL: it ran in a worker of ours, here. The views call
-- the column "where".
-- The columns are the last ones of their tables, and nearly always NULL: no row is written again, and a NULL behind the
-- durations of an answer is read without them. Their constraints are written as 0002 wrote them, into the text of
-- sqlite_schema: an ALTER TABLE that adds a CHECK looks at every row, 1.5 s for a million answers and their dispatches.

DROP VIEW results;
DROP VIEW in_flight;
DROP VIEW dispatches;
DROP VIEW failures;

ALTER TABLE dispatch ADD COLUMN place TEXT;
ALTER TABLE answer ADD COLUMN place TEXT;
ALTER TABLE failure ADD COLUMN place TEXT;

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(
    sql,
    'place TEXT',
    'place TEXT CONSTRAINT place_is_a_short_text CHECK (place <> '''' AND length(place) <= 300)' || iif(
        name = 'answer',
        ' CONSTRAINT what_ran_somewhere_was_handed_out CHECK (place IS NULL OR dispatch_id IS NOT NULL)',
        ''
    )
)
WHERE type = 'table' AND name IN ('dispatch', 'answer', 'failure');
-- An error, and nothing of all this has happened, if the text was another one in any of the three.
SELECT json(CASE count(*) WHEN 3 THEN '3' ELSE 'the column place is not everywhere what it should be' END)
FROM sqlite_schema
WHERE type = 'table' AND sql LIKE '%place TEXT CONSTRAINT place_is_a_short_text CHECK (place <> '''' AND length(place) <= 300)%';
PRAGMA writable_schema = RESET;

CREATE VIEW results AS
SELECT
    b.buffer_id,
    r.item_key & 4294967295 AS item_index,
    r.success,
    r.payload,
    r.form = 1 AS is_xml,
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
    a.worker_pid,
    CASE r.form WHEN 0 THEN 'text' WHEN 1 THEN 'xml' WHEN 2 THEN 'json' WHEN 3 THEN 'pickle' END AS form,
    CASE WHEN r.form = 2 THEN r.payload END AS json,
    r.item_key,
    coalesce(a.memo, 0) AS memo,
    a.place AS "where"
FROM result r
JOIN buffer b ON b.buffer_seq = r.item_key >> 32
    AND r.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
LEFT JOIN answer a ON a.answer_id = r.answer_id
LEFT JOIN journal_commit c ON c.commit_id = (SELECT again.commit_id FROM answer again WHERE again.answer_id = r.answer_id)
WHERE b.dropped_commit IS NULL;

CREATE VIEW in_flight AS
SELECT
    b.buffer_id,
    d.first_index,
    d.item_count,
    d.attempt,
    d.worker_pid,
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS since,
    c.run_id,
    d.place AS "where"
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
    d.ended_how AS ended,
    d.place AS "where"
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
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS failed_at,
    f.item_key,
    f.place AS "where"
FROM failure f
JOIN buffer b ON b.buffer_seq = f.item_key >> 32
    AND f.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
LEFT JOIN journal_commit c ON c.commit_id = f.commit_id
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
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch'),
    CAST(NULL AS INTEGER),  -- of the type that it has above: else SQLite first makes a table of all failures
    f.place
FROM failure f
JOIN message m ON m.message_seq = f.message_seq
JOIN journal_commit c ON c.commit_id = f.commit_id
LEFT JOIN traceback t ON t.traceback_id = f.traceback_id;

PRAGMA user_version = 5;
