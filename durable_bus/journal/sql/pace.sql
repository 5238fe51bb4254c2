-- Limits, budgets, and what is spent. Now is always a parameter.

-- name: limit_states
SELECT * FROM limit_state;

-- name: set_limit_state
INSERT INTO limit_state (
    name, declared, app_rate, app_running, adaptive, by_hand, rate, running, allowed, tokens, tokens_at, tokens_at_ns,
    not_begun, in_hand, rests_until
) VALUES (
    :name, :declared, :app_rate, :app_running, :adaptive, :by_hand, :rate, :running, :allowed, :tokens, :now_ms,
    :tokens_at_ns, :not_begun, :in_hand, :rests_until
)
ON CONFLICT (name) DO UPDATE SET
    declared = excluded.declared, app_rate = excluded.app_rate, app_running = excluded.app_running,
    adaptive = excluded.adaptive, by_hand = excluded.by_hand, rate = excluded.rate, running = excluded.running,
    allowed = excluded.allowed, tokens = excluded.tokens, tokens_at = excluded.tokens_at,
    tokens_at_ns = excluded.tokens_at_ns, not_begun = excluded.not_begun, in_hand = excluded.in_hand,
    rests_until = excluded.rests_until;

-- name: add_limit_change
INSERT INTO limit_change (name, commit_id, cause, rate, running, allowed, rests_until)
VALUES (:name, :commit_id, :cause, :rate, :running, :allowed, :rests_until);

-- name: add_budget
INSERT INTO budget (buffer_seq, unit, commit_id, amount) VALUES (:buffer_seq, :unit, :commit_id, :amount)
ON CONFLICT (buffer_seq, unit, commit_id) DO UPDATE SET amount = amount + excluded.amount;

-- name: budgets_of
-- What a buffer may spend, by unit, and what it was given first.
SELECT unit, sum(amount), (
    SELECT f.amount FROM budget f WHERE f.buffer_seq = b.buffer_seq AND f.unit = b.unit ORDER BY f.commit_id LIMIT 1
)
FROM budget b WHERE buffer_seq = :buffer_seq GROUP BY unit;

-- name: spent_of_budget
-- What was spent of a buffer's budget, by it and by those that its handlers have started.
SELECT s.unit, sum(s.amount)
FROM buffer b CROSS JOIN spent s ON s.buffer_seq = b.buffer_seq
WHERE b.budget_of = :buffer_seq
GROUP BY s.unit;

-- name: add_spent_of_item
-- Once, however often it is said. A dispatch whose buffer was pruned meanwhile is not there any more.
INSERT INTO spent (commit_id, dispatch_id, item_index, number, buffer_seq, listener, attempt, unit, amount)
SELECT :commit_id, d.dispatch_id, :item_index, :number, d.buffer_seq, b.target, d.attempt, :unit, :amount
FROM dispatch d JOIN buffer b ON b.buffer_seq = d.buffer_seq
WHERE d.dispatch_id = :dispatch_id
ON CONFLICT (dispatch_id, item_index, number, unit) WHERE dispatch_id > 0 DO NOTHING;

-- name: buffer_of_dispatch
SELECT buffer_seq FROM dispatch WHERE dispatch_id = :dispatch_id;

-- name: add_spent_of_message
-- Not once: who has died near it handles it again under the same number, and spends again.
INSERT INTO spent (commit_id, dispatch_id, item_index, number, buffer_seq, message_seq, listener, attempt, unit, amount)
SELECT
    :commit_id, -m.message_seq, 0, :number, :buffer_seq, m.message_seq, m.to_id,
    1 + (SELECT count(*) FROM failure f WHERE f.message_seq = m.message_seq), :unit, :amount
FROM message m
WHERE m.message_seq = :message_seq;
