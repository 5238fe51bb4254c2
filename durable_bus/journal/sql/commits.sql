-- Commits by their time.

-- name: last_commit_before
-- By halving, because commits are numbered without a gap in the order of their times, and an index would be one page more to
-- write for each. 0: none. A clock that was set back makes several commits the last before one that is not: it is one of them.
WITH RECURSIVE halved (low, high) AS (
    SELECT 0, coalesce(max(commit_id), 0) FROM journal_commit
    UNION ALL
    SELECT
        CASE WHEN c.committed_at < :before_ms THEN c.commit_id ELSE h.low END,
        CASE WHEN c.committed_at < :before_ms THEN h.high ELSE c.commit_id - 1 END
    FROM halved h
    CROSS JOIN journal_commit c ON c.commit_id = (h.low + h.high + 1) / 2
    WHERE h.low < h.high
)
SELECT coalesce(max(low), 0) AS commit_id FROM halved WHERE low = high;
