"""The agents: the same answer, once, whatever is killed when."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from daemons import Succession, client_of
from support import Facts, environment

from durable_bus import Client, Xml
from durable_bus.errors import TimedOut
from durable_bus.examples import agents

APP = "durable_bus.examples.agents:bus"


def expected() -> str:
    """The answer, worked out without any bus."""
    blocks = []
    for question in agents.QUESTIONS.question:
        sentences: dict[str, str] = {}
        for passage in agents.find(question):
            sentences[agents.best_sentence(passage)] = passage.topic
        lines = [question, *(f"  - {sentence} [{topic}]" for sentence, topic in sentences.items())]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def assert_answered_once(facts: Facts, answer: str) -> None:
    """In the journal too: one answer, one completion each, nothing left over."""
    assert facts.rows("SELECT payload FROM messages WHERE to_id = 'cli'") == [(answer,)]
    assert facts.rows("SELECT state, count(*) FROM buffers GROUP BY state") == [("complete", 4)]
    totals = facts.rows("SELECT target, count(*), sum(total), sum(successful) FROM buffers GROUP BY target")
    assert totals == [("search", 1, 3, 3), ("summarise", 3, 12, 12)]
    assert facts.value("SELECT count(*) FROM messages WHERE kind = 'BufferComplete'") == 4
    assert facts.value("SELECT count(*) FROM results") == 15
    assert facts.rows("SELECT * FROM messages WHERE state <> 'settled'") == []
    assert facts.rows("SELECT * FROM in_flight") == []


@pytest.mark.slow
def test_the_program_prints_the_answer(journal: Path, facts: Facts) -> None:
    command = [sys.executable, "-m", "durable_bus.examples.agents", str(journal)]
    ended = subprocess.run(
        command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, expected() + "\n"), ended.stderr
    assert_answered_once(facts, expected())


def test_each_question_finds_passages_that_hold_its_words() -> None:
    for question in agents.QUESTIONS.question:
        passages = agents.find(question)
        assert len(passages) == agents.PASSAGES_PER_QUESTION
        for passage in passages:
            assert len(agents.words(question) & agents.words(passage.text)) >= 2
            assert passage.text in agents.paragraphs()


def ask(client: Client) -> str:
    """What the example does with its client; then there must be nothing more for it."""
    client.send("planner", agents.QUESTIONS)
    answer = client.receive(timeout=60)
    client.acknowledge(answer)
    with pytest.raises(TimedOut):
        client.receive(timeout=0)
    return answer.payload


def answer_despite(journal: Path, deaths: list[int], when: str) -> tuple[str, int]:
    """The answer, and how many daemons were killed before the client had it."""
    with Succession(journal, APP, deaths, when) as daemons:
        with closing(client_of(journal, "cli")) as client:
            answer = ask(client)
        return answer, daemons.killed


@pytest.mark.slow
def test_plain_words_are_a_question_too(journal: Path, facts: Facts) -> None:
    """As `send --help` has it. Words that no passage holds are answered, as well."""
    question = "How does the with statement use a context manager?"
    with agents.bus.running(journal=journal, workers=1, name="cli") as client:
        for text, answer in (
            (question, expected().partition("\n\n")[0]),
            ("What is new?", "What is new?\n  - nothing found"),
        ):
            client.send("planner", text)
            message = client.receive(timeout=60)
            client.acknowledge(message)
            assert message.payload == answer
    assert facts.rows("SELECT * FROM messages WHERE kind = 'BufferError' OR state <> 'settled'") == []


@pytest.mark.slow
def test_the_planner_says_why_nothing_could_be_searched(journal: Path, facts: Facts) -> None:
    with agents.bus.running(journal=journal, workers=1, name="cli") as client:
        error = Xml("<BufferError><buffer_id>unknown</buffer_id><error>no room on disk</error></BufferError>")
        client.send("planner", error)
        message = client.receive(timeout=60)
        client.acknowledge(message)
    assert message.payload == "The questions could not be searched: no room on disk"
    assert facts.rows("SELECT buffer_id FROM buffers") == []


@pytest.mark.slow
def test_daemons_that_die_one_commit_later_each_time_give_the_same_answer_once(
    journal: Path, facts: Facts
) -> None:
    """All on one journal, so that recovery is itself interrupted; the last one is left alone."""
    answer, killed = answer_despite(journal, [1, 2, 4, 7, 9, 11], "before")
    assert answer == expected()
    assert killed >= 4
    assert_answered_once(facts, expected())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_daemon_killed_at_any_commit_gives_the_same_answer_once(tmp_path: Path, when: str) -> None:
    """At its first commit, then, on another journal, at its third, until it has answered before.

    Killed before an odd commit it leaves what an even number of commits wrote, killed after it what an odd
    number wrote: so each state of the journal is recovered from once.
    """
    for die_at in range(1, 1000, 2):
        folder = tmp_path / str(die_at)
        folder.mkdir()
        answer, killed = answer_despite(folder / "journal.db", [die_at], when)
        assert answer == expected(), f"killed {when} commit {die_at}"
        assert_answered_once(Facts(folder / "journal.db"), expected())
        if not killed:
            break
    assert die_at > 10
