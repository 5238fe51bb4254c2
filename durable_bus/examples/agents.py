"""Agents on one bus answer questions about Python, from the language reference that every Python carries.

    python -m durable_bus.examples.agents [JOURNAL]

::

    cli ──Questions──▶ planner ──one question each──▶ search ──one passage each──▶ summarise
     ▲                  │    ▲                          ▲                              │
     └──────answer──────┘    └──BufferComplete── collate ◀──────BufferComplete─────────┘

*planner* fans the questions out to *search*. *search*, handling one question, finds passages and fans them
out again to *summarise*: a buffer inside an item of a buffer. Their findings come back to *collate*, whose
answer is what that question's item was waiting for. When all three are there, planner gets them and answers
the client.

No agent waits for another, so none of them holds a worker meanwhile, and whatever is killed, the next start
goes on from the last answer that was recorded.
"""

import re
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

from lxml import etree

from durable_bus import BufferComplete, BufferStart, Bus, HandlerMetadata, HandlerResponse, Text

bus = Bus("agents")

PASSAGES_PER_QUESTION = 4


@dataclass(frozen=True)
class Questions:
    """What planner is asked."""

    question: list[str]


@dataclass(frozen=True)
class Passage:
    """A paragraph of a topic that may answer a question."""

    question: str
    topic: str
    text: str


@dataclass(frozen=True)
class Finding:
    """The one sentence of a passage that says most about the question."""

    question: str
    topic: str
    sentence: str


QUESTIONS = Questions(
    [
        "How does the with statement use a context manager?",
        "When is the finally clause of a try statement executed?",
        "What does a yield expression do in a generator function?",
    ]
)


@bus.listener("planner", peers=["search", "system.buffer"])
def planner(payload: etree._Element, metadata: HandlerMetadata) -> HandlerResponse | Text:
    """Asked, in elements or in plain words, it fans out; told what came of it, it answers."""
    if payload.tag == "BufferComplete":
        return Text("\n\n".join(result.payload for result in metadata.results()))
    if payload.tag == "BufferError":
        return Text(f"The questions could not be searched: {payload.findtext('error')}")
    questions = [question.text or "" for question in payload.iter("question")] or [payload.text or ""]
    return HandlerResponse(BufferStart("search", questions), to="system.buffer")


@bus.listener("search", peers=["summarise", "collate", "system.buffer"])
def search(question: str) -> HandlerResponse | Text:
    """Find the passages for one question, and have each of them read by somebody else."""
    passages = find(question)
    if not passages:
        return Text(f"{question}\n  - nothing found")
    start = BufferStart("summarise", list(passages), return_to="collate")
    return HandlerResponse(start, to="system.buffer")


@bus.listener("summarise")
def summarise(passage: Passage) -> Finding:
    """Read one passage."""
    return Finding(passage.question, passage.topic, best_sentence(passage))


@bus.listener("collate")
def collate(complete: BufferComplete, metadata: HandlerMetadata) -> Text:
    """Put the findings for one question together, best passage first."""
    findings = [etree.fromstring(result.payload) for result in metadata.results() if result.success]
    lines = [finding.findtext("question", "") for finding in findings[:1]]
    sentences = {finding.findtext("sentence", ""): finding.findtext("topic", "") for finding in findings}
    lines += [f"  - {sentence} [{topic}]" for sentence, topic in sentences.items()]
    return Text("\n".join(lines))


def find(question: str) -> list[Passage]:
    """The passages that hold most of the question's words, best first; of equal ones the shorter."""
    wanted = words(question)
    scored = [(-len(wanted & words(text)), len(text), topic, text) for text, topic in paragraphs().items()]
    best = sorted(entry for entry in scored if entry[0] <= -2)[:PASSAGES_PER_QUESTION]
    return [Passage(question, topic, text) for _, _, topic, text in best]


def best_sentence(passage: Passage) -> str:
    """The sentence that holds most of the question's words; of equal ones the first."""
    wanted = words(passage.question)
    sentences = re.split(r"(?<=[.!?])\s+", passage.text)
    return max(sentences, key=lambda sentence: len(wanted & words(sentence)))


@cache
def paragraphs() -> dict[str, str]:
    """Every paragraph of prose, with the first topic it stands in. Some stand in several."""
    found: dict[str, str] = {}
    for topic in sorted(topics):
        for block in topics[topic].split("\n\n"):
            text = " ".join(block.split())
            if text.endswith(".") and "::=" not in text:
                found.setdefault(text, topic)
    return found


def words(text: str) -> frozenset[str]:
    """The words of a text that mean something."""
    return frozenset(re.findall(r"[a-z]{3,}", text.lower())) - _COMMON_WORDS


_COMMON_WORDS = frozenset({"and", "are", "does", "for", "how", "the", "that", "this", "what", "when", "with"})


def main(journal: Path) -> None:
    """Ask, wait for the answer, print it."""
    with bus.running(journal=journal, workers=2, name="cli") as client:
        client.send("planner", QUESTIONS)
        answer = client.receive(timeout=60)
        print(answer.payload, flush=True)
        client.acknowledge(answer)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "journal.db")
