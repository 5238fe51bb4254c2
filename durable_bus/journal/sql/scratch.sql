-- What a start looks at, copied from a journal attached as `source` into an empty one. Items and results that are done stay
-- behind: their buffers' counters say all that a start asks about them.

-- name: runs
INSERT INTO run SELECT * FROM source.run;

-- name: last_commit
INSERT INTO journal_commit
SELECT * FROM source.journal_commit WHERE commit_id = (SELECT max(commit_id) FROM source.journal_commit);

-- name: buffers
INSERT INTO buffer SELECT * FROM source.buffer WHERE ended_commit IS NULL AND dropped_commit IS NULL;

-- name: pauses
INSERT INTO pause
SELECT p.* FROM source.pause p WHERE p.resumed_commit IS NULL AND p.buffer_seq IN (SELECT buffer_seq FROM buffer);

-- name: items
-- Those without an outcome. Their payloads decide nothing.
INSERT INTO item (item_key, payload, is_xml)
SELECT i.item_key, '', i.is_xml
FROM buffer b
CROSS JOIN source.item i ON i.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295
WHERE b.opened_commit IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM source.result r WHERE r.item_key = i.item_key)
    AND NOT EXISTS (SELECT 1 FROM source.forwarded_item o WHERE o.item_key = i.item_key);

-- name: forwarded_items
-- Those whose conversations go on: a message that is lost at the start may end one.
INSERT INTO forwarded_item
SELECT o.* FROM source.forwarded_item o
WHERE o.item_key >> 32 IN (SELECT buffer_seq FROM buffer)
    AND NOT EXISTS (SELECT 1 FROM source.result r WHERE r.item_key = o.item_key);

-- name: dispatches
-- What was in flight; and one of each open buffer that was ever handed out, which says that it was.
INSERT INTO dispatch
SELECT * FROM source.dispatch WHERE ended_commit IS NULL
UNION
SELECT d.* FROM buffer b
CROSS JOIN source.dispatch d ON d.dispatch_id = (
    SELECT any_one.dispatch_id FROM source.dispatch any_one WHERE any_one.buffer_seq = b.buffer_seq LIMIT 1
);

-- name: messages
INSERT INTO message SELECT * FROM source.message WHERE settled_commit IS NULL;

-- name: failures
INSERT INTO failure
SELECT * FROM source.failure f
WHERE f.item_key IN (SELECT item_key FROM item) OR f.message_seq IN (SELECT message_seq FROM message);

-- name: threads
INSERT INTO thread
SELECT * FROM source.thread
WHERE thread_id IN (
    SELECT thread_id FROM message
    UNION SELECT thread_id FROM buffer
    UNION SELECT starter_thread_id FROM buffer
);

-- name: mailboxes
INSERT INTO mailbox SELECT * FROM source.mailbox;

-- name: waiting_messages
-- Asked of the copy: what the start would hand out besides items.
SELECT to_id, count(*) AS messages FROM message
WHERE settled_commit IS NULL AND delivered_commit IS NULL
GROUP BY to_id ORDER BY to_id;
