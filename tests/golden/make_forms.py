"""Make v1.forms.gz, a journal of schema version 1 with text and XML, by the code of then:

    git worktree add /tmp/v1 5df2778
    cp tests/golden/make_forms.py tests/apps/two_forms.py /tmp/v1/tests/…
    (cd /tmp/v1 && python tests/golden/make_forms.py)

Its supervisor is killed while items of two buffers are in a worker's hands, waiting and forwarded, and a
message waits. It is never made again: what matters is that what was written then can be read.
"""

import gzip
import os
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent.parent)]

from apps import two_forms  # noqa: E402
from support import Facts, kill, until_gone, workers_of  # noqa: E402

from durable_bus import Text, Xml  # noqa: E402
from durable_bus.app.finding import app_spec  # noqa: E402
from durable_bus.client.embedded import open_client  # noqa: E402

MIXED = [Text("one"), Xml("<two>2</two>"), Text("<bad"), Xml("<bad/>"), Text("fünf <5>")]
OPEN = [Text("done"), Xml("<done/>"), Text("gate"), *[Xml(f"<gate>{n}</gate>") for n in range(3, 12)]]


def make(journal: Path) -> None:
    facts = Facts(journal)
    with open_client(app_spec(two_forms.bus), "two_forms", journal, 3, name="cli") as client:
        client.start("say", [Text("a"), Xml("<b/>")], buffer_id="gone", collect=False).wait(60)
        client.prune(time.time_ns() // 1_000_000 + 1_000)
        facts.until("SELECT count(*) = 0 FROM item")
        client.start("say", MIXED, buffer_id="mixed").wait(60)
        client.acknowledge(client.receive(60))
        client.start("tag", MIXED[:2], buffer_id="tagged").wait(60)  # its BufferComplete waits for `cli`
        client.send("say", Text("hello"))
        client.acknowledge(client.receive(60))
        client.send("say", Xml("<hello/>"))
        facts.until("SELECT count(*) FROM messages WHERE kind = 'said'")
        client.start("forwarding", [Xml("<gate/>"), Text("gate")], buffer_id="forwarded")
        facts.until("SELECT count(*) = 2 FROM items WHERE state = 'forwarded'")
        facts.until("SELECT count(*) FROM messages WHERE state = 'delivered'")
        client.start("say", OPEN, buffer_id="open")
        facts.until_recorded("open", 2)
        supervisor = client.supervisor_pid or 0
        facts.until("SELECT count(*) FROM in_flight WHERE buffer_id = 'open'")
        workers = workers_of(supervisor)
        kill(supervisor)
    for pid in workers:
        until_gone(pid)


def main() -> None:
    os.environ["GOLDEN_GATE"] = "shut"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "journal.db")
        with closing(sqlite3.connect(folder / "journal.db")) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute("VACUUM INTO ?", (str(folder / "small.db"),))
        data = (folder / "small.db").read_bytes()
    target = FOLDER / f"v{version}.forms.gz"
    target.write_bytes(gzip.compress(data, 9, mtime=0))
    sys.stderr.write(f"{target}: {target.stat().st_size:,} bytes of {len(data):,}\n")


if __name__ == "__main__":
    main()
