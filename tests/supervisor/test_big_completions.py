"""A BufferComplete with many results: inline where it fits, else streamed, and never in the supervisor."""

import hashlib
import re
from pathlib import Path

import pytest
from apps import collecting
from apps.collecting import answer
from support import Facts, until

from durable_bus import Client
from durable_bus.payloads.results_document import results_document

MIB = 1024 * 1024


def delivered(client: Client, buffer_id: str, count: int, length: int) -> list[str]:
    """What the listener told of the completion of a buffer of `count` answers of `length`."""
    items = (f"{number} {length}" for number in range(count))
    client.start("fill", items, buffer_id=buffer_id, return_to="digest").wait(300)
    facts = Facts(client.journal)
    facts.until("SELECT state = 'settled' FROM messages WHERE message_id = ?", f"{buffer_id}/complete")
    told = facts.value("SELECT payload FROM messages WHERE from_id = 'digest'")
    return str(told).split()


def digest_of(count: int, length: int) -> str:
    streamed = hashlib.sha256()
    for number in range(count):
        streamed.update(f"{number} True {answer(number, length)}\n".encode())
    return streamed.hexdigest()


def test_a_thousand_results_are_inline_and_can_be_streamed_too(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INLINE", str(tmp_path / "inline.xml"))
    with collecting.bus.running(journal=journal, workers=2) as client:
        told = delivered(client, "b1", 1_000, 20)
        results = client.buffer("b1").results()
        document = "".join(results_document(results, 1_000))
    inline = (tmp_path / "inline.xml").read_text()
    assert told == ["b1", "1000", "1000", str(len(inline)), "1000", digest_of(1_000, 20)]
    assert inline == document, "a handler and a client are given the same document"
    assert re.findall(r'index="(\d+)"', inline) == [str(index) for index in range(1_000)]


@pytest.mark.slow
@pytest.mark.parametrize(("length", "inline"), [(4_000, True), (4_200, False)])
def test_a_document_above_4_mib_is_streamed_only(journal: Path, length: int, inline: bool) -> None:
    with collecting.bus.running(journal=journal, workers=2) as client:
        told = delivered(client, "b1", 1_000, length)
    assert (int(told[3]) > 0) == inline
    assert told[4:] == ["1000", digest_of(1_000, length)]


@pytest.mark.real_start
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_completion_of_200000_results_leaves_the_supervisors_memory_flat(journal: Path) -> None:
    """It grows with what is in hand, and that is the same with nobody to tell; the document has 27 MB."""
    count, length = 200_000, 80
    with collecting.bus.running(journal=journal, workers=2) as client:
        until(
            lambda: [one["state"] for one in client.supervisor_status()["workers"]] == ["ready"] * 2,
            "two workers",
        )
        for buffer_id in ("nobody", "nobody_again"):  # SQLite's cache is full in the middle of the second
            client.start("fill", (f"{n} {length}" for n in range(count)), buffer_id=buffer_id).wait(300)
        before = memory_bytes_max(client)
        told = delivered(client, "told", count, length)
        after = memory_bytes_max(client)
    assert told == ["told", str(count), str(count), "0", str(count), digest_of(count, length)]
    assert after - before < 4 * MIB
    assert after < 150 * MIB


def memory_bytes_max(client: Client) -> int:
    """The most that the supervisor has ever had in memory."""
    status = Path(f"/proc/{client.supervisor_pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024
