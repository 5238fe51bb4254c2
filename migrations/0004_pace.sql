-- What may start when: limits, waits, budgets and ends of buffers; and answers that are given again.
--
-- A *limit* is how often and how many at once something may start, over all workers, buffers, messages and restarts.
-- `limit_state` has a row for each, as it is now, from which the next start goes on; `limit_change` a row for each time
-- that it was set or rested, so that the past stays readable. What a handler *spends* is a row of `spent`, in the commit
-- that takes it in, and stays when its buffer is pruned: it is what somebody is asked to pay for. So numbers of dispatches
-- are never given twice, and a row loses its message when that is forgotten (`message_seq`). A *budget* is how much a
-- buffer, and those that its handlers start, may spend before it is paused.
-- A *memo* says which result is given again to an item that equals its item; it goes when that result is pruned.
-- An early end of a buffer is as a cancel: it names the commit in `cancelled_commit`, and why in `ended_how`.
-- An item that comes back by RetryAfter has a row of `failure` of its own kind, which charges no attempt.
-- Constraints are changed as 0002 changed them: in the text of sqlite_schema, without touching a row.

DROP VIEW buffers;
DROP VIEW results;

ALTER TABLE buffer ADD COLUMN priority INTEGER NOT NULL DEFAULT 0
CONSTRAINT priority_is_within_ten CHECK (priority BETWEEN -10 AND 10);
ALTER TABLE buffer ADD COLUMN not_before INTEGER;   -- nothing of it starts before, ms since the epoch
ALTER TABLE buffer ADD COLUMN deadline_at INTEGER;  -- it ends then as it is, ms since the epoch
ALTER TABLE buffer ADD COLUMN enough INTEGER        -- it ends when so many have succeeded
CONSTRAINT enough_is_positive CHECK (enough > 0);
ALTER TABLE buffer ADD COLUMN max_failures INTEGER  -- it ends when so many have failed
CONSTRAINT max_failures_is_positive CHECK (max_failures > 0);
-- Whose budget it spends of: its own, or that of the one it was started in; NULL: it has none.
ALTER TABLE buffer ADD COLUMN budget_of INTEGER REFERENCES buffer (buffer_seq);
ALTER TABLE buffer ADD COLUMN ended_how TEXT        -- NULL where an older version has ended it
CONSTRAINT ended_in_a_known_way CHECK (
    ended_how IS NULL
    OR (ended_commit IS NOT NULL AND ended_how = 'all' AND cancelled_commit IS NULL)
    OR (
        ended_commit IS NOT NULL AND cancelled_commit IS NOT NULL
        AND ended_how IN ('enough', 'max_failures', 'deadline', 'cancelled')
    )
);

CREATE INDEX buffer_of_budget ON buffer (budget_of) WHERE budget_of IS NOT NULL;

ALTER TABLE pause ADD COLUMN why TEXT NOT NULL DEFAULT 'asked'
CONSTRAINT paused_for_a_known_reason CHECK (why IN ('asked', 'budget'));

ALTER TABLE answer ADD COLUMN memo INTEGER NOT NULL DEFAULT 0  -- 1: given again, of an equal item; nothing ran
CONSTRAINT memo_is_bool CHECK (memo IN (0, 1));
CREATE INDEX answer_of_memo ON answer (buffer_seq, first_index) WHERE memo = 1;

PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(
    sql,
    'CHECK (kind IN (''exception'', ''timeout'', ''lost'', ''malformed'', ''answer''))',
    'CHECK (kind IN (''exception'', ''timeout'', ''lost'', ''malformed'', ''answer'', ''retry_after''))'
)
WHERE type = 'table' AND name = 'failure';
-- An error, and nothing of all this has happened, if the text was another one.
SELECT json(CASE count(*) WHEN 1 THEN '1' ELSE 'the constraint of the table failure is not what it should be' END)
FROM sqlite_schema
WHERE name = 'failure' AND sql LIKE '%''answer'', ''retry_after''))%';
PRAGMA writable_schema = RESET;

CREATE TABLE limit_state (
    name TEXT PRIMARY KEY,
    declared INTEGER NOT NULL,     -- 1: the app of the last run has it
    app_rate TEXT,                 -- as the app says it, such as '500/min'; NULL: as often as one likes
    app_running INTEGER,           -- how many at once; NULL: any number
    adaptive INTEGER NOT NULL,
    by_hand INTEGER NOT NULL,      -- 1: set while it runs, until it is reset
    rate TEXT,                     -- what counts now
    running INTEGER,
    allowed REAL,                  -- how many at once the answers have led to; NULL: as `running` says
    tokens REAL NOT NULL,          -- how many might have started at once, at that time
    tokens_at INTEGER NOT NULL,    -- ms since the epoch
    tokens_at_ns INTEGER NOT NULL, -- the same by the clock that nobody sets
    not_begun INTEGER NOT NULL,    -- handed out by then and not begun
    in_hand INTEGER NOT NULL,      -- handed out by then and not answered
    rests_until INTEGER NOT NULL,  -- nothing starts before, ms since the epoch
    CONSTRAINT declared_is_bool CHECK (declared IN (0, 1)),
    CONSTRAINT adaptive_is_bool CHECK (adaptive IN (0, 1)),
    CONSTRAINT by_hand_is_bool CHECK (by_hand IN (0, 1)),
    CONSTRAINT a_limit_limits_something CHECK (rate IS NOT NULL OR running IS NOT NULL),
    CONSTRAINT running_is_positive CHECK (running > 0 AND app_running > 0),
    CONSTRAINT one_may_always_run CHECK (allowed >= 1),
    CONSTRAINT never_more_begun_than_in_hand CHECK (not_begun BETWEEN 0 AND in_hand)
) STRICT, WITHOUT ROWID;

CREATE TABLE limit_change (
    change_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    cause TEXT NOT NULL,
    rate TEXT,     -- how it was from then on; with neither `rate` nor `running` the app has it no more
    running INTEGER,
    allowed REAL,
    rests_until INTEGER NOT NULL,
    CONSTRAINT changed_for_a_known_cause CHECK (cause IN ('app', 'hand', 'reset', 'rest', 'slower'))
) STRICT;
CREATE INDEX limit_change_by_name ON limit_change (name, change_id);

CREATE TABLE budget (
    buffer_seq INTEGER NOT NULL REFERENCES buffer (buffer_seq),
    unit TEXT NOT NULL,
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    amount REAL NOT NULL,  -- how much more may be spent; each time it is resumed adds a row
    PRIMARY KEY (buffer_seq, unit, commit_id),
    CONSTRAINT amount_is_positive CHECK (amount > 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE spent (
    spent_id INTEGER PRIMARY KEY,
    commit_id INTEGER NOT NULL REFERENCES journal_commit (commit_id),
    dispatch_id INTEGER NOT NULL,  -- below 0: of the message that had that number
    item_index INTEGER NOT NULL,   -- 0 for a message
    number INTEGER NOT NULL,       -- counts what one handling spends, from 0 on
    buffer_seq INTEGER REFERENCES buffer (buffer_seq),  -- of a message: the buffer on whose items' threads it is; NULL: none
    message_seq INTEGER REFERENCES message (message_seq),  -- NULL: of an item, or the message is forgotten
    listener TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    unit TEXT NOT NULL,
    amount REAL NOT NULL,
    CONSTRAINT spent_on_an_item_or_a_message CHECK (dispatch_id <> 0 AND (message_seq IS NULL OR message_seq = -dispatch_id)),
    CONSTRAINT number_is_not_negative CHECK (number >= 0 AND item_index >= 0),
    CONSTRAINT amount_is_not_negative CHECK (amount >= 0)
) STRICT;
-- A message whose worker or supervisor has died is handled again at the same attempt, and spends again.
CREATE UNIQUE INDEX spent_once ON spent (dispatch_id, item_index, number, unit) WHERE dispatch_id > 0;
CREATE INDEX spent_of_buffer ON spent (buffer_seq, item_index) WHERE buffer_seq IS NOT NULL;
CREATE INDEX spent_of_message ON spent (message_seq) WHERE message_seq IS NOT NULL;

CREATE TABLE memo (
    memo_key BLOB PRIMARY KEY,  -- digest of listener, memo text, form and payload
    item_key INTEGER NOT NULL   -- whose result is the answer
) STRICT, WITHOUT ROWID;
CREATE INDEX memo_of_item ON memo (item_key);

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
    (SELECT p.why FROM pause p WHERE p.buffer_seq = b.buffer_seq AND p.resumed_commit IS NULL) AS paused_why
FROM buffer b
JOIN journal_commit created ON created.commit_id = b.created_commit
LEFT JOIN journal_commit ended ON ended.commit_id = b.ended_commit
LEFT JOIN journal_commit sealed ON sealed.commit_id = b.sealed_commit
LEFT JOIN buffer retried ON retried.buffer_seq = b.retry_of
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
    r.item_key,
    coalesce(a.memo, 0) AS memo
FROM result r
JOIN buffer b ON b.buffer_seq = r.item_key >> 32
    AND r.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
LEFT JOIN answer a ON a.answer_id = r.answer_id
LEFT JOIN journal_commit c ON c.commit_id = (SELECT again.commit_id FROM answer again WHERE again.answer_id = r.answer_id)
WHERE b.dropped_commit IS NULL;

-- A row for each time that a handler has said what it spends.
CREATE VIEW spending AS
SELECT
    b.buffer_id,
    s.listener,
    s.unit,
    s.amount,
    CASE WHEN s.dispatch_id > 0 THEN s.item_index END AS item_index,
    m.message_id,
    s.attempt,
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS spent_at
FROM spent s
JOIN journal_commit c ON c.commit_id = s.commit_id
LEFT JOIN buffer b ON b.buffer_seq = s.buffer_seq AND b.dropped_commit IS NULL  -- as the index of ids says it
LEFT JOIN message m ON m.message_seq = s.message_seq;

-- A row for each limit of the app, as its supervisor has last written it.
CREATE VIEW limits AS
SELECT
    l.name,
    l.rate,
    l.running,
    l.adaptive,
    CAST(coalesce(l.allowed, l.running) AS INTEGER) AS allowed,
    l.in_hand,
    l.not_begun,
    CASE WHEN l.rests_until > 0 THEN strftime('%Y-%m-%dT%H:%M:%fZ', l.rests_until / 1000.0, 'unixepoch') END AS rests_until,
    l.by_hand,
    l.app_rate,
    l.app_running,
    strftime('%Y-%m-%dT%H:%M:%fZ', l.tokens_at / 1000.0, 'unixepoch') AS as_of,
    (
        SELECT json_group_array(told.key)
        FROM json_each((SELECT r.listeners FROM run r WHERE r.listeners IS NOT NULL ORDER BY r.run_id DESC LIMIT 1)) told
        WHERE EXISTS (SELECT 1 FROM json_each(told.value, '$.limits') one WHERE one.value = l.name)
    ) AS listeners
FROM limit_state l
WHERE l.declared = 1;

PRAGMA user_version = 4;
