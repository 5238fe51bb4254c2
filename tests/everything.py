"""A journal with everything in it that the console shows, and copies of it as it was on the way.

Made once by a real daemon, which is killed once. Each copy is one consistent file, of a commit that
its name says.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemons import Daemon, client_of
from support import Facts, now_ms

from durable_bus import Client, Json, Text, Xml
from durable_bus.journal.admin.backup import back_up

APP = "apps.everything:bus"
LONG_ID = f"{'a-long.id_' * 9}of-100.chr"
HELD = 6


@dataclass
class Everything:
    """`copies`: by commit, in the order that they were made. `opened`, `never`: files that items wait for."""

    journal: Path
    folder: Path
    copies: dict[int, Path] = field(default_factory=dict)

    @property
    def facts(self) -> Facts:
        return Facts(self.journal)

    @property
    def opened(self) -> Path:
        return self.folder / "opened"

    @property
    def never(self) -> Path:
        return self.folder / "never"

    def moved_to(self, folder: Path) -> "Everything":
        """The same, when its files have been copied to this folder."""
        copies = {commit: folder / path.name for commit, path in self.copies.items()}
        return Everything(folder / self.journal.name, folder, copies)

    def copy(self) -> None:
        """As it is now, also while the daemon goes on."""
        made = self.folder / "copy.db"
        back_up(self.journal, made)
        commit = Facts(made).value("SELECT max(commit_id) FROM journal_commit")
        if commit in self.copies:
            made.unlink()
        else:
            self.copies[commit] = made.rename(self.folder / f"at-{commit}.db")


def texts(*lines: str) -> list[Text]:
    return [Text(line) for line in lines]


def make(folder: Path) -> Everything:
    with served(folder) as story:
        pass
    story.copy()
    return story


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Everything]:
    """The same while its daemon goes on: it serves what is left."""
    story = Everything(folder / "everything.db", folder)
    with Daemon(story.journal, APP, workers=2) as daemon:
        with client_of(story.journal) as client, client_of(story.journal, "person"):
            _before_the_crash(story, client)
        daemon.kill()
    story.copy()
    with Daemon(story.journal, APP, workers=2):
        with client_of(story.journal) as client, client_of(story.journal, "person") as person:
            _after_the_crash(story, client, person)
        yield story


def _before_the_crash(story: Everything, client: Client) -> None:
    facts = story.facts
    client.start("work", texts("fine", "bad 0", "pass old"), buffer_id="old").wait(60)
    story.copy()
    client.prune(now_ms() + 1)
    story.copy()
    client.start("work", texts(*[f"fine {n}" for n in range(10)]), buffer_id="plain").wait(60)
    client.start("work", texts("flaky", "bad 1", "bad 22", "fine", "bad 333"), buffer_id="failing").wait(60)
    client.start("work", texts("fine", "die", "fine"), buffer_id="deadly").wait(60)
    story.copy()
    client.start("work", texts("pass one", "pass two", "fine"), buffer_id="passing").wait(60)
    items = [Json({"a": 1}), Text("say <tag>&amp;</tag>"), Xml("<order n='1'/>"), Text("")]
    client.start("work", items, buffer_id="forms").wait(60)
    story.copy()
    client.start("person-asks", texts("what is one?", "what is two?"), buffer_id="questions")
    facts.until("SELECT count(*) = 2 FROM messages WHERE to_id = 'person' AND state = 'waiting'")
    story.copy()
    with contextlib.suppress(KeyError), client.stream("work", buffer_id="stream") as stream:
        for number in range(5):
            stream.put(Text(f"streamed {number}"))
        stream.flush()
        facts.until_recorded("stream", 3)
        story.copy()
        stream.put(Text("bad streamed"))
        stream.flush()
        raise KeyError("who leaves like this does not seal it")
    facts.until_recorded("stream", 6)
    story.copy()
    client.start("work", texts(*[f"gate {story.opened}"] * HELD, "fine"), buffer_id="held")
    facts.until("SELECT count(*) >= 2 FROM in_flight WHERE buffer_id = 'held'")
    story.copy()


def _after_the_crash(story: Everything, client: Client, person: Client) -> None:
    facts = story.facts
    facts.until("SELECT count(*) >= 2 FROM in_flight WHERE buffer_id = 'held' AND run_id = 2")
    story.copy()
    client.pause("held")
    story.copy()
    story.opened.touch()
    client.resume("held")
    client.buffer("held").wait(60)
    client.start("work", texts("fine", *[f"gate {story.never}"] * 5), buffer_id="stopped")
    facts.until_recorded("stopped", 1)
    story.copy()
    client.cancel("stopped")
    story.never.touch()
    story.copy()
    message = person.receive(timeout=60)
    story.copy()
    person.respond(message, Text("one is one"))
    facts.until_recorded("questions", 1)
    client.set_limit("api", rate="7200/min", running=2)
    story.copy()
    client.retry("failing").wait(60)
    client.start("remembered", texts("a", "b"), buffer_id="first").wait(60)
    client.start("remembered", texts("a", "c", "a"), buffer_id="again").wait(60)
    client.start("work", texts(*["fine"] * 40), buffer_id="early", enough=2).wait(60)
    client.start("work", texts(*["bad x"] * 40), buffer_id="too-many", max_failures=1).wait(60)
    client.start("Odd.name_-9", texts("odd"), buffer_id=LONG_ID, priority=3).wait(60)
    story.copy()
    story.never.unlink()
    client.start("work", texts(*[f"gate {story.never}"] * 8), buffer_id="paused")
    facts.until("SELECT count(*) >= 2 FROM in_flight WHERE buffer_id = 'paused'")
    client.pause("paused")
    story.copy()
    story.never.touch()
    facts.until("SELECT count(*) = 0 FROM in_flight WHERE buffer_id = 'paused'")
