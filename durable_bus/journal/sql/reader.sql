-- What clients, the command line and replay ask. They use the views where a person could, and the tables where a page of
-- a million rows must be cheap.

-- name: buffer
SELECT * FROM buffers WHERE buffer_id = :buffer_id;

-- name: buffer_content
-- What a start with the same id would be compared with.
SELECT
    buffer_seq, buffer_id, target, coalesce(digest, '') AS digest, collect, return_to,
    opened_commit IS NOT NULL AS opened, sealed_commit IS NOT NULL AS sealed, ended_commit IS NOT NULL AS ended,
    pruned_commit IS NOT NULL AS pruned, coalesce(total, received) AS total, succeeded, failed, retry_of IS NOT NULL AS is_retry
FROM buffer WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: buffer_counts
-- Asked again and again while somebody waits: no view, one row.
SELECT coalesce(total, received), succeeded, failed, ended_commit IS NOT NULL FROM buffer
WHERE buffer_seq = :buffer_seq;

-- name: next_answer
-- The result that comes next in item order, and the answer that it came in.
SELECT r.item_key, a.answer_id, a.first_index, a.first_index + a.item_count, a.recorded = a.item_count AND a.success,
    a.attempt, a.durations
FROM result r
JOIN answer a ON a.answer_id = r.answer_id
WHERE r.item_key > :after_key AND r.item_key <= :last_key
ORDER BY r.item_key LIMIT 1;

-- name: answer
-- The same of an answer from its first item on.
SELECT (buffer_seq << 32) + first_index, answer_id, first_index, first_index + item_count,
    recorded = item_count AND success, attempt, durations
FROM answer WHERE answer_id = :answer_id;

-- name: newest_answer
SELECT max(answer_id) FROM answer WHERE buffer_seq = :buffer_seq;

-- name: traceback_of
SELECT t.body
FROM failure f
LEFT JOIN traceback t ON t.traceback_id = f.traceback_id
WHERE f.item_key = :item_key
ORDER BY f.failure_id DESC LIMIT 1;

-- name: answers_after
-- In the order they were committed.
SELECT answer_id
FROM answer WHERE answer_id > :after AND buffer_seq = :buffer_seq
ORDER BY answer_id LIMIT :limit;

-- name: results_packed
-- All payloads of a range of one answer's as one text, in the order of the primary key (see items_packed). They are all
-- of one form, so that any row may say it. No payload holds NUL.
SELECT group_concat(payload, x'00'), form
FROM result WHERE item_key >= :first_key AND item_key < :end_key;

-- name: items_packed
-- The items of such a range in the same way; they may be of several forms.
SELECT group_concat(payload, x'00'), min(form), max(form)
FROM item WHERE item_key >= :first_key AND item_key < :end_key;

-- name: item_forms
SELECT group_concat(form, '') FROM item WHERE item_key >= :first_key AND item_key < :end_key;

-- name: results_page
-- In item order; with an :answer_id only what that answer recorded. Durations are cut out of a blob, because substr of a
-- text counts characters from its beginning (141,000 rows/s instead of 326,000). Each look loads all of them. No item is
-- looked for without :with_items: NULL is no key.
SELECT
    r.item_key & 4294967295, r.payload, r.success, r.form,
    CASE WHEN r.success = 0 THEN (
        SELECT f.kind || ': ' || f.message
        FROM failure f
        WHERE f.item_key = r.item_key AND f.attempt = a.attempt
        ORDER BY f.failure_id DESC
        LIMIT 1
    ) END,
    a.attempt,
    coalesce(CAST(CAST(
        substr(CAST(a.durations AS BLOB), ((r.item_key & 4294967295) - a.first_index) * 10 + 1, 10) AS TEXT
    ) AS INTEGER) / 1000.0, 0.0),
    coalesce(i.payload, ''), i.form
FROM result r
JOIN answer a ON a.answer_id = r.answer_id
LEFT JOIN item i ON i.item_key = CASE WHEN :with_items THEN r.item_key END
WHERE r.item_key > :after_key AND r.item_key <= :last_key AND r.success <= :success_max
    AND (:answer_id IS NULL OR r.answer_id = :answer_id)
ORDER BY r.item_key
LIMIT :limit;

-- name: items_page
SELECT item_key, payload, form FROM item
WHERE item_key > :after_key AND item_key <= :last_key
ORDER BY item_key LIMIT :limit;

-- name: unsuccessful_items
-- The items of an ended buffer without a successful result.
SELECT i.item_key, i.payload, i.form
FROM item i
LEFT JOIN result r ON r.item_key = i.item_key
WHERE i.item_key > :after_key AND i.item_key <= :last_key AND coalesce(r.success, 0) = 0
ORDER BY i.item_key LIMIT :limit;

-- name: newest_run
SELECT * FROM runs ORDER BY run_id DESC LIMIT 1;

-- name: newest_run_version
SELECT version FROM run ORDER BY run_id DESC LIMIT 1;

-- name: newest_commit
SELECT max(commit_id) FROM journal_commit;

-- name: newest_run_facts
SELECT listeners, worker_error FROM run ORDER BY run_id DESC LIMIT 1;

-- name: open_buffers
-- What is not at its end, by the index that holds only those, however many have ended.
SELECT v.*
FROM buffer b INDEXED BY buffer_not_ended
JOIN buffers v ON v.buffer_id = b.buffer_id
WHERE b.ended_commit IS NULL AND b.dropped_commit IS NULL
ORDER BY b.buffer_seq LIMIT :limit;

-- name: open_buffers_count
SELECT count(*) AS buffers FROM buffer WHERE ended_commit IS NULL AND dropped_commit IS NULL;

-- name: buffers_to_clear
-- Pruned or given up, and a supervisor has not deleted all their rows yet.
SELECT count(*) AS buffers FROM buffer INDEXED BY buffer_to_clear
WHERE received > 0 AND (dropped_commit IS NOT NULL OR pruned_commit IS NOT NULL);

-- name: last_ended_buffers
SELECT v.*
FROM (SELECT buffer_seq, buffer_id FROM buffer WHERE ended_commit IS NOT NULL ORDER BY buffer_seq DESC LIMIT :limit) b
JOIN buffers v ON v.buffer_id = b.buffer_id
ORDER BY b.buffer_seq DESC;

-- name: in_flight_count
-- What was handed out and has no result: of a dispatch that has not ended, some items may have theirs. `where`: the engines
-- that have them.
SELECT coalesce(sum(item_count - recorded), 0) AS items, count(*) AS dispatches, min(since) AS since,
    group_concat(DISTINCT place) AS "where"
FROM (
    SELECT f.item_count, f.since, f."where" AS place, (
        SELECT count(*) FROM result r
        WHERE r.item_key >= (b.buffer_seq << 32) + f.first_index
            AND r.item_key < (b.buffer_seq << 32) + f.first_index + f.item_count
    ) AS recorded
    FROM in_flight f
    JOIN buffer b ON b.buffer_id = f.buffer_id AND b.dropped_commit IS NULL
);

-- name: absent_listeners
-- Names that messages wait for, and nobody has. From name to name along the index, so that a mailbox with a million
-- messages costs one step.
WITH RECURSIVE name (to_id) AS (
    SELECT min(to_id) FROM message INDEXED BY message_waiting
    WHERE settled_commit IS NULL AND delivered_commit IS NULL
    UNION ALL
    SELECT (
        SELECT min(m.to_id) FROM message m INDEXED BY message_waiting
        WHERE m.settled_commit IS NULL AND m.delivered_commit IS NULL AND m.to_id > name.to_id
    )
    FROM name WHERE name.to_id IS NOT NULL
)
SELECT to_id AS name, (
    SELECT count(*) FROM message m INDEXED BY message_waiting
    WHERE m.settled_commit IS NULL AND m.delivered_commit IS NULL AND m.to_id = name.to_id
) AS messages
FROM name
WHERE to_id IS NOT NULL
    AND to_id NOT IN (SELECT value FROM json_each(:listeners))
    AND NOT EXISTS (SELECT 1 FROM mailbox WHERE mailbox.name = to_id)
LIMIT :limit;

-- name: waited_for_by_items_of
-- Asked only when such names are waited for.
SELECT to_id AS name FROM message INDEXED BY message_of_thread
WHERE thread_id > :thread_prefix AND thread_id < :thread_prefix_end
    AND settled_commit IS NULL AND delivered_commit IS NULL
    AND to_id IN (SELECT value FROM json_each(:names))
LIMIT 1;

-- name: last_failures
SELECT b.buffer_id, f.item_key & 4294967295 AS item_index, f.attempt, f.kind, f.message
FROM failure f
LEFT JOIN buffer b ON b.buffer_seq = f.item_key >> 32
ORDER BY f.failure_id DESC LIMIT :limit;

-- name: failed_items_page
-- Failed items of a buffer whose last attempt is a failure, and which one: from the failures, which are few, to the results.
SELECT f.item_key, f.message, f.kind
FROM failure f INDEXED BY failure_of_item
JOIN result r ON r.item_key = f.item_key AND r.success = 0
JOIN answer a ON a.answer_id = r.answer_id AND a.attempt = f.attempt
WHERE f.item_key > :after_key AND f.item_key <= :last_key AND f.item_key IS NOT NULL
    AND f.failure_id = (SELECT max(l.failure_id) FROM failure l WHERE l.item_key = f.item_key AND l.attempt = f.attempt)
ORDER BY f.item_key LIMIT :limit;

-- name: failed_because
-- Failed items of a buffer by what failed them: the kind, and the class of the exception or the first words. From the
-- failures, which are few, to the results; what a handler itself answered as an error has no failure.
SELECT f.kind, substr(f.message, 1, instr(f.message || ':', ':') - 1) AS reason, count(*) AS items
FROM failure f
JOIN result r ON r.item_key = f.item_key AND r.success = 0
JOIN answer a ON a.answer_id = r.answer_id AND a.attempt = f.attempt
WHERE f.item_key >= :first_key AND f.item_key <= :last_key
GROUP BY 1, 2;

-- name: failed_answers
-- Failed items of a buffer that have no failure, by their answer: from the answers, which tell in one row for many items
-- whether they failed. What each says is asked once it is known how many gave it.
SELECT r.payload, count(*) AS items
FROM answer a INDEXED BY answer_of_buffer
CROSS JOIN result r
    ON r.item_key >= (a.buffer_seq << 32) + a.first_index
        AND r.item_key < (a.buffer_seq << 32) + a.first_index + a.item_count
        AND r.answer_id = a.answer_id
WHERE a.buffer_seq = :buffer_seq AND a.success = 0
    AND NOT EXISTS (SELECT 1 FROM failure f WHERE f.item_key = r.item_key AND f.attempt = a.attempt)
GROUP BY r.payload
ORDER BY items DESC LIMIT :limit;

-- name: mailbox_of_message
-- Where a message went, if that is the name of a client.
SELECT m.to_id, b.name IS NOT NULL AS is_mailbox
FROM message m
LEFT JOIN mailbox b ON b.name = m.to_id
WHERE m.message_id = :message_id;

-- name: limits
SELECT * FROM limits ORDER BY name;

-- name: spending
-- With a NULL buffer_id: on messages that belong to none.
SELECT b.buffer_id, s.listener, s.unit, sum(s.amount) AS amount, count(*) AS times
FROM spent s
LEFT JOIN buffer b ON b.buffer_seq = s.buffer_seq
GROUP BY s.buffer_seq, s.listener, s.unit
ORDER BY s.buffer_seq, s.listener, s.unit;

-- name: spending_of_buffer
-- The same of one buffer, without those that its handlers have started.
SELECT b.buffer_id, s.listener, s.unit, sum(s.amount) AS amount, count(*) AS times
FROM buffer b
CROSS JOIN spent s ON s.buffer_seq = b.buffer_seq
WHERE b.buffer_seq = :buffer_seq
GROUP BY s.listener, s.unit
ORDER BY s.listener, s.unit;

-- name: budget
-- What a buffer may spend, and what it and those inside it have spent of that.
SELECT
    o.buffer_id, g.unit, sum(g.amount) AS amount,
    (
        SELECT coalesce(sum(s.amount), 0.0)
        FROM buffer n INDEXED BY buffer_of_budget
        CROSS JOIN spent s ON s.buffer_seq = n.buffer_seq
        WHERE n.budget_of = b.budget_of AND s.unit = g.unit
    ) AS spent
FROM buffer b
JOIN buffer o ON o.buffer_seq = b.budget_of
JOIN budget g ON g.buffer_seq = b.budget_of
WHERE b.buffer_seq = :buffer_seq
GROUP BY g.unit
ORDER BY g.unit;

-- name: recent_results
-- How many results were recorded since a time, from the last commits only.
SELECT coalesce(sum(results), 0) AS results FROM journal_commit
WHERE commit_id > (SELECT max(commit_id) FROM journal_commit) - 5000 AND committed_at >= :since_ms;

-- name: buffers_page
SELECT b.buffer_seq, v.*
FROM buffer b
JOIN buffers v ON v.buffer_id = b.buffer_id
WHERE b.dropped_commit IS NULL AND b.buffer_seq > :after_seq
ORDER BY b.buffer_seq LIMIT :limit;

-- name: failures_page
SELECT f.item_key, f.message, f.failure_id, f.attempt, f.kind, t.body, c.committed_at
FROM failure f INDEXED BY failure_of_item
JOIN journal_commit c ON c.commit_id = f.commit_id
LEFT JOIN traceback t ON t.traceback_id = f.traceback_id
WHERE (f.item_key, f.failure_id) > (:after_key, :after_id) AND f.item_key <= :last_key AND f.item_key IS NOT NULL
ORDER BY f.item_key, f.failure_id LIMIT :limit;

-- name: limit_tokens
-- What says when the next start may be, beside the view `limits`.
SELECT name, tokens, tokens_at, rests_until FROM limit_state WHERE declared = 1;

-- name: in_hand_of_buffer
-- Its items that were handed out and have no result.
SELECT coalesce(sum(f.item_count - (
    SELECT count(*) FROM result r
    WHERE r.item_key >= (b.buffer_seq << 32) + f.first_index
        AND r.item_key < (b.buffer_seq << 32) + f.first_index + f.item_count
)), 0) AS items
FROM buffer b
JOIN in_flight f ON f.buffer_id = b.buffer_id
WHERE b.buffer_id = :buffer_id AND b.dropped_commit IS NULL;
