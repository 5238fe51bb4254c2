-- Messages, threads and mailboxes.

-- name: add_message
INSERT INTO message (
    message_id, kind, from_id, to_id, thread_id, payload, form, buffer_seq, created_commit, delivered_commit,
    settled_commit, failed
) VALUES (
    :message_id, :kind, :from_id, :to_id, :thread_id, :payload, :form, :buffer_seq, :commit_id,
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

-- name: forget_messages_of_spent
-- What was spent on a message outlives it.
UPDATE spent SET message_seq = NULL
WHERE message_seq IN (
    SELECT message_seq FROM message
    WHERE message_seq > :after_seq AND message_seq <= :last_seq
        AND thread_id IN (SELECT value FROM json_each(:thread_ids))
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
