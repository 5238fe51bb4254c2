-- A buffer may be open before its last item has come: a stream, until it is sealed.
--
-- The column sealed_commit says from when on no more items come. Whatever opened before was whole then, so it was sealed as
-- it opened: the one thing that is written in rows, one a buffer. While a stream is not sealed its `total` is NULL, as that
-- of a buffer which is received; `received` counts what has come. When a stream is cancelled, its `total` is what had come.
-- The digest of a stream is NULL where no one program has had all its items in its hands.
-- The table chunk says when which items of a stream came, so that the past stays readable. Whatever came whole, or was
-- received before it opened, needs none.
-- Constraints are changed as 0002 changed them: in the text of sqlite_schema, without touching a row.

DROP VIEW buffers;

ALTER TABLE buffer ADD COLUMN sealed_commit INTEGER REFERENCES journal_commit (commit_id);
UPDATE buffer SET sealed_commit = opened_commit WHERE opened_commit IS NOT NULL;

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(
    replace(
        replace(
            sql,
            'CONSTRAINT an_open_buffer_has_items CHECK (opened_commit IS NULL OR (total > 0 AND digest IS NOT NULL)),',
            'CONSTRAINT an_open_buffer_has_items CHECK (opened_commit IS NULL OR coalesce(total, received) > 0),
    CONSTRAINT sealed_after_opened CHECK (sealed_commit IS NULL OR (opened_commit IS NOT NULL AND sealed_commit >= opened_commit)),
    CONSTRAINT the_total_is_known_at_the_end CHECK ((total IS NULL) = (sealed_commit IS NULL AND cancelled_commit IS NULL)),'
        ),
        'CHECK (succeeded >= 0 AND failed >= 0 AND succeeded + failed <= coalesce(total, 0))',
        'CHECK (succeeded >= 0 AND failed >= 0 AND succeeded + failed <= coalesce(total, received))'
    ),
    'CHECK (ended_commit IS NULL OR cancelled_commit IS NOT NULL OR succeeded + failed = total)',
    'CHECK (
            ended_commit IS NULL
            OR cancelled_commit IS NOT NULL
            OR (sealed_commit IS NOT NULL AND ended_commit >= sealed_commit AND succeeded + failed = total)
        )'
)
WHERE type = 'table' AND name = 'buffer';
-- An error, and nothing of all this has happened, if one of the texts was another one.
SELECT json(CASE count(*) WHEN 1 THEN '1' ELSE 'the constraints of the table buffer are not what they should be' END)
FROM sqlite_schema
WHERE name = 'buffer' AND sql LIKE '%coalesce(total, received) > 0)%' AND sql LIKE '%<= coalesce(total, received))%'
    AND sql LIKE '%ended_commit >= sealed_commit AND %' AND sql LIKE '%sealed_after_opened%';
PRAGMA writable_schema = RESET;

CREATE TABLE chunk (
    buffer_seq INTEGER NOT NULL REFERENCES buffer (buffer_seq),
    first_index INTEGER NOT NULL,
    item_count INTEGER NOT NULL,
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    PRIMARY KEY (buffer_seq, first_index),
    CONSTRAINT chunk_is_not_empty CHECK (first_index >= 0 AND item_count > 0)
) STRICT, WITHOUT ROWID;

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
    CASE
        WHEN b.opened_commit IS NOT NULL AND b.ended_commit IS NULL THEN coalesce(b.total, b.received) - b.succeeded - b.failed
        ELSE 0
    END AS pending,
    strftime('%Y-%m-%dT%H:%M:%fZ', created.committed_at / 1000.0, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', ended.committed_at / 1000.0, 'unixepoch') AS completed_at,
    (ended.committed_at - created.committed_at) / 1000.0 AS seconds,
    b.starter_thread_id,
    retried.buffer_id AS retry_of,
    strftime('%Y-%m-%dT%H:%M:%fZ', sealed.committed_at / 1000.0, 'unixepoch') AS sealed_at
FROM buffer b
JOIN journal_commit created ON created.commit_id = b.created_commit
LEFT JOIN journal_commit ended ON ended.commit_id = b.ended_commit
LEFT JOIN journal_commit sealed ON sealed.commit_id = b.sealed_commit
LEFT JOIN buffer retried ON retried.buffer_seq = b.retry_of
WHERE b.dropped_commit IS NULL;

PRAGMA user_version = 3;
