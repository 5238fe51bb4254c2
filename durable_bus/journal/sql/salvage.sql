-- What is asked of a damaged journal: single tables by their keys, so as few pages as possible.

-- name: buffer
SELECT buffer_seq, coalesce(total, received), succeeded + failed FROM buffer
WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: buffer_without_index
-- The index may be what is damaged.
SELECT buffer_seq, coalesce(total, received), succeeded + failed FROM buffer NOT INDEXED
WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: results
-- The tests of the columns leave out what a damaged page says that is no result.
SELECT item_key, payload, success, form, answer_id FROM result
WHERE item_key >= :first_key AND item_key <= :last_key AND success IN (0, 1) AND form BETWEEN 0 AND 3
    AND typeof(payload) = 'text' AND instr(payload, char(0)) = 0 AND typeof(answer_id) = 'integer'
ORDER BY item_key LIMIT :limit;

-- name: answer
SELECT first_index, attempt, durations FROM answer WHERE answer_id = :answer_id;
