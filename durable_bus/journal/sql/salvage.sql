-- What is asked of a damaged journal: single tables by their keys, as few pages as possible.

-- name: buffer
SELECT buffer_seq, coalesce(total, received), succeeded + failed FROM buffer
WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: buffer_without_index
-- The index may be what is damaged.
SELECT buffer_seq, coalesce(total, received), succeeded + failed FROM buffer NOT INDEXED
WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: answer
SELECT first_index, attempt, durations FROM answer WHERE answer_id = :answer_id;
