-- What the console's pages show, as it is or as it was after a commit (:at). Every transition is a column that names its
-- commit, so one statement serves both. :is_now says that no later commit is there: then counters are right, which in the past
-- must be counted from rows. Times are milliseconds since the epoch. A column that older journals lack has its name once more: NULL
-- stands in its place there.

-- name: newest
SELECT commit_id, committed_at, run_id FROM journal_commit ORDER BY commit_id DESC LIMIT 1;

-- name: oldest
SELECT commit_id, committed_at FROM journal_commit ORDER BY commit_id LIMIT 1;

-- name: commit_row
SELECT commit_id, committed_at, run_id FROM journal_commit WHERE commit_id <= :commit_id ORDER BY commit_id DESC LIMIT 1;

-- name: last_commit_until
SELECT max(commit_id) FROM journal_commit WHERE committed_at <= :time_ms;

-- name: newest_answer_id
SELECT max(answer_id) FROM answer;

-- name: newest_failure_id
SELECT max(failure_id) FROM failure;

-- name: newest_dispatch_id
SELECT max(dispatch_id) FROM dispatch;

-- name: answer_probe
SELECT commit_id FROM answer WHERE answer_id >= :id ORDER BY answer_id LIMIT 1;

-- name: failure_probe
SELECT commit_id FROM failure WHERE failure_id >= :id ORDER BY failure_id LIMIT 1;

-- name: dispatch_probe
-- What came back has perhaps a row that was made then, of the commit of the dispatch that it was part of: it is passed over.
SELECT coalesce((
    SELECT commit_id FROM dispatch WHERE dispatch_id >= :id AND ended_how IS NOT 'returned' ORDER BY dispatch_id LIMIT 1
), 9223372036854775807);

-- name: newest_run
SELECT run_id, pid, app, version, started_at, stopped_at, worker_error, listeners FROM run ORDER BY run_id DESC LIMIT 1;

-- name: runs
-- The last ones, also those that began later. Commits are numbered in order, so those of a run are a range.
SELECT r.*, c.committed_at AS last_commit_ms
FROM (
    SELECT r.run_id, r.pid, r.app, r.version, r.started_at, r.stopped_at, r.first_commit AS first_commit,
        coalesce(
            (SELECT n.first_commit - 1 FROM run n WHERE n.run_id > r.run_id ORDER BY n.run_id LIMIT 1),
            (SELECT max(commit_id) FROM journal_commit)
        ) AS last_commit
    FROM run r
    ORDER BY r.run_id DESC LIMIT :limit
) r
LEFT JOIN journal_commit c ON c.commit_id = r.last_commit
ORDER BY r.run_id DESC;

-- name: rate
-- Results and failed attempts by time. What a clock that was set back has written later than :at is left out.
SELECT (committed_at - :since_ms) / :step_ms AS bucket, sum(results) AS results, sum(failures) AS failures
FROM journal_commit
WHERE commit_id > :after_commit AND commit_id <= :at AND committed_at >= :since_ms AND committed_at < :until_ms
GROUP BY 1 ORDER BY 1;

-- name: density
-- Results by commit, of one commit in :stride.
SELECT (commit_id - :first) * :buckets / :commits AS bucket, sum(results) AS results, sum(failures) AS failures
FROM journal_commit
WHERE commit_id % :stride = 0
GROUP BY 1 ORDER BY 1;

-- name: states
-- How many buffers were in which state. All are looked at; sums need no sorting: 61 ms for 100,000 instead of 143, on a busy machine.
SELECT sum(state = 0) AS receiving, sum(state = 1) AS open, sum(state = 2) AS complete, sum(state = 3) AS cancelled,
    sum(state = 4) AS pruned
FROM (
    SELECT CASE
        WHEN b.pruned_commit <= :at THEN 4
        WHEN b.cancelled_commit <= :at AND coalesce(b.ended_how, 'cancelled') = 'cancelled' THEN 3
        WHEN b.ended_commit <= :at THEN 2
        WHEN b.opened_commit <= :at THEN 1
        ELSE 0
    END AS state
    FROM buffer b
    WHERE b.created_commit <= :at AND (b.dropped_commit IS NULL OR b.dropped_commit > :at)
);

-- name: last_failures
SELECT b.buffer_id, f.item_key & 4294967295 AS item_index, m.message_id, f.attempt, f.kind, f.message,
    c.committed_at AS at_ms
FROM failure f
JOIN journal_commit c ON c.commit_id = f.commit_id
LEFT JOIN buffer b ON b.buffer_seq = f.item_key >> 32
LEFT JOIN message m ON m.message_seq = f.message_seq
WHERE f.failure_id <= :last_failure
ORDER BY f.failure_id DESC LIMIT :limit;

-- name: failures_of_message
SELECT f.attempt, f.kind, f.message, c.committed_at AS at_ms, t.body AS traceback
FROM failure f INDEXED BY failure_of_message
JOIN journal_commit c ON c.commit_id = f.commit_id
LEFT JOIN traceback t ON t.traceback_id = f.traceback_id
WHERE f.message_seq = :message_seq AND f.commit_id <= :at
ORDER BY f.failure_id DESC LIMIT :limit;

-- name: messages_of_thread
SELECT m.message_seq, m.message_id, m.kind, m.from_id, m.to_id, m.thread_id, created.committed_at AS created_ms,
    CASE
        WHEN m.settled_commit <= :at AND m.failed THEN 'failed'
        WHEN m.settled_commit <= :at THEN 'settled'
        WHEN m.delivered_commit <= :at THEN 'delivered'
        ELSE 'waiting'
    END AS state
FROM message m INDEXED BY message_of_thread
JOIN journal_commit created ON created.commit_id = m.created_commit
WHERE (m.thread_id = :thread_id OR (m.thread_id > :thread_prefix AND m.thread_id < :thread_prefix_end))
    AND m.created_commit <= :at
ORDER BY m.message_seq LIMIT :limit;

-- name: messages_page
-- The newest first; what is NULL does not matter. Of a message that was delivered, or settled, and came back only the last time
-- is known: until then it is shown as waiting.
SELECT * FROM (
    SELECT m.message_seq, m.message_id, m.kind, m.from_id, m.to_id, m.thread_id, substr(m.payload, 1, 300) AS payload,
        created.committed_at AS created_ms,
        CASE
            WHEN m.settled_commit <= :at AND m.failed THEN 'failed'
            WHEN m.settled_commit <= :at THEN 'settled'
            WHEN m.delivered_commit <= :at THEN 'delivered'
            ELSE 'waiting'
        END AS state
    FROM message m
    JOIN journal_commit created ON created.commit_id = m.created_commit
    WHERE m.message_seq < :before AND m.created_commit <= :at AND (:to_id IS NULL OR m.to_id = :to_id)
    ORDER BY m.message_seq DESC
)
WHERE :state IS NULL OR state = :state
ORDER BY message_seq DESC LIMIT :limit;

-- name: message
SELECT m.message_seq, m.message_id, m.kind, m.from_id, m.to_id, m.thread_id, m.payload, m.form AS message_form,
    created.committed_at AS created_ms,
    CASE WHEN m.delivered_commit <= :at THEN delivered.committed_at END AS delivered_ms,
    CASE WHEN m.settled_commit <= :at THEN settled.committed_at END AS settled_ms,
    CASE
        WHEN m.settled_commit <= :at AND m.failed THEN 'failed'
        WHEN m.settled_commit <= :at THEN 'settled'
        WHEN m.delivered_commit <= :at THEN 'delivered'
        ELSE 'waiting'
    END AS state,
    EXISTS (SELECT 1 FROM mailbox b WHERE b.name = m.to_id) AS in_mailbox,
    (SELECT b.buffer_id FROM buffer b WHERE b.buffer_seq = m.buffer_seq) AS buffer_id
FROM message m
JOIN journal_commit created ON created.commit_id = m.created_commit
LEFT JOIN journal_commit delivered ON delivered.commit_id = m.delivered_commit
LEFT JOIN journal_commit settled ON settled.commit_id = m.settled_commit
WHERE m.message_id = :message_id AND m.created_commit <= :at;

-- name: waiting_by_name
-- Now, by the indexes that hold only what is not settled.
SELECT to_id, sum(waiting) AS waiting, sum(delivered) AS delivered, to_id IN (SELECT name FROM mailbox) AS is_mailbox FROM (
    SELECT to_id, 1 AS waiting, 0 AS delivered FROM message INDEXED BY message_waiting
    WHERE settled_commit IS NULL AND delivered_commit IS NULL
    UNION ALL
    SELECT to_id, 0, 1 FROM message INDEXED BY message_delivered WHERE settled_commit IS NULL AND delivered_commit IS NOT NULL
)
GROUP BY to_id ORDER BY to_id LIMIT :limit;

-- name: hands
-- Who had what in hand, among the last dispatches until then. What came back later has a row that is newer than those.
SELECT d.worker_pid, d.place AS place, count(*) AS batches, sum(d.item_count) AS items, min(c.committed_at) AS since_ms,
    group_concat(DISTINCT b.target) AS listeners
FROM dispatch d NOT INDEXED
JOIN journal_commit c ON c.commit_id = d.commit_id
JOIN buffer b ON b.buffer_seq = d.buffer_seq
WHERE d.dispatch_id > :last_dispatch - :among AND d.dispatch_id <= :last_dispatch + :among
    AND d.commit_id <= :at AND (d.ended_commit IS NULL OR d.ended_commit > :at)
GROUP BY d.worker_pid, d.place ORDER BY d.worker_pid LIMIT :limit;

-- name: hands_now
-- The same of all dispatches, by the index that holds only what has not ended.
SELECT d.worker_pid, d.place AS place, count(*) AS batches, sum(d.item_count) AS items, min(c.committed_at) AS since_ms,
    group_concat(DISTINCT b.target) AS listeners
FROM dispatch d INDEXED BY dispatch_not_ended
JOIN journal_commit c ON c.commit_id = d.commit_id
JOIN buffer b ON b.buffer_seq = d.buffer_seq
WHERE d.ended_commit IS NULL
GROUP BY d.worker_pid, d.place ORDER BY d.worker_pid LIMIT :limit;

-- name: worker_deaths
-- Among the last dispatches until then, the newest first.
SELECT d.worker_pid, d.place AS place, e.committed_at AS died_ms, d.ended_commit, b.buffer_id, d.first_index, d.item_count, d.attempt,
    d.ended_how
FROM dispatch d NOT INDEXED
JOIN journal_commit e ON e.commit_id = d.ended_commit
JOIN buffer b ON b.buffer_seq = d.buffer_seq
WHERE d.dispatch_id > :last_dispatch - :among AND d.dispatch_id <= :last_dispatch
    AND d.ended_commit <= :at AND d.ended_how IN ('died', 'crashed')
ORDER BY d.dispatch_id DESC LIMIT :limit;

-- name: limits_then
-- Every limit as its last change until then has left it. One that the app had no more then has neither rate nor number.
SELECT
    last.name, last.rate, last.running, CAST(coalesce(last.allowed, last.running) AS INTEGER) AS allowed,
    CASE WHEN last.rests_until > :at_ms THEN last.rests_until END AS rests_until_ms,
    coalesce((
        SELECT h.cause = 'hand' FROM limit_change h
        WHERE h.name = last.name AND h.cause IN ('hand', 'reset') AND h.commit_id <= :at
        ORDER BY h.change_id DESC LIMIT 1
    ), 0) AS by_hand
FROM limit_change last
WHERE last.change_id IN (SELECT max(n.change_id) FROM limit_change n WHERE n.commit_id <= :at GROUP BY n.name)
    AND (last.rate IS NOT NULL OR last.running IS NOT NULL)
ORDER BY last.name LIMIT :limit;

-- name: limit_changes
SELECT l.name, l.cause, l.rate, l.running, CAST(l.allowed AS INTEGER) AS allowed, c.committed_at AS at_ms, l.commit_id
FROM limit_change l
JOIN journal_commit c ON c.commit_id = l.commit_id
WHERE l.commit_id <= :at
ORDER BY l.change_id DESC LIMIT :limit;

-- name: by_hand
-- What people have asked for, the newest first. A retry and a prune have no row of their own: a buffer tells of them. Nothing
-- tells a prune that somebody asked for from those of `serve --retain`.
SELECT what, subject, detail, commit_id, committed_at AS at_ms FROM (
    SELECT * FROM (
        SELECT 'paused' AS what, b.buffer_id AS subject, '' AS detail, p.paused_commit AS commit_id
        FROM pause p JOIN buffer b ON b.buffer_seq = p.buffer_seq
        WHERE p.why = 'asked' AND p.paused_commit <= :at ORDER BY p.pause_id DESC LIMIT :limit
    )
    UNION ALL
    SELECT * FROM (
        SELECT 'resumed', b.buffer_id, '', p.resumed_commit
        FROM pause p JOIN buffer b ON b.buffer_seq = p.buffer_seq
        WHERE p.resumed_commit <= :at ORDER BY p.pause_id DESC LIMIT :limit
    )
    UNION ALL
    SELECT 'cancelled', b.buffer_id, '', b.cancelled_commit FROM buffer b
    WHERE b.cancelled_commit <= :at AND coalesce(b.ended_how, 'cancelled') = 'cancelled'
    UNION ALL
    SELECT 'started again', r.buffer_id, b.buffer_id, b.created_commit
    FROM buffer b JOIN buffer r ON r.buffer_seq = b.retry_of
    WHERE b.created_commit <= :at
    UNION ALL
    SELECT * FROM (
        SELECT CASE l.cause WHEN 'hand' THEN 'limit set' ELSE 'limit reset' END, l.name,
            coalesce(l.rate, '') || coalesce(' ' || l.running || ' at once', ''), l.commit_id
        FROM limit_change l
        WHERE l.cause IN ('hand', 'reset') AND l.commit_id <= :at ORDER BY l.change_id DESC LIMIT :limit
    )
    UNION ALL
    SELECT 'pruned', min(b.buffer_id), count(*) || CASE count(*) WHEN 1 THEN ' buffer' ELSE ' buffers' END
        || ', by hand or by serve --retain', b.pruned_commit FROM buffer b
    WHERE b.pruned_commit <= :at GROUP BY b.pruned_commit
)
JOIN journal_commit USING (commit_id)
ORDER BY commit_id DESC LIMIT :limit;

-- name: targets
-- Of the last buffers: there may be a hundred thousand, and no index has their listeners.
SELECT DISTINCT target FROM (
    SELECT b.target FROM buffer b NOT INDEXED WHERE b.created_commit <= :at ORDER BY b.buffer_seq DESC LIMIT :among
)
ORDER BY target LIMIT :limit;
