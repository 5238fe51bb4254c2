-- What is asked of a damaged journal: single tables by their keys, as few pages as possible.

-- name: buffer
SELECT buffer_seq, coalesce(total, received), succeeded + failed FROM buffer
WHERE buffer_id = :buffer_id AND dropped_commit IS NULL;

-- name: buffers_between
-- Without the index, which may be what is damaged.
SELECT buffer_seq, buffer_id, coalesce(total, received), succeeded + failed FROM buffer NOT INDEXED
WHERE buffer_seq BETWEEN :first AND :last AND dropped_commit IS NULL
ORDER BY buffer_seq LIMIT :limit;

-- name: answer
SELECT first_index, attempt, durations FROM answer WHERE answer_id = :answer_id;
