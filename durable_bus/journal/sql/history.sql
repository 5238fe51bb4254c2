-- What the past of a journal looks like: for `replay` and `check`. Every transition is a column that names its commit, so
-- how things stood after a commit is a matter of comparing numbers.

-- name: schema
-- What the migrations have made; sqlite-utils keeps a table of its own beside it.
SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%sqlite_%' ORDER BY name;

-- name: tables
SELECT name, sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL ORDER BY name;

-- name: newest_run
SELECT run_id, stopped_at IS NOT NULL AS stopped, pid FROM run ORDER BY run_id DESC LIMIT 1;

-- name: runs
-- Commits are numbered in order, so those of a run are a range.
SELECT
    r.run_id, r.pid, r.app, r.version,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.started_at / 1000.0, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.stopped_at / 1000.0, 'unixepoch') AS stopped_at,
    r.first_commit AS first_commit,
    coalesce(
        (SELECT n.first_commit - 1 FROM run n WHERE n.run_id > r.run_id ORDER BY n.run_id LIMIT 1),
        (SELECT max(commit_id) FROM journal_commit)
    ) AS last_commit,
    (SELECT last_commit_at FROM runs v WHERE v.run_id = r.run_id) AS last_commit_at
FROM run r
ORDER BY r.run_id;

-- name: recorded_between
SELECT coalesce(sum(results), 0) AS results, coalesce(sum(failures), 0) AS failures
FROM journal_commit WHERE commit_id BETWEEN :first_commit AND :last_commit;

-- name: buffer_events
-- In which run buffers were opened, cancelled, completed, ended early and pruned.
SELECT c.run_id, 'opened' AS what, count(*) AS buffers
FROM buffer b JOIN journal_commit c ON c.commit_id = b.opened_commit
GROUP BY c.run_id
UNION ALL
SELECT
    c.run_id,
    CASE coalesce(b.ended_how, CASE WHEN b.cancelled_commit IS NULL THEN 'all' ELSE 'cancelled' END)
        WHEN 'all' THEN 'completed'
        WHEN 'cancelled' THEN 'cancelled'
        ELSE 'ended_by_' || b.ended_how
    END,
    count(*)
FROM buffer b JOIN journal_commit c ON c.commit_id = b.ended_commit
GROUP BY 1, 2
UNION ALL
SELECT c.run_id, 'pruned', count(*)
FROM buffer b JOIN journal_commit c ON c.commit_id = b.pruned_commit
GROUP BY c.run_id;

-- name: worker_deaths
SELECT c.run_id, count(DISTINCT d.worker_pid) AS workers
FROM dispatch d CROSS JOIN journal_commit c ON c.commit_id = d.ended_commit
WHERE d.ended_how = 'died'
GROUP BY c.run_id;

-- name: came_back
-- How often a handler has raised RetryAfter, as far as it is not pruned.
SELECT c.run_id, count(*) AS times
FROM failure f CROSS JOIN journal_commit c ON c.commit_id = f.commit_id
WHERE f.kind = 'retry_after'
GROUP BY c.run_id;

-- name: interrupted
-- What a crash interrupted: settled by the start after it, or not yet. `answered`: recorded by this dispatch before.
SELECT
    d.dispatch_id, c.run_id, b.buffer_id, d.first_index, d.item_count, d.attempt, d.worker_pid,
    strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS sent_at,
    d.ended_commit IS NULL AS in_flight,
    d.place AS "where",
    (
        SELECT count(*) FROM result r JOIN answer a ON a.answer_id = r.answer_id
        WHERE r.item_key >= (d.buffer_seq << 32) + d.first_index
            AND r.item_key < (d.buffer_seq << 32) + d.first_index + d.item_count
            AND a.dispatch_id = d.dispatch_id
    ) AS answered
FROM dispatch d
CROSS JOIN journal_commit c ON c.commit_id = d.commit_id
CROSS JOIN buffer b ON b.buffer_seq = d.buffer_seq
WHERE d.ended_commit IS NULL OR d.ended_how = 'crashed'
ORDER BY d.dispatch_id;

-- name: last_commit_until
-- The last commit that had happened at a time. The clock may have been set back: the latest of them counts.
SELECT max(commit_id) FROM journal_commit WHERE committed_at <= :time_ms;

-- name: commit
SELECT run_id, strftime('%Y-%m-%dT%H:%M:%fZ', committed_at / 1000.0, 'unixepoch') AS committed_at
FROM journal_commit WHERE commit_id = :commit_id;

-- name: newest_commit
SELECT max(commit_id) FROM journal_commit;

-- name: buffers_at
-- Every buffer as it was after a commit, as the view `buffers` would have shown it. A stream had the chunks of until then.
-- What a prune has removed cannot be counted any more (NULL), and how many items had arrived of a buffer that was receiving
-- is known of the present only.
SELECT
    b.buffer_id,
    CASE
        WHEN b.pruned_commit <= :commit_id THEN 'pruned'
        WHEN b.cancelled_commit <= :commit_id AND coalesce(b.ended_how, 'cancelled') = 'cancelled' THEN 'cancelled'
        WHEN b.ended_commit <= :commit_id THEN 'complete'
        WHEN b.opened_commit <= :commit_id THEN 'open'
        ELSE 'receiving'
    END AS state,
    EXISTS (
        SELECT 1 FROM pause p
        WHERE p.buffer_seq = b.buffer_seq AND p.paused_commit <= :commit_id
            AND (p.resumed_commit IS NULL OR p.resumed_commit > :commit_id)
    ) AS paused,
    b.target,
    CASE
        WHEN b.sealed_commit <= :commit_id OR b.ended_commit <= :commit_id THEN b.total
        WHEN b.opened_commit <= :commit_id THEN CASE WHEN b.pruned_commit IS NULL THEN (
            SELECT coalesce(sum(k.item_count), 0) FROM chunk k
            WHERE k.buffer_seq = b.buffer_seq AND k.commit_id <= :commit_id
        ) END
        WHEN :commit_id >= (SELECT max(commit_id) FROM journal_commit) THEN b.received
    END AS total,
    CASE
        WHEN b.ended_commit <= :commit_id THEN b.succeeded
        WHEN b.pruned_commit IS NULL THEN (
            SELECT coalesce(sum(a.recorded), 0) FROM answer a
            WHERE a.buffer_seq = b.buffer_seq AND a.commit_id <= :commit_id AND a.success = 1
        )
    END AS successful,
    CASE
        WHEN b.ended_commit <= :commit_id THEN b.failed
        WHEN b.pruned_commit IS NULL THEN (
            SELECT coalesce(sum(a.recorded), 0) FROM answer a
            WHERE a.buffer_seq = b.buffer_seq AND a.commit_id <= :commit_id AND a.success = 0
        )
    END AS failed,
    CASE WHEN b.pruned_commit IS NULL THEN (
        SELECT coalesce(sum(d.item_count), 0)
        FROM dispatch d
        WHERE d.buffer_seq = b.buffer_seq AND d.commit_id <= :commit_id
            AND (d.ended_commit IS NULL OR d.ended_commit > :commit_id)
    ) END AS in_flight,
    b.created_commit,
    CASE WHEN b.sealed_commit <= :commit_id THEN (
        SELECT strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch')
        FROM journal_commit c WHERE c.commit_id = b.sealed_commit
    ) END AS sealed_at,
    CASE WHEN b.ended_commit <= :commit_id THEN b.ended_commit END AS ended_commit,
    CASE WHEN b.ended_commit <= :commit_id
        THEN coalesce(b.ended_how, CASE WHEN b.cancelled_commit IS NULL THEN 'all' ELSE 'cancelled' END)
    END AS ended_how,
    (
        SELECT p.why FROM pause p
        WHERE p.buffer_seq = b.buffer_seq AND p.paused_commit <= :commit_id
            AND (p.resumed_commit IS NULL OR p.resumed_commit > :commit_id)
    ) AS paused_why
FROM buffer b
WHERE b.created_commit <= :commit_id AND (b.dropped_commit IS NULL OR b.dropped_commit > :commit_id)
ORDER BY b.buffer_seq;

-- name: limits_at
-- Every limit as its last change until a commit has left it. One that the app had no more then has neither rate nor number.
-- `rests_until`: NULL when that was over by then. A number that was set by hand counts until it is reset.
SELECT
    last.name, last.rate, last.running, CAST(coalesce(last.allowed, last.running) AS INTEGER) AS allowed, last.cause,
    CASE WHEN last.rests_until > (SELECT c.committed_at FROM journal_commit c WHERE c.commit_id = :commit_id)
        THEN strftime('%Y-%m-%dT%H:%M:%fZ', last.rests_until / 1000.0, 'unixepoch')
    END AS rests_until,
    coalesce((
        SELECT h.cause = 'hand' FROM limit_change h
        WHERE h.name = last.name AND h.cause IN ('hand', 'reset') AND h.commit_id <= :commit_id
        ORDER BY h.change_id DESC LIMIT 1
    ), 0) AS by_hand,
    last.commit_id AS changed_commit
FROM limit_change last
WHERE last.change_id IN (SELECT max(n.change_id) FROM limit_change n WHERE n.commit_id <= :commit_id GROUP BY n.name)
    AND (last.rate IS NOT NULL OR last.running IS NOT NULL)
ORDER BY last.name;

-- name: spending_at
-- What had been spent by then, by buffer and unit; with a NULL buffer, on messages that belong to none.
SELECT b.buffer_id, s.unit, sum(s.amount) AS amount, count(*) AS times
FROM spent s
LEFT JOIN buffer b ON b.buffer_seq = s.buffer_seq
WHERE s.commit_id <= :commit_id
GROUP BY s.buffer_seq, s.unit
ORDER BY s.buffer_seq, s.unit;

-- name: open_work
-- What `finish` waits for: items that somebody must still be handed, or has in hand; what waits for a conversation to come
-- to its end is `forwarded`.
SELECT
    b.buffer_id, b.target, coalesce(b.total, b.received) - b.succeeded - b.failed AS pending,
    b.sealed_commit IS NULL AS unsealed,
    EXISTS (SELECT 1 FROM pause p WHERE p.buffer_seq = b.buffer_seq AND p.resumed_commit IS NULL) AS paused,
    (
        SELECT count(*) FROM forwarded_item o
        WHERE o.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
            AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = o.item_key)
    ) AS forwarded
FROM buffer b INDEXED BY buffer_not_ended
WHERE b.ended_commit IS NULL AND b.opened_commit IS NOT NULL
ORDER BY b.buffer_seq;

-- name: unsettled_messages
-- To listeners; what is in a mailbox waits for its client.
SELECT to_id, count(*) AS messages FROM (
    SELECT to_id FROM message INDEXED BY message_waiting WHERE settled_commit IS NULL AND delivered_commit IS NULL
    UNION ALL
    SELECT to_id FROM message INDEXED BY message_delivered WHERE settled_commit IS NULL AND delivered_commit IS NOT NULL
)
WHERE to_id NOT IN (SELECT name FROM mailbox)
GROUP BY to_id;
