-- What must be true of every journal at every moment, whatever was killed when. Each statement returns what is wrong, so a
-- good journal has no rows here; its comment says what a row would mean. Each is one statement and therefore sees one
-- state of a journal that somebody writes. Of a pruned buffer (pruned_commit) only its row is left, or soon will be.

-- name: sqlite_integrity
-- SQLite finds pages and indexes whole.
SELECT integrity_check AS problem FROM pragma_integrity_check WHERE integrity_check <> 'ok';

-- name: foreign_keys
-- Every row that another one refers to is there.
SELECT "table", rowid AS row_id, parent FROM pragma_foreign_key_check;

-- name: counters_equal_rows
-- A buffer's counters are the numbers of its results.
SELECT b.buffer_id, b.succeeded, b.failed, count(*) FILTER (WHERE r.success = 1) AS results_succeeded,
    count(*) FILTER (WHERE r.success = 0) AS results_failed
FROM buffer b
LEFT JOIN result r ON r.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
WHERE b.pruned_commit IS NULL
GROUP BY b.buffer_seq
HAVING b.succeeded <> results_succeeded OR b.failed <> results_failed;

-- name: items_are_complete
-- A buffer has the items it has received, 0 to N-1, and no more come once it is sealed or cancelled.
SELECT buffer_id, received, total, items, last_index
FROM (
    SELECT
        b.*,
        (SELECT count(*) FROM item i WHERE i.item_key BETWEEN first_key AND last_key) AS items,
        (SELECT max(i.item_key) FROM item i WHERE i.item_key BETWEEN first_key AND last_key) & 4294967295 AS last_index
    FROM (SELECT *, buffer_seq << 32 AS first_key, (buffer_seq << 32) + 4294967295 AS last_key FROM buffer) b
)
WHERE items <> received
    OR coalesce(last_index, -1) <> received - 1
    OR (total IS NOT NULL AND pruned_commit IS NULL AND total <> received)
    OR (opened_commit IS NOT NULL AND received = 0 AND pruned_commit IS NULL);

-- name: chunks_are_what_came
-- The chunks of a stream follow on one another from its first item to the last that has come.
SELECT b.buffer_id, b.received, k.first_index, k.item_count, k.commit_id
FROM buffer b
JOIN (
    SELECT *, lead(first_index) OVER of_stream AS next_index, lag(commit_id) OVER of_stream AS last_commit
    FROM chunk
    WINDOW of_stream AS (PARTITION BY buffer_seq ORDER BY first_index)
) k ON k.buffer_seq = b.buffer_seq
WHERE b.pruned_commit IS NULL
    AND (
        coalesce(k.next_index, b.received) <> k.first_index + k.item_count
        OR k.commit_id < k.last_commit
        OR (k.last_commit IS NULL AND (k.first_index <> 0 OR k.commit_id IS NOT b.opened_commit))
        OR k.commit_id > b.sealed_commit
        OR k.commit_id > b.ended_commit
    );

-- name: streams_have_chunks
-- What was open before it was sealed is a stream, and has its chunks.
SELECT b.buffer_id, b.opened_commit, b.sealed_commit FROM buffer b
WHERE b.opened_commit IS NOT NULL AND b.sealed_commit IS NOT b.opened_commit AND b.pruned_commit IS NULL
    AND NOT EXISTS (SELECT 1 FROM chunk k WHERE k.buffer_seq = b.buffer_seq);

-- name: items_have_a_buffer
-- Every item belongs to a buffer.
SELECT i.item_key, i.buffer_seq, i.item_index FROM item i
WHERE NOT EXISTS (SELECT 1 FROM buffer b WHERE b.buffer_seq = i.item_key >> 32);

-- name: ended_means_whole
-- A buffer that nobody has cancelled has ended when, and only when, it is sealed and each of its items has a result.
SELECT b.buffer_id, b.total, b.sealed_commit, b.ended_commit, count(r.item_key) AS results
FROM buffer b
LEFT JOIN result r ON r.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
WHERE b.opened_commit IS NOT NULL AND b.cancelled_commit IS NULL AND b.pruned_commit IS NULL
GROUP BY b.buffer_seq
HAVING (b.ended_commit IS NOT NULL) <> (b.sealed_commit IS NOT NULL AND b.total = results);

-- name: one_completion_each
-- A collecting buffer that has ended has exactly one BufferComplete, every other buffer has none.
SELECT b.buffer_id, b.collect, b.ended_commit, (
    SELECT count(*) FROM message m WHERE m.buffer_seq = b.buffer_seq AND m.kind = 'BufferComplete'
) AS completions
FROM buffer b
WHERE b.pruned_commit IS NULL
    AND (SELECT count(*) FROM message m WHERE m.buffer_seq = b.buffer_seq AND m.kind = 'BufferComplete')
        <> (b.ended_commit IS NOT NULL AND b.collect = 1);

-- name: completions_are_of_their_commit
-- BufferComplete is written by the commit that ends its buffer, under the id that follows from the buffer's.
SELECT m.message_id, b.buffer_id, m.created_commit, b.ended_commit
FROM message m
JOIN buffer b ON b.buffer_seq = m.buffer_seq
WHERE m.kind = 'BufferComplete'
    AND (m.created_commit IS NOT b.ended_commit OR m.message_id <> b.buffer_id || '/complete');

-- name: completions_say_what_rows_say
-- BufferComplete says how many items there were and how many succeeded.
SELECT m.message_id, m.payload, b.total, b.succeeded
FROM message m
JOIN buffer b ON b.buffer_seq = m.buffer_seq
WHERE m.kind = 'BufferComplete'
    AND (
        instr(m.payload, '<total>' || b.total || '</total>') = 0
        OR instr(m.payload, '<successful>' || b.succeeded || '</successful>') = 0
    );

-- name: answers_count_their_results
-- An answer recorded as many results as it says.
SELECT answer_id, buffer_id, recorded, results
FROM (
    SELECT a.answer_id, b.buffer_id, a.recorded, (
        SELECT count(*) FROM result r
        WHERE r.answer_id = a.answer_id
            AND r.item_key >= (a.buffer_seq << 32) + a.first_index
            AND r.item_key < (a.buffer_seq << 32) + a.first_index + a.item_count
    ) AS results
    FROM answer a
    JOIN buffer b ON b.buffer_seq = a.buffer_seq
    WHERE b.pruned_commit IS NULL
)
WHERE recorded <> results;

-- name: results_belong_to_an_answer
-- Every result is of an item that is there, and of an answer to just this item, with the same success.
SELECT r.buffer_seq, r.item_index, r.answer_id
FROM result r
LEFT JOIN answer a ON a.answer_id = r.answer_id
WHERE a.answer_id IS NULL
    OR r.item_key < (a.buffer_seq << 32) + a.first_index
    OR r.item_key >= (a.buffer_seq << 32) + a.first_index + a.item_count
    OR r.success <> a.success
    OR NOT EXISTS (SELECT 1 FROM item i WHERE i.item_key = r.item_key);

-- name: answers_belong_to_a_dispatch
-- An answer is to a dispatch of its items that was journaled before, at the same attempt.
SELECT a.answer_id, a.dispatch_id, a.buffer_seq, a.first_index, a.item_count
FROM answer a
LEFT JOIN dispatch d ON d.dispatch_id = a.dispatch_id
WHERE a.dispatch_id IS NOT NULL
    AND (
        d.dispatch_id IS NULL
        OR a.buffer_seq <> d.buffer_seq
        OR a.attempt <> d.attempt
        OR a.first_index < d.first_index
        OR a.first_index + a.item_count > d.first_index + d.item_count
        OR a.commit_id <= d.commit_id
    );

-- name: what_ran_elsewhere_was_given_to_an_engine
-- An answer from elsewhere is to a dispatch that was given to an engine.
SELECT a.answer_id, a.dispatch_id, a.buffer_seq, a.first_index, a.place
FROM answer a
CROSS JOIN dispatch d ON d.dispatch_id = a.dispatch_id
WHERE a.place IS NOT NULL AND d.place IS NULL;

-- name: one_outcome_each
-- An item was either answered by its handler or passed on, or an equal item's answer was given again; one that was passed
-- on gets its result from its thread.
SELECT r.buffer_seq, r.item_index, a.dispatch_id, o.item_key IS NOT NULL AS forwarded
FROM result r
JOIN answer a ON a.answer_id = r.answer_id
LEFT JOIN forwarded_item o ON o.item_key = r.item_key
WHERE (a.dispatch_id IS NULL) <> (o.item_key IS NOT NULL OR a.memo = 1);

-- name: forwarded_items_were_dispatched
-- An item that was passed on had been handed out, at that attempt.
SELECT o.item_key >> 32 AS buffer_seq, o.item_key & 4294967295 AS item_index, o.dispatch_id
FROM forwarded_item o
LEFT JOIN dispatch d ON d.dispatch_id = o.dispatch_id
WHERE d.dispatch_id IS NULL
    OR d.buffer_seq <> o.item_key >> 32
    OR o.item_key & 4294967295 < d.first_index
    OR o.item_key & 4294967295 >= d.first_index + d.item_count
    OR o.attempt <> d.attempt
    OR o.commit_id <= d.commit_id;

-- name: forwarded_items_wait_for_somebody
-- An item that was passed on and has no result yet waits for a message or a collecting buffer on its thread: without one
-- its buffer would never complete.
SELECT b.buffer_id, o.item_key & 4294967295 AS item_index
FROM forwarded_item o
JOIN buffer b ON b.buffer_seq = o.item_key >> 32
WHERE b.ended_commit IS NULL
    AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = o.item_key)
    AND NOT EXISTS (
        SELECT 1 FROM message m
        WHERE m.thread_id = b.thread_id || '/' || (o.item_key & 4294967295) AND m.settled_commit IS NULL
    )
    AND NOT EXISTS (
        SELECT 1 FROM buffer n
        WHERE n.thread_id > b.thread_id || '/' || (o.item_key & 4294967295) || '/'
            AND n.thread_id < b.thread_id || '/' || (o.item_key & 4294967295) || '0'
            AND n.starter_thread_id = b.thread_id || '/' || (o.item_key & 4294967295)
            AND n.collect = 1 AND n.opened_commit IS NOT NULL AND n.ended_commit IS NULL
    );

-- name: commits_count_their_rows
-- A commit knows how many results and failures it added; after a prune it may have added more than are left, of items when
-- a buffer was pruned, of messages when some were forgotten, which leaves gaps in their numbers.
SELECT commit_id, sum(said_results) AS results, sum(found_results) AS results_found,
    sum(said_failures) AS failures, sum(found_failures) AS failures_found
FROM (
    SELECT commit_id, results AS said_results, 0 AS found_results, failures AS said_failures, 0 AS found_failures
    FROM journal_commit
    WHERE results <> 0 OR failures <> 0
    UNION ALL
    SELECT commit_id, 0, recorded, 0, 0 FROM answer
    UNION ALL
    SELECT commit_id, 0, 0, 0, 1 FROM failure
)
GROUP BY commit_id
HAVING results_found > results OR failures_found > failures
    OR (
        (results_found < results OR failures_found < failures)
        AND NOT EXISTS (SELECT 1 FROM buffer WHERE pruned_commit IS NOT NULL)
        AND (
            results_found < results
            OR (SELECT count(*) FROM message) = (SELECT coalesce(max(message_seq), 0) FROM message)
        )
    );

-- name: commits_in_order
-- Commits are numbered without a gap, and those of a run come after all of the run before.
SELECT c.commit_id, c.run_id, before.run_id AS run_before
FROM journal_commit c
LEFT JOIN journal_commit before ON before.commit_id = c.commit_id - 1
WHERE (before.commit_id IS NULL AND c.commit_id <> 1) OR c.run_id < before.run_id;

-- name: runs_begin_with_a_commit
-- A run's row says which is the first of its commits.
SELECT r.run_id, r.first_commit
FROM run r
LEFT JOIN journal_commit c ON c.commit_id = r.first_commit
LEFT JOIN journal_commit before ON before.commit_id = r.first_commit - 1
WHERE c.run_id IS NOT r.run_id OR before.run_id = r.run_id;

-- name: buffers_change_in_order
-- A buffer is created, opened, sealed, ended and pruned in this order; a cancel is an end, also of what is not sealed.
SELECT buffer_id, created_commit, opened_commit, sealed_commit, cancelled_commit, ended_commit, pruned_commit
FROM buffer
WHERE opened_commit < created_commit
    OR ended_commit < opened_commit
    OR sealed_commit < opened_commit
    OR ended_commit < sealed_commit
    OR (sealed_commit IS NOT NULL AND opened_commit IS NULL)
    OR (ended_commit IS NOT NULL AND opened_commit IS NULL)
    OR (ended_commit IS NOT NULL AND sealed_commit IS NULL AND cancelled_commit IS NULL)
    OR (cancelled_commit IS NOT NULL AND cancelled_commit IS NOT ended_commit)
    OR pruned_commit < ended_commit
    OR (pruned_commit IS NOT NULL AND ended_commit IS NULL);

-- name: messages_change_in_order
-- A message is written before it is delivered, and not settled before it is written.
SELECT message_id, created_commit, delivered_commit, settled_commit
FROM message
WHERE delivered_commit < created_commit OR settled_commit < created_commit;

-- name: dispatches_are_of_their_buffer
-- A dispatch is of items of a buffer that had opened, and ends after it was sent.
SELECT d.dispatch_id, d.buffer_seq, d.first_index, d.item_count, d.commit_id, d.ended_commit
FROM dispatch d
LEFT JOIN buffer b ON b.buffer_seq = d.buffer_seq
WHERE b.opened_commit IS NULL
    OR d.first_index < 0
    OR d.first_index + d.item_count > coalesce(b.total, b.received)
    OR d.commit_id < b.opened_commit
    OR d.ended_commit < d.commit_id
    OR d.attempt < 1;

-- name: in_flight_is_of_the_newest_run
-- Only the newest run has work in somebody's hands, and none of it when it has ended well.
SELECT d.dispatch_id, c.run_id, r.stopped_at
FROM dispatch d INDEXED BY dispatch_not_ended
JOIN journal_commit c ON c.commit_id = d.commit_id
JOIN run r ON r.run_id = c.run_id
WHERE d.ended_commit IS NULL AND (r.stopped_at IS NOT NULL OR c.run_id < (SELECT max(run_id) FROM run));

-- name: in_flight_only_once
-- No two dispatches in flight hold the same attempt at an item.
SELECT dispatch_id, buffer_seq, first_index, end_before
FROM (
    SELECT d.dispatch_id, d.buffer_seq, d.first_index,
        max(d.first_index + d.item_count) OVER (
            PARTITION BY d.buffer_seq, d.attempt ORDER BY d.first_index, d.dispatch_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS end_before
    FROM dispatch d INDEXED BY dispatch_not_ended
    WHERE d.ended_commit IS NULL
)
WHERE end_before > first_index;

-- name: delivered_is_of_the_newest_run
-- Only the newest run has messages in somebody's hands: a start puts back those of earlier ones.
SELECT m.message_id, m.to_id, c.run_id
FROM message m INDEXED BY message_delivered
JOIN journal_commit c ON c.commit_id = m.delivered_commit
WHERE m.settled_commit IS NULL AND m.delivered_commit IS NOT NULL AND c.run_id < (SELECT max(run_id) FROM run);

-- name: low_water_is_low
-- Below its low-water mark every item of an open buffer has its outcome, or a retry of its own to come.
SELECT b.buffer_id, b.low_water, i.item_key & 4294967295 AS item_index
FROM buffer b
JOIN item i ON i.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + b.low_water - 1
WHERE b.opened_commit IS NOT NULL AND b.ended_commit IS NULL
    AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = i.item_key)
    AND NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = i.item_key)
    AND NOT EXISTS (
        SELECT 1 FROM failure f WHERE f.item_key = i.item_key AND f.retry_at IS NOT NULL AND f.retried_commit IS NULL
    );

-- name: failures_belong_to_an_item
-- A failed attempt is of an item that is there, of a buffer that had opened.
SELECT f.failure_id, f.item_key >> 32 AS buffer_seq, f.item_key & 4294967295 AS item_index
FROM failure f
WHERE f.item_key IS NOT NULL
    AND NOT EXISTS (
        SELECT 1 FROM item i JOIN buffer b ON b.buffer_seq = i.item_key >> 32
        WHERE i.item_key = f.item_key AND b.opened_commit <= f.commit_id
    );

-- name: attempts_are_numbered
-- Failed attempts at an item are numbered from 1 without a gap, and each failed once.
SELECT item_key >> 32 AS buffer_seq, item_key & 4294967295 AS item_index, count(*) AS failures, max(attempt) AS last_attempt
FROM failure
WHERE item_key IS NOT NULL
GROUP BY item_key
HAVING min(attempt) <> 1 OR max(attempt) <> count(*) OR count(DISTINCT attempt) <> count(*);

-- name: attempts_at_messages_are_numbered
-- The same for messages.
SELECT m.message_id, count(*) AS failures, max(f.attempt) AS last_attempt
FROM failure f
JOIN message m ON m.message_seq = f.message_seq
GROUP BY f.message_seq
HAVING min(f.attempt) <> 1 OR max(f.attempt) <> count(*) OR count(DISTINCT f.attempt) <> count(*);

-- name: nothing_is_lost_too_often
-- No item is charged with more deaths than are allowed: 3 of its worker, 5 of the supervisor.
SELECT item_key >> 32 AS buffer_seq, item_key & 4294967295 AS item_index, count(*) AS lost
FROM failure
WHERE item_key IS NOT NULL AND kind = 'lost'
GROUP BY item_key
HAVING sum(NOT supervisor_died) > 3 OR sum(supervisor_died) > 5;

-- name: retries_come_after_their_failure
-- An item goes out again after the commit that recorded its failure, and only when that said so.
SELECT failure_id, commit_id, retry_at, retried_commit FROM failure
WHERE retried_commit IS NOT NULL AND (retry_at IS NULL OR retried_commit < commit_id);

-- name: durations_are_whole
-- An answer holds ten digits of microseconds for each of its items, or none at all.
SELECT answer_id, item_count, length(durations) AS digits FROM answer
WHERE length(durations) NOT IN (0, 10 * item_count) OR durations GLOB '*[^0-9]*';

-- name: threads_resolve
-- The thread of every buffer that has opened, and of every unsettled message, has a chain: its own, or that of its item.
SELECT 'buffer' AS what, b.buffer_id AS id, b.thread_id
FROM buffer b
WHERE b.opened_commit IS NOT NULL AND b.pruned_commit IS NULL
    AND NOT EXISTS (SELECT 1 FROM thread t WHERE t.thread_id = b.thread_id)
UNION ALL
SELECT 'message', m.message_id, m.thread_id
FROM message m
WHERE m.settled_commit IS NULL
    AND NOT EXISTS (SELECT 1 FROM thread t WHERE t.thread_id = m.thread_id)
    AND NOT EXISTS (
        -- the thread of an item is its buffer's, a slash and its index
        SELECT 1 FROM buffer b
        JOIN thread t ON t.thread_id = b.thread_id
        WHERE b.thread_id || '/' = rtrim(m.thread_id, '0123456789')
            AND CAST(substr(m.thread_id, length(b.thread_id) + 2) AS INTEGER) < coalesce(b.total, b.received)
            AND b.thread_id = substr(rtrim(m.thread_id, '0123456789'), 1, length(rtrim(m.thread_id, '0123456789')) - 1)
    );

-- name: hops_resolve
-- An item that a chain goes through is an item of a buffer.
SELECT t.thread_id, json_extract(hop.value, '$[0]') AS buffer_id, json_extract(hop.value, '$[1]') AS item_index
FROM thread t, json_each(t.chain) hop
WHERE instr(t.chain, '[[') + instr(t.chain, ', [') + instr(t.chain, ',[') > 0
    AND hop.type = 'array'
    AND NOT EXISTS (
        SELECT 1 FROM buffer b
        WHERE b.buffer_id = json_extract(hop.value, '$[0]') AND b.dropped_commit IS NULL
            AND json_extract(hop.value, '$[1]') >= 0 AND json_extract(hop.value, '$[1]') < coalesce(b.total, b.received)
    );

-- name: retried_buffers_had_ended
-- The buffer whose failed and missing items another one runs again had ended before.
SELECT b.buffer_id, o.buffer_id AS retry_of, o.ended_commit
FROM buffer b
LEFT JOIN buffer o ON o.buffer_seq = b.retry_of
WHERE b.retry_of IS NOT NULL AND (o.ended_commit IS NULL OR o.ended_commit > b.created_commit);

-- name: pauses_are_of_open_buffers
-- A buffer was open when it was paused.
SELECT p.pause_id, b.buffer_id, p.paused_commit, b.opened_commit, b.ended_commit
FROM pause p
LEFT JOIN buffer b ON b.buffer_seq = p.buffer_seq
WHERE b.opened_commit IS NULL OR p.paused_commit < b.opened_commit OR p.paused_commit > b.ended_commit;
