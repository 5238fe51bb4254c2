-- Dispatches, answers, results, failed attempts, and the items whose handlers passed their work on.
-- Keys are buffer_seq << 32 | item_index.

-- name: add_dispatch
INSERT INTO dispatch (dispatch_id, commit_id, buffer_seq, first_index, item_count, attempt, alone, worker_pid, place)
VALUES (:dispatch_id, :commit_id, :buffer_seq, :first_index, :item_count, :attempt, :alone, :worker_pid, :place);

-- name: end_dispatch
UPDATE dispatch SET ended_commit = :commit_id, ended_how = :how WHERE dispatch_id = :dispatch_id AND ended_commit IS NULL;

-- name: add_returned_dispatch
-- What is taken back of a dispatch, as one of its own that ends now: so it stays known until when who had it.
INSERT INTO dispatch (
    dispatch_id, commit_id, buffer_seq, first_index, item_count, attempt, alone, worker_pid, place, ended_commit, ended_how
)
SELECT
    :returned_id, commit_id, buffer_seq, :returned_from, first_index + item_count - :returned_from, attempt, alone,
    worker_pid, place, :commit_id, 'returned'
FROM dispatch
WHERE dispatch_id = :dispatch_id AND ended_commit IS NULL
    AND :returned_from > first_index AND :returned_from < first_index + item_count;

-- name: shorten_dispatch
UPDATE dispatch SET item_count = :returned_from - first_index WHERE dispatch_id = :dispatch_id AND ended_commit IS NULL;

-- name: interrupted_dispatches
-- At a start: what the last run had handed out when it ended. The oldest of a worker comes first.
SELECT
    dispatch_id, buffer_seq, first_index, first_index + item_count AS end_index, attempt, alone, worker_pid, place
FROM dispatch INDEXED BY dispatch_not_ended
WHERE ended_commit IS NULL
ORDER BY worker_pid, dispatch_id;

-- name: has_forwarded
-- Whether an item of a range was passed on. Nearly never, so `add_results` need not ask for every item.
SELECT EXISTS (SELECT 1 FROM forwarded_item WHERE item_key >= :first_key AND item_key < :end_key);

-- name: last_result
SELECT max(item_key) FROM result;

-- name: add_results
-- The first committed wins: the primary key makes recording idempotent, not a counter. By `run_rows`: first key, success,
-- form, answer, payloads.
INSERT INTO result (item_key, success, form, answer_id, payload)
SELECT ? + column1, ?, ?, ?, column2 FROM (VALUES {(#, ?)}) WHERE true
ON CONFLICT (item_key) DO NOTHING;

-- name: add_result_not_forwarded
-- The same where an item of the range was passed on: that is its outcome, and what its handler says later is not it.
-- By `run_each`.
INSERT INTO result (item_key, success, form, answer_id, payload)
SELECT * FROM (VALUES (?, ?, ?, ?, ?)) WHERE NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = column1)
ON CONFLICT (item_key) DO NOTHING;

-- name: add_answer
INSERT INTO answer (
    answer_id, commit_id, dispatch_id, buffer_seq, first_index, item_count, recorded, success, attempt, worker_pid, durations,
    memo, place
) VALUES (
    :answer_id, :commit_id, :dispatch_id, :buffer_seq, :first_index, :item_count, :recorded, :success, :attempt,
    :worker_pid, :durations, :memo, :place
);

-- name: memos
-- Which answers there are. By `all_of`: digests.
SELECT m.memo_key, m.item_key FROM memo m
WHERE m.memo_key IN ({?})
    AND EXISTS (SELECT 1 FROM result r WHERE r.item_key = m.item_key AND r.success = 1)
    AND EXISTS (SELECT 1 FROM buffer b WHERE b.buffer_seq = m.item_key >> 32 AND b.pruned_commit IS NULL);

-- name: add_memo
-- An item that has succeeded is an answer for those that equal it. By `run_each`: digest, key.
INSERT INTO memo (memo_key, item_key)
SELECT * FROM (VALUES (?, ?))
WHERE EXISTS (
        SELECT 1 FROM result r JOIN answer a USING (answer_id)
        WHERE r.item_key = column2 AND r.success = 1 AND a.memo = 0
    )
    AND NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = column2)
ON CONFLICT (memo_key) DO UPDATE SET item_key = excluded.item_key
WHERE NOT EXISTS (
    SELECT 1 FROM buffer b WHERE b.buffer_seq = memo.item_key >> 32 AND b.pruned_commit IS NULL
);

-- name: give_again
-- By `run_each`: key, answer, key of the item whose answer it is.
INSERT INTO result (item_key, payload, success, form, answer_id)
SELECT column1, s.payload, 1, s.form, column2 FROM (VALUES (?, ?, ?)) JOIN result s ON s.item_key = column3
WHERE NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = column1)
ON CONFLICT (item_key) DO NOTHING;

-- name: has_outcome
SELECT
    EXISTS (SELECT 1 FROM result WHERE item_key = :item_key)
    OR EXISTS (SELECT 1 FROM forwarded_item WHERE item_key = :item_key);

-- name: forward_item
INSERT INTO forwarded_item (item_key, commit_id, dispatch_id, attempt)
SELECT :item_key, :commit_id, :dispatch_id, :attempt
WHERE NOT EXISTS (SELECT 1 FROM result WHERE item_key = :item_key)
ON CONFLICT (item_key) DO NOTHING;

-- name: forwarded_attempt
SELECT attempt FROM forwarded_item WHERE item_key = :item_key;

-- name: failures_of
-- Of an item or of a message: the other one is NULL, and equals nothing.
SELECT
    count(*),
    coalesce(sum(kind IN ('exception', 'timeout')), 0),
    coalesce(sum(kind = 'lost' AND NOT supervisor_died), 0),
    coalesce(sum(kind = 'lost' AND supervisor_died), 0),
    coalesce(sum(kind = 'retry_after'), 0),
    min(CASE WHEN kind = 'retry_after' THEN (
        SELECT c.committed_at FROM journal_commit c WHERE c.commit_id = f.commit_id
    ) END)
FROM failure f WHERE item_key = :item_key OR message_seq = :message_seq;

-- name: add_failure
INSERT INTO failure (
    commit_id, item_key, message_seq, attempt, kind, supervisor_died, message, traceback_id, retry_at, place
) VALUES (
    :commit_id, :item_key, :message_seq, :attempt, :kind, :supervisor_died, :message, :traceback_id, :retry_at, :place
);

-- name: add_traceback
-- Each text once. DO NOTHING would return no row for one that is there.
INSERT INTO traceback (digest, body) VALUES (:digest, :body)
ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest
RETURNING traceback_id;

-- name: due_retries
-- An item may have got its outcome from an earlier attempt meanwhile: it comes along to be marked, not to be run.
SELECT
    failure_id,
    item_key & 4294967295,
    (SELECT count(*) FROM failure g WHERE g.item_key = f.item_key),
    EXISTS (SELECT 1 FROM result r WHERE r.item_key = f.item_key)
        OR EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = f.item_key)
FROM failure f
WHERE f.item_key >> 32 = :buffer_seq AND f.retry_at <= :now_ms AND f.retry_at IS NOT NULL AND f.retried_commit IS NULL
ORDER BY f.retry_at, f.failure_id
LIMIT :limit;

-- name: next_retry_at
SELECT min(retry_at) FROM failure
WHERE item_key >> 32 = :buffer_seq AND retry_at IS NOT NULL AND retried_commit IS NULL;

-- name: mark_retried
UPDATE failure SET retried_commit = :commit_id WHERE failure_id = :failure_id AND retried_commit IS NULL;
