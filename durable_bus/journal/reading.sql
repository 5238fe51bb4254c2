-- What readers ask: clients, the command line, replay. They go by the views where a person could, and by the tables where
-- a page of a million rows must be cheap.

-- name: buffer
SELECT * FROM buffers WHERE buffer_id = :buffer_id;

-- name: buffers
SELECT * FROM buffers ORDER BY created_at, buffer_id LIMIT :limit;

-- name: buffer_facts
SELECT buffer_seq, total, ended_commit IS NOT NULL AS ended, cancelled_commit IS NOT NULL AS cancelled, opened_commit
FROM buffer WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: buffer_counts
-- Asked again and again while somebody waits: no view, one row.
SELECT total, succeeded, failed, ended_commit IS NOT NULL FROM buffer WHERE buffer_seq = :buffer_seq;

-- name: results_page
-- In item order. The answer that a row belongs to is fetched once for many rows, by `answers_between`.
SELECT item_key & 4294967295, success, payload, is_xml, answer_id
FROM result WHERE item_key > :after_key AND item_key <= :last_key
ORDER BY item_key LIMIT :limit;

-- name: answer
SELECT first_index, attempt, durations FROM answer WHERE answer_id = :answer_id;

-- name: answers_after
-- In the order they were committed.
SELECT answer_id, first_index, item_count, attempt, durations
FROM answer WHERE answer_id > :after AND buffer_seq = :buffer_seq
ORDER BY answer_id LIMIT :limit;

-- name: results_of_answer
SELECT item_key & 4294967295, success, payload, is_xml, answer_id
FROM result WHERE item_key >= :first_key AND item_key < :end_key AND answer_id = :answer_id
ORDER BY item_key;

-- name: failure_of
SELECT kind || ': ' || message FROM failure
WHERE item_key = :item_key AND attempt = :attempt
ORDER BY failure_id DESC LIMIT 1;

-- name: newest_run
SELECT * FROM runs ORDER BY run_id DESC LIMIT 1;

-- name: newest_run_facts
SELECT listeners, worker_error FROM run ORDER BY run_id DESC LIMIT 1;

-- name: in_flight
SELECT * FROM in_flight ORDER BY since, buffer_id, first_index LIMIT :limit;

-- name: failures_of
SELECT kind, message, count(*) AS failures FROM failures WHERE buffer_id = :buffer_id GROUP BY kind, message ORDER BY 3 DESC LIMIT :limit;

-- name: buffer_complete
SELECT message_id, payload, state FROM messages WHERE message_id = :message_id;
