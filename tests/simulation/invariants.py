"""What must be true of a journal at every moment, whatever has crashed. Each query finds what is wrong."""

__all__ = ["ALWAYS", "IN_THE_END"]

_KEYS = "BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + 4294967295"
_RESULTS = f"SELECT count(*) FROM result r WHERE r.item_key {_KEYS}"
_ITEMS = f"SELECT count(*) FROM item i WHERE i.item_key {_KEYS}"

ALWAYS: dict[str, str] = {
    "counters are the numbers of rows": f"""
        SELECT buffer_id, succeeded, failed, total FROM buffer b
        WHERE succeeded <> ({_RESULTS} AND success = 1) OR failed <> ({_RESULTS} AND success = 0)""",
    "a buffer that is sealed or has ended has all of its items, any that is open has some": f"""
        SELECT buffer_id, total, received FROM buffer b
        WHERE (coalesce(sealed_commit, ended_commit) IS NOT NULL AND total IS NOT received)
            OR (opened_commit IS NOT NULL AND received = 0) OR received <> ({_ITEMS})""",
    "a buffer has ended when and only when it is sealed and every item has a result": f"""
        SELECT buffer_id, total, sealed_commit, succeeded, failed, ended_commit FROM buffer b
        WHERE opened_commit IS NOT NULL AND cancelled_commit IS NULL
            AND (ended_commit IS NOT NULL) <> (sealed_commit IS NOT NULL AND received = ({_RESULTS}))""",
    "a buffer opens, is sealed and ends in this order": """
        SELECT buffer_id, opened_commit, sealed_commit, ended_commit FROM buffer
        WHERE sealed_commit < opened_commit OR ended_commit < sealed_commit OR ended_commit < opened_commit
            OR (opened_commit IS NULL AND coalesce(sealed_commit, ended_commit) IS NOT NULL)""",
    "what is open before it is sealed is a stream, and its chunks are its items": """
        SELECT buffer_id, received, opened_commit, sealed_commit, chunks.* FROM buffer b
        LEFT JOIN (
            SELECT buffer_seq, count(*) AS count, min(commit_id) AS first, sum(item_count) AS items FROM chunk
            GROUP BY buffer_seq
        ) chunks USING (buffer_seq)
        WHERE opened_commit IS NOT NULL
            AND CASE
                WHEN count IS NULL THEN sealed_commit IS NOT opened_commit
                ELSE items <> received OR count <> next_chunk OR first <> opened_commit
            END""",
    "the chunks of a stream follow on one another, until it is sealed or ends": """
        SELECT buffer_id, k.* FROM chunk k JOIN buffer b USING (buffer_seq)
        WHERE k.first_index <> (
                SELECT coalesce(sum(item_count), 0) FROM chunk before
                WHERE before.buffer_seq = k.buffer_seq AND before.first_index < k.first_index
            ) OR k.commit_id > coalesce(b.sealed_commit, b.ended_commit)""",
    "an item of a stream is handed out when its chunk is on disk": """
        SELECT d.dispatch_id, k.first_index FROM dispatch d JOIN chunk k USING (buffer_seq)
        WHERE d.commit_id < k.commit_id AND d.first_index < k.first_index + k.item_count
            AND k.first_index < d.first_index + d.item_count""",
    "a collecting buffer that has ended has one BufferComplete, any other none": """
        SELECT buffer_id, collect, ended_commit FROM buffer b
        WHERE (SELECT count(*) FROM message m WHERE m.buffer_seq = b.buffer_seq AND m.kind = 'BufferComplete')
            <> (ended_commit IS NOT NULL AND collect)""",
    "BufferComplete is written by the commit that ends its buffer": """
        SELECT message_id FROM message m JOIN buffer b USING (buffer_seq)
        WHERE m.kind = 'BufferComplete'
            AND (m.created_commit IS NOT b.ended_commit OR m.message_id <> b.buffer_id || '/complete')""",
    "an answer's count is the number of its results": """
        SELECT answer_id, recorded FROM answer a
        WHERE recorded <> (
            SELECT count(*) FROM result r
            WHERE r.answer_id = a.answer_id AND r.item_key BETWEEN (a.buffer_seq << 32) + a.first_index
                AND (a.buffer_seq << 32) + a.first_index + a.item_count - 1
        )""",
    "a result belongs to an answer to its item": """
        SELECT r.item_key FROM result r LEFT JOIN answer a USING (answer_id)
        WHERE a.answer_id IS NULL OR r.item_index < a.first_index
            OR r.item_index >= a.first_index + a.item_count OR a.buffer_seq <> r.buffer_seq
            OR a.success <> r.success""",
    "an answer belongs to a dispatch of its items, with its attempt": """
        SELECT a.answer_id FROM answer a JOIN dispatch d USING (dispatch_id)
        WHERE a.buffer_seq <> d.buffer_seq OR a.attempt <> d.attempt OR a.first_index < d.first_index
            OR a.first_index + a.item_count > d.first_index + d.item_count""",
    "a commit knows how many results and failures it has added": """
        SELECT commit_id, results, failures FROM journal_commit c
        WHERE results <> (SELECT coalesce(sum(recorded), 0) FROM answer a WHERE a.commit_id = c.commit_id)
            OR failures <> (SELECT count(*) FROM failure f WHERE f.commit_id = c.commit_id)""",
    "below the low-water mark everything has its outcome": """
        SELECT buffer_id, low_water, i.item_index FROM buffer b
        JOIN item i ON i.item_key BETWEEN b.buffer_seq << 32 AND (b.buffer_seq << 32) + b.low_water - 1
        WHERE b.opened_commit IS NOT NULL AND b.cancelled_commit IS NULL
            AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = i.item_key)
            AND NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = i.item_key)""",
    "every item belongs to a buffer": """
        SELECT item_key FROM item i
        WHERE NOT EXISTS (SELECT 1 FROM buffer b WHERE b.buffer_seq = i.item_key >> 32)""",
    "every attempt at an item fails at most once": """
        SELECT item_key, attempt FROM failure WHERE item_key IS NOT NULL
        GROUP BY item_key, attempt HAVING count(*) > 1""",
    "attempts are counted from 1 without a gap": """
        SELECT item_key FROM failure WHERE item_key IS NOT NULL
        GROUP BY item_key HAVING min(attempt) <> 1 OR max(attempt) <> count(*)""",
    "nothing is lost more often than is allowed": """
        SELECT item_key FROM failure WHERE item_key IS NOT NULL GROUP BY item_key
        HAVING sum(kind = 'lost' AND NOT supervisor_died) > 3
            OR sum(kind = 'lost' AND supervisor_died) > 5""",
    "what was lost for good was lost as often as is allowed": """
        SELECT r.item_key FROM result r
        WHERE r.payload LIKE '<SystemError><code>lost</code>%'
            AND NOT EXISTS (SELECT 1 FROM forwarded_item o WHERE o.item_key = r.item_key) AND (
            SELECT NOT (coalesce(sum(kind = 'lost' AND NOT supervisor_died), 0) = 3
                OR coalesce(sum(kind = 'lost' AND supervisor_died), 0) = 5)
            FROM failure f WHERE f.item_key = r.item_key
        )""",
    "no two dispatches in flight hold the same attempt at an item": """
        SELECT d.dispatch_id, e.dispatch_id FROM dispatch d INDEXED BY dispatch_not_ended
        JOIN dispatch e INDEXED BY dispatch_not_ended
            ON e.buffer_seq = d.buffer_seq AND e.dispatch_id > d.dispatch_id
        WHERE d.ended_commit IS NULL AND e.ended_commit IS NULL AND d.attempt = e.attempt
            AND d.first_index < e.first_index + e.item_count
            AND e.first_index < d.first_index + d.item_count""",
    "only the newest run has dispatches that have not ended": """
        SELECT dispatch_id
        FROM dispatch d INDEXED BY dispatch_not_ended JOIN journal_commit c USING (commit_id)
        WHERE d.ended_commit IS NULL AND c.run_id < (SELECT max(run_id) FROM run)""",
    "what its handler passed on is answered by somebody else, and recorded by the supervisor": """
        SELECT r.item_key FROM result r JOIN forwarded_item USING (item_key) JOIN answer a USING (answer_id)
        WHERE a.dispatch_id IS NOT NULL""",
    "nothing is recorded after its buffer has ended": """
        SELECT r.item_key FROM result r JOIN answer a USING (answer_id) JOIN buffer b
            ON b.buffer_seq = a.buffer_seq
        WHERE a.commit_id > b.ended_commit""",
    "a cancelled buffer is not counted as complete": """
        SELECT buffer_id FROM buffer WHERE cancelled_commit IS NOT NULL AND ended_commit IS NULL""",
    "a message that is settled was delivered, or is only the record": """
        SELECT message_id FROM message WHERE settled_commit < delivered_commit""",
    "a message fails as often as its receiver may try": """
        SELECT message_seq FROM failure WHERE message_seq IS NOT NULL GROUP BY message_seq
        HAVING min(attempt) <> 1 OR max(attempt) <> count(*)
            OR sum(kind = 'lost' AND NOT supervisor_died) > 3
            OR sum(kind = 'lost' AND supervisor_died) > 5""",
    "the completion of a buffer travels on its starter's thread": """
        SELECT message_id FROM message m JOIN buffer b USING (buffer_seq)
        WHERE m.kind = 'BufferComplete' AND (m.thread_id <> b.starter_thread_id
            OR m.to_id <> CASE WHEN b.return_to <> '' THEN b.return_to ELSE b.from_id END)""",
}

IN_THE_END: dict[str, str] = {
    "every buffer that has opened has ended": """
        SELECT buffer_id FROM buffer WHERE opened_commit IS NOT NULL AND ended_commit IS NULL""",
    "no dispatch is in flight": "SELECT dispatch_id FROM dispatch WHERE ended_commit IS NULL",
    "no retry is waiting": """
        SELECT failure_id FROM failure f JOIN buffer b ON b.buffer_seq = f.item_key >> 32
        WHERE retry_at IS NOT NULL AND retried_commit IS NULL AND b.cancelled_commit IS NULL
            AND NOT EXISTS (SELECT 1 FROM result r WHERE r.item_key = f.item_key)""",
    "every message is settled": "SELECT message_id, to_id FROM message WHERE settled_commit IS NULL",
    "the run has said that it ended": "SELECT run_id FROM runs WHERE ended = 'running'",
    "every row that is referred to is there": "SELECT * FROM pragma_foreign_key_check",
}
