-- Of the console's statements (console.sql), those about buffers and their items.

-- name: open_seqs
-- The newest ones that had not ended. Now by the index that holds only those; the second arm is for the past.
SELECT buffer_seq FROM (
    SELECT b.buffer_seq FROM buffer b INDEXED BY buffer_not_ended
    WHERE b.ended_commit IS NULL AND b.created_commit <= :at AND (b.dropped_commit IS NULL OR b.dropped_commit > :at)
    UNION ALL
    SELECT b.buffer_seq FROM buffer b NOT INDEXED
    WHERE NOT :is_now AND b.ended_commit > :at AND b.created_commit <= :at
)
ORDER BY buffer_seq DESC LIMIT :limit;

-- name: ended_seqs
SELECT b.buffer_seq FROM buffer b NOT INDEXED
WHERE b.ended_commit <= :at ORDER BY b.buffer_seq DESC LIMIT :limit;

-- name: buffer_seq_of
SELECT buffer_seq FROM buffer
WHERE buffer_id = :buffer_id AND created_commit <= :at AND (dropped_commit IS NULL OR dropped_commit > :at)
ORDER BY buffer_seq DESC LIMIT 1;

-- name: buffer_list
-- A page of them, the newest first; what is NULL does not matter.
SELECT buffer_seq FROM (
    SELECT b.buffer_seq, b.failed, CASE
        WHEN b.pruned_commit <= :at THEN 'pruned'
        WHEN b.cancelled_commit <= :at AND coalesce(b.ended_how, 'cancelled') = 'cancelled' THEN 'cancelled'
        WHEN b.ended_commit <= :at THEN 'complete'
        WHEN b.opened_commit <= :at THEN 'open'
        ELSE 'receiving'
    END AS state
    FROM buffer b NOT INDEXED
    WHERE b.buffer_seq < :before AND b.created_commit <= :at AND (b.dropped_commit IS NULL OR b.dropped_commit > :at)
        AND (:target IS NULL OR b.target = :target)
        AND (:part IS NULL OR instr(b.buffer_id, :part) > 0)
        AND (:with_failures IS NULL OR b.failed > 0 AND (
            :is_now OR b.ended_commit <= :at OR EXISTS (
                SELECT 1 FROM answer a INDEXED BY answer_of_buffer
                WHERE a.buffer_seq = b.buffer_seq AND a.answer_id <= :last_answer AND a.success = 0
            )
        ))
    ORDER BY b.buffer_seq DESC
)
WHERE :state IS NULL OR state = :state
ORDER BY buffer_seq DESC LIMIT :limit;

-- name: buffer_rows
-- As they were: of those in the list :seqs. `total`: of a stream, what had come by then; NULL where nobody knows it any more.
SELECT
    b.buffer_seq, b.buffer_id, b.target, b.from_id, b.return_to, b.thread_id,
    CASE
        WHEN b.pruned_commit <= :at THEN 'pruned'
        WHEN b.cancelled_commit <= :at AND coalesce(b.ended_how, 'cancelled') = 'cancelled' THEN 'cancelled'
        WHEN b.ended_commit <= :at THEN 'complete'
        WHEN b.opened_commit <= :at THEN 'open'
        ELSE 'receiving'
    END AS state,
    CASE
        WHEN b.sealed_commit <= :at OR b.ended_commit <= :at THEN b.total
        WHEN :is_now THEN coalesce(b.total, b.received)
        WHEN b.opened_commit <= :at AND b.pruned_commit IS NULL THEN (
            SELECT coalesce(sum(k.item_count), 0) FROM chunk k WHERE k.buffer_seq = b.buffer_seq AND k.commit_id <= :at
        )
    END AS total,
    CASE
        WHEN :is_now OR b.ended_commit <= :at THEN b.succeeded
        WHEN b.pruned_commit IS NULL THEN (
            SELECT coalesce(sum(a.recorded), 0) FROM answer a
            WHERE a.buffer_seq = b.buffer_seq AND a.answer_id <= :last_answer AND a.success = 1
        )
    END AS successful,
    CASE
        WHEN :is_now OR b.ended_commit <= :at THEN b.failed
        WHEN b.pruned_commit IS NULL THEN (
            SELECT coalesce(sum(a.recorded), 0) FROM answer a
            WHERE a.buffer_seq = b.buffer_seq AND a.answer_id <= :last_answer AND a.success = 0
        )
    END AS failed,
    (
        SELECT p.why FROM pause p
        WHERE p.buffer_seq = b.buffer_seq AND p.paused_commit <= :at AND (p.resumed_commit IS NULL OR p.resumed_commit > :at)
    ) AS paused_why,
    CASE WHEN b.ended_commit <= :at
        THEN coalesce(b.ended_how, CASE WHEN b.cancelled_commit IS NULL THEN 'all' ELSE 'cancelled' END)
    END AS ended_how,
    CASE WHEN b.sealed_commit <= :at THEN 1 ELSE 0 END AS sealed,
    b.created_commit, created.committed_at AS created_ms,
    CASE WHEN b.ended_commit <= :at THEN b.ended_commit END AS ended_commit,
    CASE WHEN b.ended_commit <= :at THEN ended.committed_at END AS ended_ms,
    b.priority AS priority, b.not_before AS not_before_ms, b.deadline_at AS deadline_ms, b.enough AS enough, b.max_failures AS max_failures,
    CASE WHEN b.pruned_commit IS NULL THEN 0 ELSE 1 END AS rows_are_gone,
    CASE WHEN :is_now THEN b.low_water ELSE 0 END AS low_water,
    retried.buffer_id AS retry_of
FROM json_each(:seqs) chosen
CROSS JOIN buffer b ON b.buffer_seq = chosen.value
JOIN journal_commit created ON created.commit_id = b.created_commit
LEFT JOIN journal_commit ended ON ended.commit_id = b.ended_commit
LEFT JOIN buffer retried ON retried.buffer_seq = b.retry_of
ORDER BY chosen.key;

-- name: retries_of
SELECT b.buffer_id FROM buffer b
WHERE b.retry_of = :buffer_seq AND b.created_commit <= :at AND (b.dropped_commit IS NULL OR b.dropped_commit > :at)
ORDER BY b.buffer_seq LIMIT 20;

-- name: failed_attempts
-- At items of a buffer. `final`: the item has failed by it. From the failures, which are few, to the results.
SELECT f.item_key & 4294967295 AS item_index, f.kind, f.message, a.answer_id IS NOT NULL AS final
FROM failure f INDEXED BY failure_of_item
LEFT JOIN result r ON r.item_key = f.item_key AND r.success = 0 AND r.answer_id <= :last_answer
LEFT JOIN answer a ON a.answer_id = r.answer_id AND a.attempt = f.attempt
WHERE f.item_key >= :first_key AND f.item_key <= :last_key AND f.commit_id <= :at
ORDER BY f.item_key LIMIT :limit;

-- name: failed_answers
-- What was answered as a failure, by handlers, or by the bus for what went wrong on a thread: it has no failed attempt.
SELECT r.item_key & 4294967295 AS item_index, substr(r.payload, 1, 2000) AS payload
FROM answer a INDEXED BY answer_of_buffer
CROSS JOIN result r
    ON r.item_key >= (a.buffer_seq << 32) + a.first_index
        AND r.item_key < (a.buffer_seq << 32) + a.first_index + a.item_count
        AND r.answer_id = a.answer_id
WHERE a.buffer_seq = :buffer_seq AND a.answer_id <= :last_answer AND a.success = 0
    AND NOT EXISTS (SELECT 1 FROM failure f WHERE f.item_key = r.item_key AND f.attempt = a.attempt)
LIMIT :limit;

-- name: answers_count
SELECT count(*) FROM answer INDEXED BY answer_of_buffer WHERE buffer_seq = :buffer_seq AND answer_id <= :last_answer;

-- name: answers_sample
-- One in :stride, by a digest of its number, as the answers of two buffers may take turns.
SELECT a.first_index, a.item_count, a.recorded, a.success, c.committed_at
FROM answer a INDEXED BY answer_of_buffer
JOIN journal_commit c ON c.commit_id = a.commit_id
WHERE a.buffer_seq = :buffer_seq AND a.answer_id <= :last_answer
    AND (:stride = 1 OR (a.answer_id * 2654435761 & 4294967295) % :stride = 0);

-- name: durations_sample
SELECT a.durations
FROM answer a INDEXED BY answer_of_buffer
WHERE a.buffer_seq = :buffer_seq AND a.answer_id <= :last_answer AND a.durations <> ''
    AND (:stride = 1 OR (a.answer_id * 2654435761 & 4294967295) % :stride = 0)
LIMIT :limit;

-- name: in_hand_ranges
-- What somebody had in hand, between two items of a buffer. A range holds 2,000 items at most.
SELECT d.first_index, d.item_count, d.worker_pid, d.attempt, d.place AS place, c.committed_at AS sent_ms
FROM dispatch d INDEXED BY dispatch_of_buffer
JOIN journal_commit c ON c.commit_id = d.commit_id
WHERE d.buffer_seq = :buffer_seq AND d.first_index BETWEEN :first - 1999 AND :last
    AND d.commit_id <= :at AND (d.ended_commit IS NULL OR d.ended_commit > :at)
ORDER BY d.first_index LIMIT :limit;

-- name: in_hand_ranges_now
-- The same of all the buffer, by the index that holds only what has not ended.
SELECT d.first_index, d.item_count, d.worker_pid, d.attempt, d.place AS place, c.committed_at AS sent_ms
FROM dispatch d INDEXED BY dispatch_not_ended
JOIN journal_commit c ON c.commit_id = d.commit_id
WHERE d.buffer_seq = :buffer_seq AND d.ended_commit IS NULL
ORDER BY d.first_index LIMIT :limit;

-- name: done_in_range
-- Who has a range in hand is done with these: they have their result, or were passed on.
SELECT
    (
        SELECT count(*) FROM result r
        WHERE r.item_key >= (:buffer_seq << 32) + :first AND r.item_key < (:buffer_seq << 32) + :first + :count
            AND r.answer_id <= :last_answer
    ) + (
        SELECT count(*) FROM forwarded_item o
        WHERE o.item_key >= (:buffer_seq << 32) + :first AND o.item_key < (:buffer_seq << 32) + :first + :count
            AND o.commit_id <= :at
            AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = o.item_key AND r.answer_id <= :last_answer)
    ) AS items;

-- name: forwarded_parts
-- Passed on, and their answer had not come: how many in each part of :size items.
SELECT (o.item_key & 4294967295) / :size AS part, count(*) AS items FROM forwarded_item o
WHERE o.item_key >= :first_key AND o.item_key <= :last_key AND o.commit_id <= :at
    AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = o.item_key AND r.answer_id <= :last_answer)
GROUP BY part ORDER BY part;

-- name: items_page
SELECT i.item_key & 4294967295 AS item_index, substr(i.payload, 1, 300) AS payload,
    r.success, substr(r.payload, 1, 300) AS answer, a.attempt,
    CASE WHEN r.answer_id IS NOT NULL AND a.durations <> '' THEN CAST(CAST(
        substr(CAST(a.durations AS BLOB), ((i.item_key & 4294967295) - a.first_index) * 10 + 1, 10) AS TEXT
    ) AS INTEGER) END AS took_us,
    (SELECT f.commit_id FROM forwarded_item f WHERE f.item_key = i.item_key AND f.commit_id <= :at) IS NOT NULL AS forwarded,
    (SELECT count(*) FROM failure f WHERE f.item_key = i.item_key AND f.commit_id <= :at) AS failures,
    (
        SELECT f.kind || ': ' || f.message FROM failure f
        WHERE f.item_key = i.item_key AND f.commit_id <= :at AND f.attempt = coalesce(a.attempt, f.attempt)
        ORDER BY f.failure_id DESC LIMIT 1
    ) AS last_failure
FROM item i
LEFT JOIN result r ON r.item_key = i.item_key AND r.answer_id <= :last_answer
LEFT JOIN answer a ON a.answer_id = r.answer_id
WHERE i.item_key > :after_key AND i.item_key <= :last_key
ORDER BY i.item_key LIMIT :limit;

-- name: failed_keys
-- Items that had failed, in their order.
SELECT r.item_key FROM result r
WHERE r.item_key > :after_key AND r.item_key <= :last_key AND r.success = 0 AND r.answer_id <= :last_answer
ORDER BY r.item_key LIMIT :limit;

-- name: unanswered_keys
-- Items that had no result, in their order.
SELECT i.item_key FROM item i
WHERE i.item_key > :after_key AND i.item_key <= :last_key
    AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = i.item_key AND r.answer_id <= :last_answer)
ORDER BY i.item_key LIMIT :limit;

-- name: item
SELECT i.payload, i.form AS item_form, r.success, r.payload AS answer, r.form AS answer_form, a.attempt, a.memo AS memo,
    a.worker_pid, a.place AS place, c.committed_at AS recorded_ms, c.commit_id AS recorded_commit,
    CASE WHEN r.answer_id IS NOT NULL AND a.durations <> '' THEN CAST(CAST(
        substr(CAST(a.durations AS BLOB), ((i.item_key & 4294967295) - a.first_index) * 10 + 1, 10) AS TEXT
    ) AS INTEGER) END AS took_us,
    passed_on.commit_id AS forwarded_commit, passed_on.committed_at AS forwarded_ms
FROM item i
LEFT JOIN result r ON r.item_key = i.item_key AND r.answer_id <= :last_answer
LEFT JOIN answer a ON a.answer_id = r.answer_id
LEFT JOIN journal_commit c ON c.commit_id = a.commit_id
LEFT JOIN forwarded_item f ON f.item_key = i.item_key AND f.commit_id <= :at
LEFT JOIN journal_commit passed_on ON passed_on.commit_id = f.commit_id
WHERE i.item_key = :item_key;

-- name: dispatches_of_item
-- A range holds 2,000 items at most.
SELECT d.attempt, d.worker_pid, d.place AS place, c.committed_at AS sent_ms, d.commit_id,
    CASE WHEN d.ended_commit <= :at THEN d.ended_how END AS ended_how,
    CASE WHEN d.ended_commit <= :at THEN e.committed_at END AS ended_ms,
    CASE WHEN d.ended_commit <= :at THEN d.ended_commit END AS ended_commit
FROM dispatch d INDEXED BY dispatch_of_buffer
JOIN journal_commit c ON c.commit_id = d.commit_id
LEFT JOIN journal_commit e ON e.commit_id = d.ended_commit
WHERE d.buffer_seq = :buffer_seq AND d.first_index BETWEEN :index - 1999 AND :index
    AND d.first_index + d.item_count > :index AND d.commit_id <= :at
ORDER BY d.dispatch_id LIMIT :limit;

-- name: failures_of_item
SELECT f.attempt, f.kind, f.message, f.commit_id, c.committed_at AS at_ms, t.body AS traceback
FROM failure f INDEXED BY failure_of_item
JOIN journal_commit c ON c.commit_id = f.commit_id
LEFT JOIN traceback t ON t.traceback_id = f.traceback_id
WHERE f.item_key = :item_key AND f.commit_id <= :at
ORDER BY f.failure_id DESC LIMIT :limit;

-- name: spent_of_buffer
SELECT s.listener, s.unit, sum(s.amount) AS amount, count(*) AS times
FROM spent s
WHERE s.buffer_seq = :buffer_seq AND s.commit_id <= :at
GROUP BY s.listener, s.unit ORDER BY s.listener, s.unit LIMIT :limit;
