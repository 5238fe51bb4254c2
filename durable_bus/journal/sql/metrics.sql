-- What a page of metrics asks: sums over the whole journal, by listener and never by buffer. They use the tables, because
-- an answer holds the durations of many items. Big tables are read by ranges of their keys (:after_id, :last_id): a reader
-- in the middle of a SELECT keeps the write-ahead log from shrinking, and a small range is grouped in memory.
-- `:after_commit`: only what a later commit has recorded; 0 for all.

-- name: metrics_is_pruned
-- Whether rows have gone.
SELECT EXISTS (SELECT 1 FROM buffer WHERE pruned_commit IS NOT NULL) AS pruned;

-- name: metrics_buffers
-- By listener and state, as the view `buffers` has them. The row of a buffer, and what it counts, stays when it is pruned.
SELECT
    b.target AS listener,
    CASE
        WHEN b.pruned_commit IS NOT NULL THEN 'pruned'
        WHEN b.cancelled_commit IS NOT NULL AND coalesce(b.ended_how, 'cancelled') = 'cancelled' THEN 'cancelled'
        WHEN b.ended_commit IS NOT NULL THEN 'complete'
        WHEN b.opened_commit IS NOT NULL THEN 'open'
        ELSE 'receiving'
    END AS state,
    count(*) AS buffers,
    sum(b.succeeded) AS succeeded,
    sum(b.failed) AS failed,
    sum(CASE WHEN b.ended_commit IS NOT NULL THEN b.total - b.succeeded - b.failed ELSE 0 END) AS missing,
    sum(CASE WHEN b.opened_commit IS NULL THEN b.received ELSE 0 END) AS receiving
FROM buffer b
WHERE b.dropped_commit IS NULL
GROUP BY 1, 2;

-- name: metrics_open_items
-- Items of open buffers without a result, by listener: how many, how many of them workers have, how many were passed on;
-- and since when the oldest buffer waits that has another one. A stream waits since the chunk came that holds its first
-- item without an outcome, as far as `low_water` says it; and what has a not_before waits since then.
SELECT listener, sum(pending) AS pending, sum(in_flight) AS in_flight, sum(forwarded) AS forwarded,
    min(CASE WHEN pending > in_flight + forwarded AND since <= :now_ms THEN since END) AS waiting_since
FROM (
    SELECT
        b.target AS listener,
        coalesce(b.total, b.received) - b.succeeded - b.failed AS pending,
        (
            SELECT coalesce(sum(d.item_count - (
                SELECT count(*) FROM result r
                WHERE r.item_key >= (d.buffer_seq << 32) + d.first_index
                    AND r.item_key < (d.buffer_seq << 32) + d.first_index + d.item_count
            ) - (
                SELECT count(*) FROM forwarded_item f
                WHERE f.item_key >= (d.buffer_seq << 32) + d.first_index
                    AND f.item_key < (d.buffer_seq << 32) + d.first_index + d.item_count
                    AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = f.item_key)
            )), 0)
            FROM dispatch d INDEXED BY dispatch_not_ended
            WHERE d.ended_commit IS NULL AND d.buffer_seq = b.buffer_seq
        ) AS in_flight,
        (
            SELECT count(*) FROM forwarded_item f
            WHERE f.item_key >= b.buffer_seq << 32 AND f.item_key <= (b.buffer_seq << 32) + 4294967295
                AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = f.item_key)
        ) AS forwarded,
        max(
            coalesce(
                (
                    SELECT c.committed_at
                    FROM chunk h JOIN journal_commit c ON c.commit_id = h.commit_id
                    WHERE h.buffer_seq = b.buffer_seq AND h.first_index <= b.low_water
                    ORDER BY h.first_index DESC LIMIT 1
                ),
                o.committed_at
            ),
            coalesce(b.not_before, 0)
        ) AS since
    FROM buffer b INDEXED BY buffer_not_ended
    JOIN journal_commit o ON o.commit_id = b.opened_commit
    WHERE b.ended_commit IS NULL AND b.dropped_commit IS NULL
)
GROUP BY listener;

-- name: metrics_targets
-- The listener of each buffer, in pages.
SELECT buffer_seq, target FROM buffer WHERE buffer_seq > :after_id AND buffer_seq <= :last_id;

-- name: metrics_last_buffer
SELECT max(buffer_seq) FROM buffer;

-- name: metrics_last_answer
SELECT max(answer_id) FROM answer;

-- name: metrics_answers
-- How many items handlers have answered, by buffer and success; not what was given again, or recorded by the supervisor.
SELECT a.buffer_seq, a.success, sum(a.recorded)
FROM answer a
WHERE a.answer_id > :after_id AND a.answer_id <= :last_id AND a.commit_id > :after_commit
    AND a.dispatch_id IS NOT NULL AND a.memo = 0
GROUP BY 1, 2;

-- name: metrics_durations
-- All durations of a range of answers as one text. An early version wrote eleven digits: those are left out.
SELECT group_concat(a.durations, '')
FROM answer a
WHERE a.answer_id > :after_id AND a.answer_id <= :last_id AND a.commit_id > :after_commit
    AND length(a.durations) = 10 * a.item_count;

-- name: metrics_failures
-- Failed attempts at items by listener and kind, and how many of them were the last of their item: those have an answer, too.
SELECT b.target AS listener, f.kind, count(*) AS failures, sum(EXISTS (
    SELECT 1 FROM result r JOIN answer a ON a.answer_id = r.answer_id
    WHERE r.item_key = f.item_key AND a.success = 0 AND a.attempt = f.attempt AND a.dispatch_id IS NOT NULL
)) AS last_ones
FROM failure f
JOIN buffer b ON b.buffer_seq = f.item_key >> 32
WHERE f.item_key IS NOT NULL AND f.commit_id > :after_commit
GROUP BY 1, 2;

-- name: metrics_forwarded
-- Items that their handler passed on, by listener.
SELECT b.target AS listener, count(*) AS items
FROM forwarded_item f
JOIN buffer b ON b.buffer_seq = f.item_key >> 32
WHERE f.commit_id > :after_commit
GROUP BY 1;

-- name: metrics_last_dispatch
SELECT max(dispatch_id) FROM dispatch;

-- name: metrics_waits
-- How long the items of a range of dispatches have waited, ms, from their arrival to their first attempt. A dispatch counts
-- once it has ended: until then some of it may be taken back. Of a stream its first item's chunk says when it arrived.
SELECT
    max(0, sent.committed_at - max(coalesce(b.not_before, 0), CASE
        WHEN b.sealed_commit = b.opened_commit THEN opened.committed_at  -- it came whole
        ELSE coalesce(
            (
                SELECT c.committed_at
                FROM chunk h JOIN journal_commit c ON c.commit_id = h.commit_id
                WHERE h.buffer_seq = d.buffer_seq AND h.first_index <= d.first_index
                ORDER BY h.first_index DESC LIMIT 1
            ),
            opened.committed_at
        )
    END)) AS waited_ms,
    sum(d.item_count)
FROM dispatch d
JOIN journal_commit sent ON sent.commit_id = d.commit_id
JOIN buffer b ON b.buffer_seq = d.buffer_seq
JOIN journal_commit opened ON opened.commit_id = b.opened_commit
WHERE d.dispatch_id > :after_id AND d.dispatch_id <= :last_id AND d.ended_commit > :after_commit
    AND d.attempt = 1 AND d.ended_how <> 'returned'
GROUP BY 1;

-- name: metrics_rests
-- For how long each limit has rested, ms: times that overlap count once, and what is still to come does not count.
SELECT name AS "limit", sum(max(0, min(until_ms, :now_ms) - max(since_ms, rested_until_ms))) AS rested_ms
FROM (
    SELECT l.name, c.committed_at AS since_ms, l.rests_until AS until_ms, coalesce(max(l.rests_until) OVER (
        PARTITION BY l.name ORDER BY l.change_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), 0) AS rested_until_ms
    FROM limit_change l
    JOIN journal_commit c ON c.commit_id = l.commit_id
    WHERE l.cause = 'rest'
)
GROUP BY name;

-- name: metrics_app
-- What the newest run that knows it has as listeners, and the limits there are now.
SELECT
    (SELECT listeners FROM run WHERE listeners IS NOT NULL ORDER BY run_id DESC LIMIT 1) AS listeners,
    (SELECT json_group_array(name) FROM limits) AS limits;
