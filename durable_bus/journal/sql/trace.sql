-- Who ran what when, of one buffer, for `trace`: in the order of commits, in pages, none of them behind :until_commit. Times
-- are milliseconds since the epoch.

-- name: newest
-- What comes later is left out, so that all that is read belongs together.
SELECT commit_id, committed_at FROM journal_commit ORDER BY commit_id DESC LIMIT 1;

-- name: life
SELECT
    b.buffer_seq, b.buffer_id, b.target, b.pruned_commit IS NOT NULL AS pruned,
    coalesce(b.total, b.received) AS total, b.succeeded, b.failed,
    coalesce(b.ended_how, CASE WHEN b.cancelled_commit IS NULL THEN 'all' ELSE 'cancelled' END) AS ended_how,
    created.committed_at AS created_ms, opened.committed_at AS opened_ms, sealed.committed_at AS sealed_ms,
    ended.committed_at AS ended_ms, created.run_id AS first_run, coalesce(ended.run_id, (SELECT max(run_id) FROM run)) AS last_run
FROM buffer b
JOIN journal_commit created ON created.commit_id = b.created_commit
LEFT JOIN journal_commit opened ON opened.commit_id = b.opened_commit
LEFT JOIN journal_commit sealed ON sealed.commit_id = b.sealed_commit
LEFT JOIN journal_commit ended ON ended.commit_id = b.ended_commit
WHERE b.buffer_id = :buffer_id AND b.dropped_commit IS NULL;

-- name: pauses
SELECT paused.committed_at AS paused_ms, resumed.committed_at AS resumed_ms, p.why AS why
FROM pause p
JOIN journal_commit paused ON paused.commit_id = p.paused_commit
LEFT JOIN journal_commit resumed ON resumed.commit_id = p.resumed_commit
WHERE p.buffer_seq = :buffer_seq
ORDER BY p.pause_id;

-- name: runs
-- Those that the buffer has lived through.
SELECT r.run_id, r.pid, r.app, r.version, r.started_at AS started_ms, r.stopped_at AS stopped_ms, r.listeners,
    r.run_id = (SELECT max(run_id) FROM run) AS newest,
    coalesce((
        SELECT c.committed_at
        FROM journal_commit c
        WHERE c.commit_id = coalesce(
            (SELECT n.first_commit - 1 FROM run n WHERE n.run_id > r.run_id ORDER BY n.run_id LIMIT 1),
            (SELECT max(commit_id) FROM journal_commit)
        )
    ), r.started_at) AS last_commit_ms
FROM run r
WHERE r.run_id >= :first_run AND r.run_id <= :last_run
ORDER BY r.run_id;

-- name: dispatch_span
SELECT min(dispatch_id) AS first_id, max(dispatch_id) AS last_id FROM dispatch INDEXED BY dispatch_of_buffer
WHERE buffer_seq = :buffer_seq;

-- name: dispatches_page
-- By the table itself, from the first to the last of the buffer: its index has another order, and sorting takes memory.
SELECT d.dispatch_id, d.place, d.commit_id, sent.committed_at, sent.run_id, d.first_index, d.item_count, d.attempt, d.worker_pid,
    d.ended_commit, ended.committed_at, d.ended_how
FROM dispatch d NOT INDEXED
JOIN journal_commit sent ON sent.commit_id = d.commit_id
LEFT JOIN journal_commit ended ON ended.commit_id = d.ended_commit
WHERE d.dispatch_id > :after_id AND d.dispatch_id <= :last_id AND d.buffer_seq = :buffer_seq AND d.commit_id <= :until_commit
ORDER BY d.dispatch_id LIMIT :limit;

-- name: answers_page
SELECT a.answer_id, a.durations, a.commit_id, c.committed_at, c.run_id, a.dispatch_id, a.first_index, a.item_count, a.recorded,
    a.success, a.attempt, a.worker_pid, a.place, a.memo
FROM answer a INDEXED BY answer_of_buffer
JOIN journal_commit c ON c.commit_id = a.commit_id
WHERE a.buffer_seq = :buffer_seq AND a.answer_id > :after_id AND a.commit_id <= :until_commit
ORDER BY a.answer_id LIMIT :limit;

-- name: recorded
-- Of an answer, the items that it was the first for.
SELECT r.item_key & 4294967295 FROM result r
WHERE r.item_key >= :first_key AND r.item_key < :end_key AND r.answer_id = :answer_id;

-- name: first_failure
SELECT min(failure_id) FROM failure INDEXED BY failure_of_item WHERE item_key >= :first_key AND item_key <= :last_key;

-- name: attempts_failed_page
-- By the table itself, from the first of the buffer on: its index has the order of items.
SELECT f.failure_id, f.message, f.commit_id, c.committed_at, c.run_id, f.item_key & 4294967295, f.attempt, f.kind, f.place
FROM failure f NOT INDEXED
JOIN journal_commit c ON c.commit_id = f.commit_id
WHERE f.failure_id > :after_id AND f.item_key >= :first_key AND f.item_key <= :last_key AND f.commit_id <= :until_commit
ORDER BY f.failure_id LIMIT :limit;
