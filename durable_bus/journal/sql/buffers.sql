-- Buffers, their items and their pauses; what is deleted of those that were dropped or pruned.
-- Keys are buffer_seq << 32 | item_index.

-- name: add_buffer
INSERT INTO buffer (
    buffer_seq, buffer_id, target, return_to, from_id, thread_id, starter_thread_id, collect, request_id, retry_of,
    touched_at, created_commit, received, next_chunk, total, digest, opened_commit, sealed_commit,
    priority, not_before, deadline_at, enough, max_failures, budget_of, traceparent
) VALUES (
    :buffer_seq, :buffer_id, :target, :return_to, :from_id, :thread_id, :starter_thread_id, :collect, :request_id,
    :retry_of, :now_ms, :commit_id, :received, :next_chunk, :total, :digest, :opened_commit,
    :opened_commit,
    :priority, :not_before, :deadline_at, :enough, :max_failures,
    CASE :budget_of WHEN 0 THEN :buffer_seq ELSE :budget_of END, :traceparent
);

-- name: buffer_by_id
SELECT * FROM buffer WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: buffer_state
SELECT state, paused FROM buffers WHERE buffer_id = :buffer_id;

-- name: buffer_by_seq
SELECT * FROM buffer WHERE buffer_seq = :buffer_seq;

-- name: open_buffers
SELECT
    b.*,
    EXISTS (SELECT 1 FROM pause p WHERE p.buffer_seq = b.buffer_seq AND p.resumed_commit IS NULL) AS paused,
    -- an equal item's answer is one without a dispatch
    b.succeeded + b.failed > 0 OR EXISTS (SELECT 1 FROM dispatch d WHERE d.buffer_seq = b.buffer_seq) AS begun
FROM buffer b
WHERE b.ended_commit IS NULL AND b.opened_commit IS NOT NULL
ORDER BY b.buffer_seq;

-- name: last_item
SELECT max(item_key) FROM item;

-- name: add_items
-- By `run_rows`: first key, form, payloads.
INSERT INTO item (item_key, payload, form)
SELECT ? + column1, column2, ? FROM (VALUES {(#, ?)});

-- name: add_item
-- By `run_each`, for the chunks whose items are of several forms.
INSERT INTO item (item_key, payload, form) VALUES (?, ?, ?);

-- name: chunk_received
-- Its first chunk opens a stream.
UPDATE buffer
SET next_chunk = next_chunk + 1, received = received + :item_count, touched_at = :now_ms,
    opened_commit = coalesce(opened_commit, CASE WHEN :streams THEN :commit_id END)
WHERE buffer_seq = :buffer_seq AND sealed_commit IS NULL AND ended_commit IS NULL AND dropped_commit IS NULL
    AND next_chunk = :number;

-- name: add_stream_chunk
INSERT INTO chunk (buffer_seq, first_index, item_count, commit_id)
VALUES (:buffer_seq, :first_index, :item_count, :commit_id);

-- name: take_over_stream
-- Another producer goes on with it.
UPDATE buffer SET request_id = :request_id
WHERE buffer_seq = :buffer_seq AND opened_commit IS NOT NULL AND sealed_commit IS NULL AND ended_commit IS NULL;

-- name: seal_buffer
-- No more items come. Whatever was not open before is from this commit on: nothing of it can be lost any more.
UPDATE buffer
SET total = received, digest = :digest, sealed_commit = :commit_id, opened_commit = coalesce(opened_commit, :commit_id)
WHERE buffer_seq = :buffer_seq AND sealed_commit IS NULL AND ended_commit IS NULL AND dropped_commit IS NULL
    AND received = :total;

-- name: drop_buffer
UPDATE buffer SET dropped_commit = :commit_id
WHERE buffer_seq = :buffer_seq AND opened_commit IS NULL AND dropped_commit IS NULL;

-- name: drop_budget
DELETE FROM budget
WHERE buffer_seq = :buffer_seq
    AND EXISTS (SELECT 1 FROM buffer b WHERE b.buffer_seq = budget.buffer_seq AND b.dropped_commit IS NOT NULL);

-- name: stale_receiving_buffers
SELECT buffer_seq, buffer_id FROM buffer
WHERE ended_commit IS NULL AND opened_commit IS NULL AND dropped_commit IS NULL AND touched_at < :before_ms
LIMIT 100;

-- name: items_packed
-- A batch goes out as one body (payloads.packing), in the order of the primary key, which is the b-tree's own. A subquery
-- that says ORDER BY would promise no more (only `group_concat(... ORDER BY ...)` does, from SQLite 3.44 on), and takes
-- 0.31 us an item instead of 0.21.
SELECT CAST(group_concat(payload, x'00') || x'00' AS BLOB), count(*), min(form), max(form)
FROM item WHERE item_key >= :first_key AND item_key < :end_key;

-- name: item_forms
-- A digit an item (payloads.forms), in the order of items_packed.
SELECT group_concat(form, '') FROM item WHERE item_key >= :first_key AND item_key < :end_key;

-- name: outstanding_items
-- What a start hands out again: items without an outcome or a coming retry, and how many attempts at each failed. Whoever
-- asks goes forward only: to begin at the first unfinished item costs 139 ms a batch behind one slow item.
SELECT
    i.item_key & 4294967295,
    (SELECT count(*) FROM failure f WHERE f.item_key = i.item_key)
FROM item i
WHERE i.item_key >= :first_key AND i.item_key < :end_key
    AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = i.item_key)
    AND NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = i.item_key)
    AND NOT EXISTS (
        SELECT 1 FROM failure f WHERE f.item_key = i.item_key AND f.retry_at IS NOT NULL AND f.retried_commit IS NULL
    )
ORDER BY i.item_key
LIMIT :limit;

-- name: count_results
-- Counters change only by the number of rows really inserted.
UPDATE buffer SET succeeded = succeeded + :succeeded, failed = failed + :failed
WHERE buffer_seq = :buffer_seq AND ended_commit IS NULL;

-- name: count_last_results
UPDATE buffer
SET succeeded = succeeded + :succeeded, failed = failed + :failed, ended_commit = :commit_id, ended_how = 'all',
    low_water = total
WHERE buffer_seq = :buffer_seq AND sealed_commit IS NOT NULL AND ended_commit IS NULL
    AND succeeded + failed + :succeeded + :failed = total;

-- name: cancel_buffer
-- Of a stream that was not sealed there are as many items as have come.
UPDATE buffer
SET ended_commit = :commit_id, cancelled_commit = :commit_id, ended_how = :how, total = coalesce(total, received)
WHERE buffer_seq = :buffer_seq AND opened_commit IS NOT NULL AND ended_commit IS NULL;

-- name: set_low_water
UPDATE buffer SET low_water = :low_water WHERE buffer_seq = :buffer_seq AND low_water < :low_water;

-- name: pause_buffer
INSERT INTO pause (buffer_seq, paused_commit, why)
SELECT :buffer_seq, :commit_id, :why
WHERE NOT EXISTS (SELECT 1 FROM pause WHERE buffer_seq = :buffer_seq AND resumed_commit IS NULL);

-- name: paused_why
SELECT why FROM pause WHERE buffer_seq = :buffer_seq AND resumed_commit IS NULL;

-- name: resume_buffer
UPDATE pause SET resumed_commit = :commit_id WHERE buffer_seq = :buffer_seq AND resumed_commit IS NULL;

-- name: ended_buffers
-- A page of those that might be pruned, in the order they ended: nobody waits while a million are looked at.
SELECT ended_commit, buffer_seq FROM buffer INDEXED BY buffer_to_prune
WHERE ended_commit IS NOT NULL AND pruned_commit IS NULL
    AND (ended_commit, buffer_seq) > (:after_commit, :after_seq) AND ended_commit <= :last_commit
ORDER BY ended_commit, buffer_seq LIMIT :limit;

-- name: prune_buffers
-- Of that page, those with nothing unsettled: not their BufferComplete, no message and no open buffer on their items'
-- threads.
UPDATE buffer INDEXED BY buffer_to_prune SET pruned_commit = :commit_id
WHERE ended_commit IS NOT NULL AND pruned_commit IS NULL
    AND (ended_commit, buffer_seq) > (:after_commit, :after_seq)
    AND (ended_commit, buffer_seq) <= (:last_commit, :last_seq)
    AND NOT EXISTS (
        SELECT 1 FROM message m WHERE m.message_id = buffer.buffer_id || '/complete' AND m.settled_commit IS NULL
    )
    AND NOT EXISTS (
        SELECT 1 FROM message m
        WHERE m.thread_id > buffer.thread_id || '/' AND m.thread_id < buffer.thread_id || '0'
            AND m.settled_commit IS NULL
    )
    AND NOT EXISTS (
        SELECT 1 FROM buffer other INDEXED BY buffer_not_ended
        WHERE other.ended_commit IS NULL AND other.retry_of = buffer.buffer_seq
    )
    AND NOT EXISTS (
        -- one on its items' threads that stays: its thread and its BufferComplete would go with this one's
        SELECT 1 FROM buffer other INDEXED BY buffer_by_thread
        WHERE other.thread_id > buffer.thread_id || '/' AND other.thread_id < buffer.thread_id || '0'
            AND other.pruned_commit IS NULL AND other.opened_commit IS NOT NULL
            AND (
                other.ended_commit IS NULL
                OR other.ended_commit > :before_commit
                OR EXISTS (
                    SELECT 1 FROM buffer again INDEXED BY buffer_not_ended
                    WHERE again.ended_commit IS NULL AND again.retry_of = other.buffer_seq
                )
            )
    );

-- name: buffer_to_clear
-- A buffer whose rows are to go: given up before it opened, or pruned. `received` says how many items are left.
SELECT buffer_seq, received, dropped_commit IS NOT NULL AS dropped, thread_id, starter_thread_id
FROM buffer INDEXED BY buffer_to_clear
WHERE received > 0 AND (dropped_commit IS NOT NULL OR pruned_commit IS NOT NULL)
ORDER BY buffer_seq LIMIT 1;

-- name: set_received
UPDATE buffer SET received = :received
WHERE buffer_seq = :buffer_seq AND (dropped_commit IS NOT NULL OR pruned_commit IS NOT NULL);

-- name: clear_items
DELETE FROM item WHERE item_key >= :first_key AND item_key < :end_key;

-- name: clear_results
DELETE FROM result WHERE item_key >= :first_key AND item_key < :end_key;

-- name: clear_forwarded
DELETE FROM forwarded_item WHERE item_key >= :first_key AND item_key < :end_key;

-- name: clear_failures
DELETE FROM failure WHERE item_key IS NOT NULL AND item_key >= :first_key AND item_key < :end_key;

-- name: clear_answers
-- One that begins before stays until its first item goes.
DELETE FROM answer WHERE buffer_seq = :buffer_seq AND first_index >= :first_index;

-- name: clear_memos
-- Their answers go, so nobody is given them again. What was spent stays.
DELETE FROM memo WHERE item_key >= :first_key AND item_key < :end_key;

-- name: clear_budget
DELETE FROM budget WHERE buffer_seq = :buffer_seq;

-- name: clear_chunks
DELETE FROM chunk WHERE buffer_seq = :buffer_seq AND first_index >= :first_index;

-- name: clear_dispatches
DELETE FROM dispatch WHERE buffer_seq = :buffer_seq AND first_index >= :first_index;

-- name: clear_messages
-- Whatever was said on the threads of its items, and its BufferComplete.
DELETE FROM message
WHERE settled_commit IS NOT NULL
    AND (buffer_seq = :buffer_seq OR (thread_id > :thread_prefix AND thread_id < :thread_prefix_end));

-- name: clear_messages_of_spent
-- What was spent on a message outlives it.
UPDATE spent SET message_seq = NULL
WHERE message_seq IN (
    SELECT message_seq FROM message
    WHERE settled_commit IS NOT NULL
        AND (buffer_seq = :buffer_seq OR (thread_id > :thread_prefix AND thread_id < :thread_prefix_end))
);

-- name: clear_message_failures
DELETE FROM failure
WHERE message_seq IN (
    SELECT message_seq FROM message
    WHERE settled_commit IS NOT NULL
        AND (buffer_seq = :buffer_seq OR (thread_id > :thread_prefix AND thread_id < :thread_prefix_end))
);

-- name: clear_threads
DELETE FROM thread WHERE thread_id = :thread_id OR (thread_id > :thread_prefix AND thread_id < :thread_prefix_end);

-- name: clear_starter_thread
-- The thread a client's buffer was started on is its own. A listener's is that of a conversation, which goes with its last
-- message (forget_threads), unless there was none but BufferCompletes. An item's goes with its buffer.
DELETE FROM thread
WHERE thread_id = :thread_id AND instr(thread_id, '/') = 0
    AND NOT EXISTS (SELECT 1 FROM message m WHERE m.thread_id = thread.thread_id)
    AND NOT EXISTS (
        SELECT 1 FROM buffer other INDEXED BY buffer_by_thread
        WHERE other.thread_id > thread.thread_id || '/' AND other.thread_id < thread.thread_id || '0'
            AND other.pruned_commit IS NULL AND other.dropped_commit IS NULL
    );

-- name: clear_threads_of_dropped
DELETE FROM thread
WHERE thread_id IN (
    SELECT thread_id FROM buffer INDEXED BY buffer_dropped WHERE dropped_commit IS NOT NULL
    UNION ALL
    SELECT starter_thread_id FROM buffer INDEXED BY buffer_dropped WHERE dropped_commit IS NOT NULL
);

-- name: empty_dropped_buffers
DELETE FROM buffer INDEXED BY buffer_dropped WHERE dropped_commit IS NOT NULL AND received = 0;
