-- The same of what may start when (0004_pace.sql): ends, waits, memos, spending, budgets and limits.

-- name: ends_fit_the_counters
-- A buffer that ended early had a reason to: so many successes, so many failures, or its time was over.
SELECT b.buffer_id, b.ended_how, b.succeeded, b.enough, b.failed, b.max_failures, b.deadline_at, c.committed_at
FROM buffer b
CROSS JOIN journal_commit c ON c.commit_id = b.ended_commit
WHERE CASE b.ended_how
    WHEN 'enough' THEN b.enough IS NULL OR b.succeeded < b.enough
    WHEN 'max_failures' THEN b.max_failures IS NULL OR b.failed < b.max_failures
    WHEN 'deadline' THEN b.deadline_at IS NULL OR c.committed_at < b.deadline_at
    WHEN 'all' THEN b.succeeded + b.failed <> b.total
END;

-- name: nothing_starts_early
-- Nothing of a buffer was handed out before the time that it is to wait for.
SELECT b.buffer_id, b.not_before, d.dispatch_id, d.first_index, c.committed_at
FROM buffer b
CROSS JOIN dispatch d ON d.buffer_seq = b.buffer_seq
CROSS JOIN journal_commit c ON c.commit_id = d.commit_id
WHERE b.not_before IS NOT NULL AND c.committed_at < b.not_before;

-- name: nothing_comes_back_too_often
-- No item and no message has come back by RetryAfter more than 1,000 times.
SELECT item_key >> 32 AS buffer_seq, item_key & 4294967295 AS item_index, message_seq,
    sum(retry_at IS NOT NULL) AS returns, count(*) AS raised
FROM failure
WHERE kind = 'retry_after'
GROUP BY item_key, message_seq
HAVING returns > 1000 OR raised > 1001;

-- name: memos_point_to_answers
-- What is given again to an equal item is a successful answer that is there and that its own handler has given.
SELECT m.item_key >> 32 AS buffer_seq, m.item_key & 4294967295 AS item_index, r.success
FROM memo m
LEFT JOIN result r ON r.item_key = m.item_key
WHERE r.success IS NOT 1 OR EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = m.item_key);

-- name: given_again_is_what_was_answered
-- An answer that was given again is a success that an equal item of the same listener had got by then. The source may have
-- been pruned since: then nothing is said about that listener. All of this is asked only where something was given again.
WITH given AS MATERIALIZED (
    SELECT r.item_key, b.target, i.payload, i.form, r.payload AS answer, r.form AS answer_form, r.success, a.commit_id
    FROM answer a INDEXED BY answer_of_memo
    CROSS JOIN buffer b ON b.buffer_seq = a.buffer_seq
    CROSS JOIN result r
        ON r.item_key >= (a.buffer_seq << 32) + a.first_index
            AND r.item_key < (a.buffer_seq << 32) + a.first_index + a.item_count
            AND +r.answer_id = a.answer_id
    CROSS JOIN item i ON i.item_key = r.item_key
    WHERE a.memo = 1
),
source AS MATERIALIZED (
    SELECT b.target, i.payload, i.form, r.payload AS answer, r.form AS answer_form, min(a.commit_id) AS commit_id
    FROM (SELECT 1 FROM given LIMIT 1) anything
    CROSS JOIN item i
    CROSS JOIN result r ON r.item_key = i.item_key
    CROSS JOIN answer a ON a.answer_id = r.answer_id
    CROSS JOIN buffer b ON b.buffer_seq = i.item_key >> 32
    WHERE (i.payload, i.form) IN (SELECT g.payload, g.form FROM given g) AND r.success = 1 AND a.memo = 0
    GROUP BY b.target, i.payload, i.form, r.payload, r.form
)
SELECT g.item_key >> 32 AS buffer_seq, g.item_key & 4294967295 AS item_index, g.success
FROM given g
LEFT JOIN source s ON s.payload = g.payload AND s.form = g.form AND s.target = g.target AND s.answer = g.answer
    AND s.answer_form = g.answer_form
WHERE g.success = 0
    OR (
        (s.commit_id IS NULL OR s.commit_id > g.commit_id)
        AND NOT EXISTS (SELECT 1 FROM buffer p WHERE p.pruned_commit IS NOT NULL AND p.target = g.target)
    );

-- name: spending_is_of_what_was_handed_out
-- What was spent was spent on an item of a dispatch that was handed out before, or on a message, at that attempt.
SELECT s.spent_id, s.dispatch_id, s.item_index, s.message_seq, s.listener, s.attempt, s.unit, s.amount
FROM spent s
LEFT JOIN buffer b ON b.buffer_seq = s.buffer_seq
LEFT JOIN dispatch d ON d.dispatch_id = s.dispatch_id
LEFT JOIN message m ON m.message_seq = s.message_seq
WHERE CASE
    WHEN s.dispatch_id < 0 THEN s.item_index <> 0 OR s.listener <> m.to_id OR s.commit_id <= m.created_commit
    WHEN b.pruned_commit IS NULL THEN b.buffer_seq IS NULL
        OR d.dispatch_id IS NULL
        OR s.message_seq IS NOT NULL
        OR s.buffer_seq <> d.buffer_seq
        OR s.attempt <> d.attempt
        OR s.item_index < d.first_index
        OR s.item_index >= d.first_index + d.item_count
        OR s.commit_id <= d.commit_id
END;

-- name: budgets_belong_to_a_buffer
-- A budget is that of the buffer that has it; a buffer spends of one that is there, as long as its owner is not pruned.
SELECT b.buffer_id, b.budget_of, 'there is no such budget' AS problem
FROM buffer b INDEXED BY buffer_of_budget
LEFT JOIN buffer o ON o.buffer_seq = b.budget_of
WHERE b.budget_of IS NOT NULL AND b.pruned_commit IS NULL AND b.dropped_commit IS NULL AND o.pruned_commit IS NULL
    AND NOT EXISTS (SELECT 1 FROM budget g WHERE g.buffer_seq = b.budget_of)
UNION ALL
SELECT DISTINCT b.buffer_id, b.budget_of, 'it does not spend of its own budget'
FROM budget g
JOIN buffer b ON b.buffer_seq = g.buffer_seq
WHERE b.budget_of IS NOT b.buffer_seq;

-- name: budget_pauses_have_a_reason
-- A buffer was paused because of its budget when, of some unit, what it and those inside it had spent by then was all that
-- it had been given before. Amounts are added up in another order here: a billionth less is the same.
SELECT p.pause_id, b.buffer_id, b.budget_of, p.paused_commit
FROM pause p
JOIN buffer b ON b.buffer_seq = p.buffer_seq
LEFT JOIN buffer o ON o.buffer_seq = b.budget_of
WHERE p.why = 'budget' AND b.pruned_commit IS NULL AND o.pruned_commit IS NULL
    AND NOT EXISTS (
        SELECT 1
        FROM budget g
        WHERE g.buffer_seq = b.budget_of AND g.commit_id < p.paused_commit
        GROUP BY g.unit
        HAVING sum(g.amount) * 0.999999999 <= (
            SELECT sum(s.amount)
            FROM buffer n INDEXED BY buffer_of_budget
            CROSS JOIN spent s ON s.buffer_seq = n.buffer_seq
            WHERE n.budget_of = b.budget_of AND s.unit = g.unit AND s.commit_id <= p.paused_commit
        )
    );

-- name: limits_are_as_last_changed
-- A limit of the app is what its last change made of it.
SELECT l.name, l.rate, l.running, c.change_id, c.cause, c.rate AS changed_rate, c.running AS changed_running
FROM limit_state l
LEFT JOIN limit_change c ON c.change_id = (SELECT max(n.change_id) FROM limit_change n WHERE n.name = l.name)
WHERE l.declared = 1 AND (c.change_id IS NULL OR c.rate IS NOT l.rate OR c.running IS NOT l.running);

-- name: limits_change_in_order
-- Changes of limits are numbered as their commits are.
SELECT c.change_id, c.name, c.commit_id, c.last_commit
FROM (SELECT *, lag(commit_id) OVER (ORDER BY change_id) AS last_commit FROM limit_change) c
WHERE c.commit_id < c.last_commit;
