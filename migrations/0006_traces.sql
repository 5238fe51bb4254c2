-- Says from where a buffer was started, for whoever traces: the W3C trace context of its start.
--
-- `buffer.traceparent` is the header `traceparent` of version 00: the trace, and the span that sent the buffer. Workers link
-- their spans to it, also those of a later supervisor. NULL: nobody traced the start. It is no part of a buffer's identity.
-- The CHECK is looked at for each buffer that is there, and no row is written. LIKE says how long each part is, and `replace`
-- that no other `-` is in it.

DROP VIEW buffers;

ALTER TABLE buffer ADD COLUMN traceparent TEXT
CONSTRAINT traceparent_is_of_w3c CHECK (
    traceparent LIKE '00-________________________________-________________-__'
    AND traceparent NOT GLOB '*[^0-9a-f-]*'
    AND length(replace(traceparent, '-', '')) = 52
    AND substr(traceparent, 4, 32) <> '00000000000000000000000000000000'
    AND substr(traceparent, 37, 16) <> '0000000000000000'
);

CREATE VIEW buffers AS
SELECT
    b.buffer_id,
    CASE
        WHEN b.pruned_commit IS NOT NULL THEN 'pruned'
        WHEN b.cancelled_commit IS NOT NULL AND coalesce(b.ended_how, 'cancelled') = 'cancelled' THEN 'cancelled'
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
    strftime('%Y-%m-%dT%H:%M:%fZ', sealed.committed_at / 1000.0, 'unixepoch') AS sealed_at,
    CASE
        WHEN b.ended_commit IS NULL THEN NULL
        ELSE coalesce(b.ended_how, CASE WHEN b.cancelled_commit IS NULL THEN 'all' ELSE 'cancelled' END)
    END AS ended_how,
    b.priority,
    strftime('%Y-%m-%dT%H:%M:%fZ', b.not_before / 1000.0, 'unixepoch') AS not_before,
    strftime('%Y-%m-%dT%H:%M:%fZ', b.deadline_at / 1000.0, 'unixepoch') AS deadline,
    (SELECT p.why FROM pause p WHERE p.buffer_seq = b.buffer_seq AND p.resumed_commit IS NULL) AS paused_why,
    b.traceparent
FROM buffer b
JOIN journal_commit created ON created.commit_id = b.created_commit
LEFT JOIN journal_commit ended ON ended.commit_id = b.ended_commit
LEFT JOIN journal_commit sealed ON sealed.commit_id = b.sealed_commit
LEFT JOIN buffer retried ON retried.buffer_seq = b.retry_of
WHERE b.dropped_commit IS NULL;

PRAGMA user_version = 6;
