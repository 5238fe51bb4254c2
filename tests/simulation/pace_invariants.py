"""What must be true of the rows that say what may start when. Each query finds what is wrong."""

from durable_bus.supervisor.outcomes.attempts import RETURNS_MS_MAX

__all__ = ["PACE"]

_SPENT = """
    SELECT b.budget_of AS root, s.unit, sum(s.amount) AS amount, max(s.commit_id) AS last
    FROM spent s JOIN buffer b USING (buffer_seq) WHERE b.budget_of IS NOT NULL GROUP BY 1, 2"""
_REACHED = f"""
    SELECT DISTINCT spending.root FROM ({_SPENT}) spending
    JOIN (SELECT buffer_seq, unit, sum(amount) AS amount FROM budget GROUP BY 1, 2) granted
        ON granted.buffer_seq = spending.root AND granted.unit = spending.unit
    WHERE spending.amount >= granted.amount"""

PACE: dict[str, str] = {
    "nothing is handed out before its buffer may begin": """
        SELECT d.dispatch_id, b.buffer_id FROM dispatch d JOIN buffer b USING (buffer_seq)
        JOIN journal_commit c ON c.commit_id = d.commit_id
        WHERE b.not_before IS NOT NULL AND c.committed_at < b.not_before""",
    "an item is handed out again when it is due": """
        SELECT f.item_key, f.kind, f.retry_at, d.commit_id, f.retried_commit FROM failure f
        LEFT JOIN journal_commit c ON c.commit_id = f.retried_commit
        LEFT JOIN dispatch d ON d.buffer_seq = f.item_key >> 32 AND d.attempt = f.attempt + 1
            AND f.item_key & 4294967295 BETWEEN d.first_index AND d.first_index + d.item_count - 1
        WHERE f.retry_at > c.committed_at
            OR (f.retry_at IS NOT NULL AND d.commit_id < coalesce(f.retried_commit, d.commit_id + 1))""",
    "who comes back by RetryAfter waits a little, whatever it says": """
        SELECT f.item_key, f.retry_at, c.committed_at FROM failure f JOIN journal_commit c USING (commit_id)
        WHERE f.kind = 'retry_after' AND f.retry_at < c.committed_at + 10""",
    "who is over its budget is paused": f"""
        SELECT buffer_id FROM buffer b
        WHERE opened_commit IS NOT NULL AND ended_commit IS NULL AND budget_of IN ({_REACHED})
            AND NOT EXISTS (
                SELECT 1 FROM pause p WHERE p.buffer_seq = b.buffer_seq AND resumed_commit IS NULL
            )""",
    "nothing that has ended is paused": """
        SELECT b.buffer_id FROM buffer b JOIN pause p USING (buffer_seq)
        WHERE b.ended_commit IS NOT NULL AND p.resumed_commit IS NULL""",
    "what a handler starts has the budget, the priority and the deadline of what it is started in": """
        SELECT b.buffer_id, o.buffer_id FROM buffer b JOIN buffer o
            ON b.from_id <> '' AND b.thread_id GLOB o.thread_id || '/[0-9]*/' || b.buffer_id
            AND b.thread_id NOT GLOB o.thread_id || '/*/*/*'
        WHERE b.budget_of IS NOT o.budget_of OR b.priority <> o.priority
            OR b.deadline_at IS NOT o.deadline_at""",
    "a buffer ends when enough have succeeded, or too many have failed": """
        SELECT buffer_id, succeeded, enough, failed, max_failures, ended_how FROM buffer b
        WHERE CASE ended_how
            WHEN 'enough' THEN succeeded < enough OR enough IS NULL
            WHEN 'max_failures' THEN failed < max_failures OR max_failures IS NULL
            ELSE ended_how IS NULL AND (succeeded >= enough OR failed >= max_failures)
        END""",
    "and in the commit that records them": """
        SELECT buffer_id, ended_commit FROM buffer b
        WHERE ended_how IN ('enough', 'max_failures') AND ended_commit <> (
            SELECT max(commit_id) FROM answer a
            WHERE a.buffer_seq = b.buffer_seq AND a.success = (ended_how = 'enough') AND a.recorded > 0
        )""",
    "no buffer ends by a deadline before it": """
        SELECT buffer_id FROM buffer b JOIN journal_commit c ON c.commit_id = b.ended_commit
        WHERE ended_how = 'deadline' AND (deadline_at IS NULL OR committed_at < deadline_at)""",
    "a buffer has ended in a way": """
        SELECT buffer_id FROM buffer WHERE (ended_commit IS NULL) <> (ended_how IS NULL)""",
    "what fails because it came back too often came back as often, or for so long": f"""
        SELECT r.item_key FROM result r
        WHERE r.payload LIKE '<SystemError><code>retry_after</code>%'
            AND NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = r.item_key) AND (
            SELECT count(*) <> returns_max() AND max(committed_at) - min(committed_at) < {RETURNS_MS_MAX}
            FROM failure f JOIN journal_commit c USING (commit_id)
            WHERE f.item_key = r.item_key AND kind = 'retry_after'
        )""",
    "of what was given again nothing has run, and results say that it was": """
        SELECT a.answer_id FROM answer a JOIN results r
            ON r.item_key = (a.buffer_seq << 32) + a.first_index AND a.item_count = 1
        WHERE r.memo <> a.memo OR (a.memo = 1 AND (
            a.dispatch_id IS NOT NULL OR a.worker_pid IS NOT NULL OR a.success = 0 OR r.duration_ms > 0
        ))""",
    "nor is it handed out or charged from then on": """
        SELECT r.item_key, d.dispatch_id, s.spent_id FROM answer a
        JOIN result r ON r.answer_id = a.answer_id
        LEFT JOIN dispatch d ON d.buffer_seq = a.buffer_seq AND d.commit_id >= a.commit_id
            AND r.item_index BETWEEN d.first_index AND d.first_index + d.item_count - 1
        LEFT JOIN spent s ON s.buffer_seq = a.buffer_seq AND s.item_index = r.item_index
            AND s.message_seq IS NULL AND s.commit_id >= a.commit_id
            -- What an engine did with a batch that was handed out before comes late.
            AND s.dispatch_id NOT IN (SELECT o.dispatch_id FROM dispatch o WHERE o.commit_id < a.commit_id)
        WHERE a.memo = 1 AND (d.dispatch_id IS NOT NULL OR s.spent_id IS NOT NULL)""",
    "what is remembered is a success that its own handler has answered": """
        SELECT m.item_key FROM memo m LEFT JOIN result r USING (item_key) LEFT JOIN answer a USING (answer_id)
        WHERE r.success IS NOT 1 OR a.memo = 1 OR a.dispatch_id IS NULL
            OR EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = m.item_key)""",
    "nothing comes back more often than it may": """
        SELECT item_key FROM failure WHERE kind = 'retry_after'
        GROUP BY item_key, message_seq HAVING count(*) > returns_max()""",
}
