-- Runs, commits and requests. The supervisor writes, and reads what it needs to go on.
-- Now is always a parameter.

-- name: last_ids
-- Ids are counted in memory from here on: one writer, so nobody else can take one.
SELECT
    coalesce((SELECT max(commit_id) FROM journal_commit), 0),
    coalesce((SELECT max(buffer_seq) FROM buffer), 0),
    -- what was spent stays when its dispatch is pruned, and must not be taken for another's
    max(
        coalesce((SELECT max(dispatch_id) FROM dispatch), 0),
        coalesce((SELECT max(dispatch_id) FROM spent WHERE dispatch_id > 0), 0)
    ),
    coalesce((SELECT max(answer_id) FROM answer), 0);

-- name: start_run
-- The row whose existence makes every earlier run that has not said it ended a crashed one.
INSERT INTO run (pid, app, version, started_at, first_commit)
VALUES (:pid, :app, :version, :now_ms, :commit_id);

-- name: stop_run
UPDATE run SET stopped_at = :now_ms WHERE run_id = :run_id AND stopped_at IS NULL;

-- name: set_run_report
-- What a worker has reported last: the table of its listeners, or why it could not import the app.
UPDATE run SET listeners = coalesce(:listeners, listeners), worker_error = :error WHERE run_id = :run_id;

-- name: last_listeners
-- The newest table any run knew: what `starts` are validated against until a worker of this run has reported.
SELECT listeners FROM run WHERE listeners IS NOT NULL ORDER BY run_id DESC LIMIT 1;

-- name: prove_room
-- Changes nothing, and dirties a page all the same: a full disk refuses it.
UPDATE run SET run_id = run_id WHERE run_id = :run_id;

-- name: add_commit
INSERT INTO journal_commit (commit_id, run_id, committed_at, results, failures)
VALUES (:commit_id, :run_id, :now_ms, :results, :failures);

-- name: add_request
INSERT INTO request (request_id, commit_id, answer) VALUES (:request_id, :commit_id, :answer)
ON CONFLICT (request_id) DO NOTHING;

-- name: request_answer
SELECT answer FROM request WHERE request_id = :request_id;

-- name: forget_requests
DELETE FROM request
WHERE request_id IN (SELECT request_id FROM request WHERE commit_id < :before_commit LIMIT :limit);
