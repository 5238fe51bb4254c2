-- Every statement that writes the journal, and every one the supervisor reads it with. Readers' are in reading.sql.
-- Keys are buffer_seq << 32 | item_index; :base is buffer_seq << 32. Now is always a parameter.

-- name: start_run
-- The row whose existence makes every earlier run that has not said it ended a crashed one.
INSERT INTO run (pid, app, version, started_at) VALUES (:pid, :app, :version, :now_ms);

-- name: stop_run
UPDATE run SET stopped_at = :now_ms WHERE run_id = :run_id AND stopped_at IS NULL;

-- name: set_run_listeners
UPDATE run SET listeners = :listeners, worker_error = NULL WHERE run_id = :run_id;

-- name: set_run_worker_error
UPDATE run SET worker_error = :error WHERE run_id = :run_id;

-- name: prove_room
-- Changes nothing, and dirties a page all the same: a full disk refuses it.
UPDATE run SET run_id = run_id WHERE run_id = :run_id;

-- name: last_listeners
-- The newest table any run knew: what `starts` are validated against until a worker of this run has reported.
SELECT listeners FROM run WHERE listeners IS NOT NULL ORDER BY run_id DESC LIMIT 1;

-- name: last_ids
-- Ids are counted in memory from here on: one writer, so nobody else can take one.
SELECT
    coalesce((SELECT max(commit_id) FROM journal_commit), 0),
    coalesce((SELECT max(buffer_seq) FROM buffer), 0),
    coalesce((SELECT max(dispatch_id) FROM dispatch), 0),
    coalesce((SELECT max(answer_id) FROM answer), 0);

-- name: add_commit
INSERT INTO journal_commit (commit_id, run_id, committed_at, results, failures)
VALUES (:commit_id, :run_id, :now_ms, :results, :failures);

-- name: add_buffer
INSERT INTO buffer (
    buffer_seq, buffer_id, target, return_to, from_id, thread_id, starter_thread_id, collect, request_id, retry_of,
    touched_at, created_commit, received, next_chunk, total, digest, opened_commit
) VALUES (
    :buffer_seq, :buffer_id, :target, :return_to, :from_id, :thread_id, :starter_thread_id, :collect, :request_id,
    :retry_of, :now_ms, :commit_id, :received, :next_chunk, :total, :digest, :opened_commit
);

-- name: buffer_by_id
SELECT * FROM buffer WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: buffer_by_seq
SELECT * FROM buffer WHERE buffer_seq = :buffer_seq;

-- name: open_buffers
SELECT
    b.*,
    EXISTS (SELECT 1 FROM pause p WHERE p.buffer_seq = b.buffer_seq AND p.resumed_commit IS NULL) AS paused,
    EXISTS (SELECT 1 FROM dispatch d WHERE d.buffer_seq = b.buffer_seq) AS handed_out
FROM buffer b
WHERE b.ended_commit IS NULL AND b.opened_commit IS NOT NULL
ORDER BY b.buffer_seq;

-- name: last_item
SELECT max(item_key) FROM item;

-- name: add_items
-- By `run_rows`: first key, form, payloads.
INSERT INTO item (item_key, payload, is_xml)
SELECT ? + column1, column2, ? FROM (VALUES {(#, ?)});

-- name: add_item
-- By `run_each`, for the chunks that hold both text and XML.
INSERT INTO item (item_key, payload, is_xml) VALUES (?, ?, ?);

-- name: chunk_received
UPDATE buffer SET next_chunk = next_chunk + 1, received = received + :item_count, touched_at = :now_ms
WHERE buffer_seq = :buffer_seq AND opened_commit IS NULL AND dropped_commit IS NULL AND next_chunk = :number;

-- name: open_buffer
-- From this commit on nothing of the buffer can be lost.
UPDATE buffer SET total = received, digest = :digest, opened_commit = :commit_id
WHERE buffer_seq = :buffer_seq AND opened_commit IS NULL AND dropped_commit IS NULL AND received = :total;

-- name: drop_buffer
UPDATE buffer SET dropped_commit = :commit_id
WHERE buffer_seq = :buffer_seq AND opened_commit IS NULL AND dropped_commit IS NULL;

-- name: stale_receiving_buffers
SELECT buffer_seq, buffer_id FROM buffer
WHERE ended_commit IS NULL AND opened_commit IS NULL AND dropped_commit IS NULL AND touched_at < :before_ms
LIMIT 100;

-- name: buffer_to_clear
-- A buffer whose rows are to go: given up before it opened, or pruned. `received` says how many items are left.
SELECT buffer_seq, received, dropped_commit IS NOT NULL AS dropped, thread_id, starter_thread_id
FROM buffer INDEXED BY buffer_to_clear
WHERE received > 0 AND (dropped_commit IS NOT NULL OR pruned_commit IS NOT NULL)
ORDER BY buffer_seq LIMIT 1;

-- name: clear_threads_of_dropped
DELETE FROM thread
WHERE thread_id IN (
    SELECT thread_id FROM buffer INDEXED BY buffer_dropped WHERE dropped_commit IS NOT NULL
    UNION ALL
    SELECT starter_thread_id FROM buffer INDEXED BY buffer_dropped WHERE dropped_commit IS NOT NULL
);

-- name: empty_dropped_buffers
DELETE FROM buffer INDEXED BY buffer_dropped WHERE dropped_commit IS NOT NULL AND received = 0;

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

-- name: clear_dispatches
DELETE FROM dispatch WHERE buffer_seq = :buffer_seq AND first_index >= :first_index;

-- name: clear_messages
-- Whatever was said on the threads of its items, and its BufferComplete.
DELETE FROM message
WHERE settled_commit IS NOT NULL
    AND (buffer_seq = :buffer_seq OR (thread_id > :thread_prefix AND thread_id < :thread_prefix_end));

-- name: clear_message_failures
DELETE FROM failure
WHERE message_seq IN (
    SELECT message_seq FROM message
    WHERE settled_commit IS NOT NULL
        AND (buffer_seq = :buffer_seq OR (thread_id > :thread_prefix AND thread_id < :thread_prefix_end))
);

-- name: clear_threads
DELETE FROM thread WHERE thread_id > :thread_prefix AND thread_id < :thread_prefix_end;

-- name: clear_thread
DELETE FROM thread WHERE thread_id = :thread_id;

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

-- name: messages_after
-- The newest stays, whatever it is: so what was forgotten leaves gaps in the numbers, by which `check` knows that rows may
-- be gone.
SELECT message_seq, created_commit FROM message
WHERE message_seq > :after_seq AND message_seq < (SELECT max(message_seq) FROM message)
ORDER BY message_seq LIMIT :limit;

-- name: ended_conversations
-- Threads of a page of messages on which nobody will say anything any more, and nobody has since that commit. Whoever may
-- yet be told something on one has an unsettled message or a buffer that is not pruned. What is said on threads of items
-- goes with their buffer.
SELECT thread_id
FROM (
    SELECT DISTINCT thread_id FROM message
    WHERE message_seq > :after_seq AND message_seq <= :last_seq AND instr(thread_id, '/') = 0
) said
WHERE NOT EXISTS (
        SELECT 1 FROM message m INDEXED BY message_of_thread
        WHERE m.thread_id = said.thread_id AND (m.settled_commit IS NULL OR m.settled_commit > :last_commit)
    )
    AND NOT EXISTS (
        SELECT 1 FROM buffer b INDEXED BY buffer_by_thread
        WHERE b.thread_id > said.thread_id || '/' AND b.thread_id < said.thread_id || '0'
            AND b.pruned_commit IS NULL AND b.dropped_commit IS NULL
    );

-- name: forget_message_failures
DELETE FROM failure
WHERE message_seq IN (
    SELECT message_seq FROM message
    WHERE message_seq > :after_seq AND message_seq <= :last_seq
        AND thread_id IN (SELECT value FROM json_each(:thread_ids))
);

-- name: forget_messages
DELETE FROM message
WHERE message_seq > :after_seq AND message_seq <= :last_seq
    AND thread_id IN (SELECT value FROM json_each(:thread_ids));

-- name: forget_threads
DELETE FROM thread
WHERE thread_id IN (SELECT value FROM json_each(:thread_ids))
    AND NOT EXISTS (SELECT 1 FROM message m WHERE m.thread_id = thread.thread_id);

-- name: set_received
UPDATE buffer SET received = :received
WHERE buffer_seq = :buffer_seq AND (dropped_commit IS NOT NULL OR pruned_commit IS NOT NULL);

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

-- name: forget_requests
DELETE FROM request
WHERE request_id IN (SELECT request_id FROM request WHERE commit_id < :before_commit LIMIT :limit);

-- name: last_commit_before
SELECT commit_id FROM journal_commit INDEXED BY journal_commit_by_time
WHERE committed_at < :before_ms ORDER BY committed_at DESC, commit_id DESC LIMIT 1;

-- name: count_results
-- Counters change only by the number of rows really inserted.
UPDATE buffer SET succeeded = succeeded + :succeeded, failed = failed + :failed
WHERE buffer_seq = :buffer_seq AND ended_commit IS NULL;

-- name: count_last_results
UPDATE buffer
SET succeeded = succeeded + :succeeded, failed = failed + :failed, ended_commit = :commit_id, low_water = total
WHERE buffer_seq = :buffer_seq AND opened_commit IS NOT NULL AND ended_commit IS NULL
    AND succeeded + failed + :succeeded + :failed = total;

-- name: cancel_buffer
UPDATE buffer SET ended_commit = :commit_id, cancelled_commit = :commit_id
WHERE buffer_seq = :buffer_seq AND opened_commit IS NOT NULL AND ended_commit IS NULL;

-- name: set_low_water
UPDATE buffer SET low_water = :low_water WHERE buffer_seq = :buffer_seq AND low_water < :low_water;

-- name: pause_buffer
INSERT INTO pause (buffer_seq, paused_commit)
SELECT :buffer_seq, :commit_id
WHERE NOT EXISTS (SELECT 1 FROM pause WHERE buffer_seq = :buffer_seq AND resumed_commit IS NULL);

-- name: resume_buffer
UPDATE pause SET resumed_commit = :commit_id WHERE buffer_seq = :buffer_seq AND resumed_commit IS NULL;

-- name: items_packed
-- A batch goes out as one body (channel.pack). A buffer's items are contiguous, so the range is all it takes; they come
-- in the order of the primary key, which is the b-tree's own. A subquery that says ORDER BY would promise no more
-- (SQLite promises the order inside an aggregate for `group_concat(... ORDER BY ...)` alone, from 3.44 on) and takes
-- half as long again, as a co-routine: 0.31 us an item instead of 0.21.
SELECT CAST(group_concat(payload, x'00') || x'00' AS BLOB), count(*), sum(is_xml)
FROM item WHERE item_key >= :first_key AND item_key < :end_key;

-- name: item_forms
SELECT json_group_array(is_xml)
FROM (SELECT is_xml FROM item WHERE item_key >= :first_key AND item_key < :end_key ORDER BY item_key);

-- name: outstanding_items
-- What a start hands out again: items without an outcome and without a retry of their own to come. The scan goes
-- forward only (a scan that begins at the first unfinished item each time costs 139 ms a batch behind one slow item).
-- Each comes with how many of its attempts failed already.
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

-- name: add_dispatch
INSERT INTO dispatch (dispatch_id, commit_id, buffer_seq, first_index, item_count, attempt, alone, worker_pid)
VALUES (:dispatch_id, :commit_id, :buffer_seq, :first_index, :item_count, :attempt, :alone, :worker_pid);

-- name: end_dispatch
UPDATE dispatch SET ended_commit = :commit_id, ended_how = :how WHERE dispatch_id = :dispatch_id AND ended_commit IS NULL;

-- name: add_returned_dispatch
-- What is taken back of a dispatch, as one of its own that ends now: so it stays known until when who had it.
INSERT INTO dispatch (
    dispatch_id, commit_id, buffer_seq, first_index, item_count, attempt, alone, worker_pid, ended_commit, ended_how
)
SELECT
    :returned_id, commit_id, buffer_seq, :returned_from, first_index + item_count - :returned_from, attempt, alone,
    worker_pid, :commit_id, 'returned'
FROM dispatch
WHERE dispatch_id = :dispatch_id AND ended_commit IS NULL
    AND :returned_from > first_index AND :returned_from < first_index + item_count;

-- name: shorten_dispatch
UPDATE dispatch SET item_count = :returned_from - first_index
WHERE dispatch_id = :dispatch_id AND ended_commit IS NULL
    AND :returned_from > first_index AND :returned_from < first_index + item_count;

-- name: interrupted_dispatches
-- At a start: what the last run had handed out when it ended. The oldest of a worker comes first.
SELECT
    dispatch_id, buffer_seq, first_index, first_index + item_count AS end_index, attempt, alone,
    worker_pid
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
INSERT INTO result (item_key, success, is_xml, answer_id, payload)
SELECT ? + column1, ?, ?, ?, column2 FROM (VALUES {(#, ?)}) WHERE true
ON CONFLICT (item_key) DO NOTHING;

-- name: add_result_not_forwarded
-- The same where an item of the range was passed on: that is its outcome, and what its handler says later is not it.
-- By `run_each`.
INSERT INTO result (item_key, success, is_xml, answer_id, payload)
SELECT * FROM (VALUES (?, ?, ?, ?, ?)) WHERE NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = column1)
ON CONFLICT (item_key) DO NOTHING;

-- name: add_result
-- One result that does not come straight from the item's own handler: an attempt too many, or the end of its thread.
INSERT INTO result (item_key, payload, success, is_xml, answer_id)
VALUES (:item_key, :payload, :success, :is_xml, :answer_id)
ON CONFLICT (item_key) DO NOTHING;

-- name: add_answer
INSERT INTO answer (
    answer_id, commit_id, dispatch_id, buffer_seq, first_index, item_count, recorded, success, attempt, worker_pid, durations
) VALUES (
    :answer_id, :commit_id, :dispatch_id, :buffer_seq, :first_index, :item_count, :recorded, :success, :attempt,
    :worker_pid, :durations
);

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
    coalesce(sum(kind = 'lost' AND supervisor_died), 0)
FROM failure WHERE item_key = :item_key OR message_seq = :message_seq;

-- name: add_failure
INSERT INTO failure (
    commit_id, item_key, message_seq, attempt, kind, supervisor_died, message, traceback_id, retry_at
) VALUES (
    :commit_id, :item_key, :message_seq, :attempt, :kind, :supervisor_died, :message, :traceback_id, :retry_at
);

-- name: add_traceback
INSERT INTO traceback (digest, body) VALUES (:digest, :body) ON CONFLICT (digest) DO NOTHING;

-- name: traceback_id
SELECT traceback_id FROM traceback WHERE digest = :digest;

-- name: add_message
INSERT INTO message (
    message_id, kind, from_id, to_id, thread_id, payload, is_xml, buffer_seq, created_commit, delivered_commit,
    settled_commit, failed
) VALUES (
    :message_id, :kind, :from_id, :to_id, :thread_id, :payload, :is_xml, :buffer_seq, :commit_id,
    CASE WHEN :settled THEN :commit_id END, CASE WHEN :settled THEN :commit_id END, :failed
);

-- name: message_by_id
SELECT * FROM message WHERE message_id = :message_id;

-- name: message_by_seq
SELECT * FROM message WHERE message_seq = :message_seq;

-- name: names_with_waiting_messages
SELECT to_id, count(*) FROM message INDEXED BY message_waiting
WHERE settled_commit IS NULL AND delivered_commit IS NULL
GROUP BY to_id;

-- name: waiting_messages
SELECT * FROM message INDEXED BY message_waiting
WHERE to_id = :to_id AND settled_commit IS NULL AND delivered_commit IS NULL AND due_at <= :now_ms
ORDER BY message_seq LIMIT :limit;

-- name: next_message_due_at
SELECT min(due_at) FROM message INDEXED BY message_waiting
WHERE to_id = :to_id AND settled_commit IS NULL AND delivered_commit IS NULL AND due_at > :now_ms;

-- name: deliver_message
UPDATE message SET delivered_commit = :commit_id, worker_pid = :worker_pid
WHERE message_seq = :message_seq AND settled_commit IS NULL AND delivered_commit IS NULL;

-- name: undeliver_message
-- Whoever had it has it no more: it waits again.
UPDATE message SET delivered_commit = NULL, due_at = :due_at, interruptions = interruptions + :interrupted
WHERE message_seq = :message_seq AND settled_commit IS NULL AND delivered_commit IS NOT NULL;

-- name: settle_message
-- The outcome of a message is that it is settled, which happens once.
UPDATE message SET settled_commit = :commit_id, failed = :failed
WHERE message_seq = :message_seq AND settled_commit IS NULL;

-- name: redeliver_message
-- A starter that asks for a buffer that ended long ago is told again, under the same message id.
UPDATE message SET settled_commit = NULL, delivered_commit = NULL, failed = 0
WHERE message_id = :message_id AND settled_commit IS NOT NULL;

-- name: delivered_messages
-- At a start: what somebody had when the last run ended.
SELECT * FROM message INDEXED BY message_delivered
WHERE settled_commit IS NULL AND delivered_commit IS NOT NULL
ORDER BY message_seq;

-- name: messages_on_thread
-- Asked before each forward and start: a look at as many index entries as the thread has messages, mostly a handful.
SELECT count(*) FROM (
    SELECT 1 FROM message INDEXED BY message_of_thread WHERE thread_id = :thread_id LIMIT :at_most
);

-- name: thread_chain
SELECT chain FROM thread WHERE thread_id = :thread_id;

-- name: set_thread
-- By `run_each`.
INSERT INTO thread (thread_id, chain, created_commit, changed_commit)
SELECT column1, column2, column3, column3 FROM (VALUES (?, ?, ?)) WHERE true
ON CONFLICT (thread_id) DO UPDATE SET chain = excluded.chain, changed_commit = excluded.changed_commit;

-- name: add_mailbox
INSERT INTO mailbox (name, created_commit) VALUES (:name, :commit_id) ON CONFLICT (name) DO NOTHING;

-- name: has_mailbox
SELECT 1 FROM mailbox WHERE name = :name;

-- name: add_request
INSERT INTO request (request_id, commit_id, answer) VALUES (:request_id, :commit_id, :answer)
ON CONFLICT (request_id) DO NOTHING;

-- name: request_answer
SELECT answer FROM request WHERE request_id = :request_id;
