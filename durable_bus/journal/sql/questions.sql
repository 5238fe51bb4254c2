-- The questions that people ask a journal, each with the SQL that answers it: `durable-bus query --named slowest-items`.
-- They use the views only, so they can be copied, changed and run by anything that runs SQL. A parameter that is not
-- given is NULL and means all. migrations/README.md shows every one of them; a test holds the two equal.

-- name: stuck
-- What has not ended, and what does it wait for? The oldest comes first.
SELECT
    b.buffer_id,
    b.target,
    b.pending,
    CASE
        WHEN b.state = 'receiving' THEN 'its items are still arriving'
        WHEN b.paused THEN 'paused'
        WHEN (SELECT ended FROM runs ORDER BY run_id DESC LIMIT 1) <> 'running' THEN 'no supervisor runs'
        WHEN held.buffer_id IS NOT NULL
            THEN 'worker ' || held.worker_pid || ' has items ' || held.first_index || ' to '
                || (held.first_index + held.item_count - 1) || ' since ' || min(held.since)
        ELSE coalesce(
            (
                SELECT 'waits for buffer ' || inner_one.buffer_id
                FROM buffers inner_one
                WHERE inner_one.thread_id > b.thread_id || '/' AND inner_one.thread_id < b.thread_id || '0'
                    AND inner_one.state = 'open'
                LIMIT 1
            ),
            (
                SELECT 'waits for ' || m.to_id || ', who has a message: ' || m.state
                FROM messages m
                WHERE m.thread_id > b.thread_id || '/' AND m.thread_id < b.thread_id || '0'
                    AND m.state IN ('waiting', 'delivered')
                LIMIT 1
            ),
            (
                SELECT 'item ' || i.item_index || ' waits for its next attempt after ' || i.attempts || ' failed, the last with '
                    || (
                        SELECT f.kind || ': ' || f.message
                        FROM failures f
                        WHERE f.buffer_id = b.buffer_id AND f.item_index = i.item_index AND f.attempt = i.attempts
                    )
                FROM items i
                WHERE i.buffer_id = b.buffer_id AND i.attempts > 0 AND i.state = 'waiting'
                    AND EXISTS (SELECT 1 FROM failures f WHERE f.buffer_id = b.buffer_id)
                LIMIT 1
            ),
            'waits for a worker with the listener ' || b.target
        )
    END AS why
FROM buffers b
LEFT JOIN in_flight held ON held.buffer_id = b.buffer_id
WHERE b.state IN ('open', 'receiving')
GROUP BY b.buffer_id
ORDER BY b.created_at, b.buffer_id;

-- name: progress
-- How far is each open buffer, how fast, and how long will the rest take at this pace?
SELECT
    buffer_id,
    total,
    completed,
    round(100.0 * completed / total, 1) AS percent,
    round(completed / seconds, 1) AS results_per_s,
    round(pending * seconds / nullif(completed, 0), 1) AS seconds_left
FROM (
    SELECT
        b.*,
        max((julianday((SELECT last_commit_at FROM runs ORDER BY run_id DESC LIMIT 1)) - julianday(b.created_at)) * 86400, 0.001)
            AS seconds
    FROM (SELECT buffer_id, total, completed, pending, created_at FROM buffers WHERE state = 'open') b
)
ORDER BY created_at, buffer_id;

-- name: slowest_items
-- Which items took longest? Of one buffer with :buffer, else of all.
SELECT r.buffer_id, r.item_index, r.duration_ms, r.success, r.worker_pid, r.recorded_at
FROM results r
WHERE :buffer IS NULL OR r.buffer_id = :buffer
ORDER BY r.duration_ms DESC
LIMIT 10;

-- name: durations
-- How are the durations of a buffer's items distributed? The buffer is :buffer, else each one for itself.
WITH timed AS MATERIALIZED (
    SELECT buffer_id, duration_ms AS ms FROM results WHERE :buffer IS NULL OR buffer_id = :buffer
)
SELECT
    buffer_id,
    count(*) AS items,
    round(avg(ms), 3) AS mean_ms,
    sum(ms < 1) AS under_1_ms,
    sum(ms >= 1 AND ms < 10) AS under_10_ms,
    sum(ms >= 10 AND ms < 100) AS under_100_ms,
    sum(ms >= 100 AND ms < 1000) AS under_1_s,
    sum(ms >= 1000) AS longer,
    max(ms) AS longest_ms
FROM timed
GROUP BY buffer_id
ORDER BY buffer_id;

-- name: failures_by_kind
-- Which listeners fail, and how? Every failed attempt counts, also one that a retry made good.
SELECT coalesce(b.target, m.to_id) AS listener, f.kind, count(*) AS attempts, max(f.failed_at) AS last_at
FROM failures f
LEFT JOIN buffers b ON b.buffer_id = f.buffer_id
LEFT JOIN messages m ON m.message_id = f.message_id
GROUP BY 1, 2
ORDER BY attempts DESC, listener, f.kind;

-- name: frequent_errors
-- What do failures say, the most frequent first, with an example to look at?
SELECT
    f.kind,
    f.message,
    count(*) AS attempts,
    min(coalesce(f.buffer_id || '/' || f.item_index, 'message ' || f.message_id)) AS example,
    max(f.traceback) AS traceback
FROM failures f
GROUP BY f.kind, f.message
ORDER BY attempts DESC, f.kind, f.message
LIMIT 10;

-- name: failed_items
-- Which items failed for good, and why? Of one buffer with :buffer, else of all.
SELECT r.buffer_id, r.item_index, r.attempt, r.error
FROM results r
WHERE NOT r.success AND (:buffer IS NULL OR r.buffer_id = :buffer)
ORDER BY r.buffer_id, r.item_index;

-- name: missing_items
-- Which items got no result, because their buffer was cancelled?
SELECT i.buffer_id, i.item_index, i.attempts, i.payload
FROM buffers b
CROSS JOIN items i ON i.buffer_id = b.buffer_id
WHERE b.state = 'cancelled' AND b.completed < b.total AND i.state = 'missing' AND (:buffer IS NULL OR b.buffer_id = :buffer)
ORDER BY i.buffer_id, i.item_index;

-- name: ran_more_than_once
-- Which items ran again, after a failed attempt, or perhaps did, because a death left open whether they had run?
SELECT buffer_id, first_index, item_count, 'attempt ' || attempt AS why, worker_pid, sent_at
FROM dispatches
WHERE attempt > 1 AND ended IS NOT 'returned'
UNION ALL
SELECT
    again.buffer_id,
    max(again.first_index, before.first_index),
    min(again.first_index + again.item_count, before.first_index + before.item_count)
        - max(again.first_index, before.first_index),
    CASE before.ended WHEN 'died' THEN 'worker ' || before.worker_pid || ' died' ELSE 'the supervisor died' END,
    again.worker_pid,
    again.sent_at
FROM dispatches before
CROSS JOIN dispatches again
    ON again.buffer_id = before.buffer_id
        AND again.dispatch_id > before.dispatch_id
        AND +again.attempt = before.attempt
        -- a dispatch holds 2,000 items at most
        AND again.first_index BETWEEN before.first_index - 1999 AND before.first_index + before.item_count - 1
        AND again.first_index + again.item_count > before.first_index
WHERE before.ended IN ('died', 'crashed') AND again.ended IS NOT 'returned'
ORDER BY sent_at, buffer_id, first_index;

-- name: retries_that_helped
-- Which items succeeded, but not at their first attempt?
SELECT r.buffer_id, r.item_index, r.attempt, r.duration_ms, r.recorded_at
FROM results r
WHERE r.success AND r.attempt > 1
ORDER BY r.buffer_id, r.item_index;

-- name: interrupted
-- What was in flight when a supervisor crashed? What the newest run has in hand counts only once it is dead.
SELECT r.run_id, r.last_commit_at AS crashed_after, d.buffer_id, d.first_index, d.item_count, d.attempt, d.worker_pid, d.sent_at
FROM dispatches d
CROSS JOIN runs r ON r.run_id = d.run_id
WHERE d.ended = 'crashed' OR (d.ended IS NULL AND r.ended <> 'clean')
ORDER BY d.dispatch_id;

-- name: worker_deaths
-- Which workers died, and what did they hold?
SELECT d.run_id, d.worker_pid, d.ended_at AS died_at, d.buffer_id, d.first_index, d.item_count, d.attempt
FROM dispatches d
WHERE d.ended = 'died'
ORDER BY d.dispatch_id;

-- name: rate
-- How many results and failures per second, over the last run? After a quick restart, an earlier run shares its first second.
WITH last_run AS MATERIALIZED (
    SELECT run_id, started_at, substr(started_at, 1, 19) AS first_second FROM runs ORDER BY run_id DESC LIMIT 1
),
sharing AS MATERIALIZED (
    SELECT e.run_id FROM last_run l CROSS JOIN runs e ON e.run_id < l.run_id AND e.last_commit_at > l.first_second
)
SELECT second, sum(results) AS results, sum(failures) AS failures
FROM (
    SELECT second, results, failures FROM throughput WHERE second > (SELECT first_second FROM last_run)
    UNION ALL
    SELECT substr(recorded_at, 1, 19) || 'Z', -1, 0
    FROM results
    WHERE EXISTS (SELECT 1 FROM sharing)  -- nearly always none: then no result is looked at
        AND +run_id IN (SELECT run_id FROM sharing)
        AND recorded_at > (SELECT first_second FROM last_run)
    UNION ALL
    SELECT substr(failed_at, 1, 19) || 'Z', 0, -1
    FROM failures
    WHERE EXISTS (SELECT 1 FROM sharing)
        AND failed_at > (SELECT first_second FROM last_run)
        AND failed_at < (SELECT started_at FROM last_run)
)
GROUP BY second
HAVING sum(results) > 0 OR sum(failures) > 0
ORDER BY second;

-- name: runs_and_crashes
-- When did which supervisor run, for how long, and how did it end?
SELECT
    run_id,
    pid,
    app,
    started_at,
    ended,
    coalesce(stopped_at, last_commit_at) AS last_seen_at,
    round((julianday(coalesce(stopped_at, last_commit_at)) - julianday(started_at)) * 86400, 3) AS seconds
FROM runs
ORDER BY run_id;

-- name: time_to_complete
-- How long is it from a submit to its completion, by listener?
SELECT
    target,
    count(*) AS buffers,
    sum(total) AS items,
    round(min(seconds), 3) AS shortest_s,
    round(avg(seconds), 3) AS mean_s,
    round(max(seconds), 3) AS longest_s
FROM buffers
WHERE state = 'complete'
GROUP BY target
ORDER BY target;

-- name: worker_of_item
-- Which worker ran item :item of buffer :buffer, in which run, when and for how long?
SELECT r.buffer_id, r.item_index, r.worker_pid, r.run_id, r.attempt, r.success, r.duration_ms, r.recorded_at
FROM results r
WHERE r.buffer_id = :buffer AND r.item_index = CAST(:item AS INTEGER);

-- name: busiest_workers
-- How much was each worker given, without what was taken back?
SELECT
    run_id,
    worker_pid,
    count(*) AS dispatches,
    sum(item_count) AS items,
    sum(ended IS 'died') > 0 AS died,
    max(sent_at) AS last_at
FROM dispatches
WHERE ended IS NOT 'returned'
GROUP BY run_id, worker_pid
ORDER BY items DESC, run_id, worker_pid
LIMIT 20;

-- name: waiting_messages
-- Who has messages waiting, how many and since when?
SELECT to_id, kind, state, count(*) AS messages, min(created_at) AS oldest_at
FROM messages
WHERE state IN ('waiting', 'delivered')
GROUP BY to_id, kind, state
ORDER BY oldest_at, to_id, kind;

-- name: conversation
-- What was said on thread :thread, and on those that began on it?
SELECT m.created_at, m.from_id, m.to_id, m.kind, m.state, m.thread_id, m.payload
FROM messages m
WHERE m.thread_id = :thread OR (m.thread_id > :thread || '/' AND m.thread_id < :thread || '0')
ORDER BY m.created_at, m.settled_at IS NULL, m.settled_at, m.message_id;

-- name: nested_buffers
-- Which buffers were started by handlers, and by which item of which buffer, or handling which message?
SELECT
    b.buffer_id,
    b.state,
    b.total,
    outer_one.buffer_id AS started_by_buffer,
    CAST(substr(b.starter_thread_id, length(outer_one.thread_id) + 2) AS INTEGER) AS started_by_item,
    b.started_by_message
FROM (
    SELECT every_one.*, (
        -- one commit has both: the buffer, and that this was the message's outcome
        SELECT m.message_id
        FROM messages m
        WHERE m.thread_id = every_one.starter_thread_id AND m.to_id = every_one.from_id
            AND m.settled_at = every_one.created_at
        LIMIT 1
    ) AS started_by_message
    FROM buffers every_one
) b
LEFT JOIN buffers outer_one
    -- an item's thread is its buffer's, a slash and its index
    ON outer_one.thread_id
        = substr(rtrim(b.starter_thread_id, '0123456789'), 1, length(rtrim(b.starter_thread_id, '0123456789')) - 1)
WHERE outer_one.buffer_id IS NOT NULL OR b.started_by_message IS NOT NULL
ORDER BY b.created_at, b.buffer_id;
