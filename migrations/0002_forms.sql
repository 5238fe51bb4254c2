-- A payload is text, XML, JSON or a pickle; one item is found by its key, and beside its answer.
--
-- The column is_xml (0 or 1) of item, result and message becomes form: 0 text, 1 XML, 2 JSON, 3 a pickle in base64. No row
-- is touched, so this takes as long with ten million rows as with none. No ALTER changes a CHECK; so the text in
-- sqlite_schema is changed, as SQLite's documentation says it of what leaves alone all that is stored ("Making Other Kinds
-- Of Table Schema Changes", lang_altertable.html). This connection reads it again at RESET, every other one sees that the
-- schema's number has changed, as after any CREATE. The column's name could be changed by ALTER TABLE, which would look
-- through every other statement of the schema for it; there is none with it, and a new journal would take 12 ms, not 4.
--
-- The views that have a buffer's rows join each row with its buffer twice over: by the buffer's key, made of the row's, and
-- by the range of the row's keys, made of the buffer's. Either says all; which one leads is SQLite's choice. Asked for one
-- buffer it takes the range, asked for one item, or for all, or beside another view by item_key, it takes the key. A view
-- that leads with the buffer (CROSS JOIN, until now) reads all buffers to find one item. What only some columns need is
-- joined by LEFT JOIN, without one on another: then SQLite leaves out what nobody asks for, 0.2 us a row.

DROP VIEW items;
DROP VIEW results;
DROP VIEW failures;
DROP VIEW messages;

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(
    replace(sql, '    is_xml INTEGER NOT NULL,', '    form INTEGER NOT NULL,'),
    'CONSTRAINT is_xml_is_bool CHECK (is_xml IN (0, 1))',
    'CONSTRAINT form_is_known CHECK (form BETWEEN 0 AND 3)'
)
WHERE type = 'table' AND name IN ('item', 'result', 'message');
-- An error, and nothing of all this has happened, if the text was another one in any of the three.
SELECT json(CASE count(*) WHEN 3 THEN '3' ELSE 'the column form is not everywhere what it should be' END)
FROM sqlite_schema
WHERE sql LIKE '%    form INTEGER NOT NULL,%' AND sql LIKE '%CONSTRAINT form_is_known CHECK (form BETWEEN 0 AND 3)%';
PRAGMA writable_schema = RESET;

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
    i.form = 1 AS is_xml,
    CASE i.form WHEN 0 THEN 'text' WHEN 1 THEN 'xml' WHEN 2 THEN 'json' WHEN 3 THEN 'pickle' END AS form,
    CASE WHEN i.form = 2 THEN i.payload END AS json,
    i.item_key
FROM item i
JOIN buffer b ON b.buffer_seq = i.item_key >> 32
    AND i.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
LEFT JOIN result r ON r.item_key = i.item_key
LEFT JOIN answer a ON a.answer_id = r.answer_id
WHERE b.dropped_commit IS NULL;

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
    r.item_key
FROM result r
JOIN buffer b ON b.buffer_seq = r.item_key >> 32
    AND r.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
LEFT JOIN answer a ON a.answer_id = r.answer_id
LEFT JOIN journal_commit c ON c.commit_id = (SELECT again.commit_id FROM answer again WHERE again.answer_id = r.answer_id)
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
    f.item_key
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
    CAST(NULL AS INTEGER)  -- of the type that it has above: else SQLite first makes a table of all failures
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
    m.form = 1 AS is_xml,
    CASE m.form WHEN 0 THEN 'text' WHEN 1 THEN 'xml' WHEN 2 THEN 'json' WHEN 3 THEN 'pickle' END AS form,
    CASE WHEN m.form = 2 THEN m.payload END AS json
FROM message m
JOIN journal_commit created ON created.commit_id = m.created_commit
LEFT JOIN journal_commit settled ON settled.commit_id = m.settled_commit;

PRAGMA user_version = 2;
