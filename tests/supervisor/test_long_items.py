"""Items and answers of a megabyte and more: whoever passes them on holds a few of them at a time."""

import subprocess
import sys
from pathlib import Path

import pytest
from services import Service
from support import environment

from durable_bus.journal.buffers import BufferTable
from durable_bus.journal.connection import TEXT_BYTES_MAX
from durable_bus.journal.journal import Journal

pytestmark = pytest.mark.real_start

MIB = 1024 * 1024
START_AND_READ = """
import resource, sys
from durable_bus.client.client import Client
journal, count, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Client(journal) as client:
    client.start("echo", ["short"] * 3000).wait(60)  # so fast that thousands are handed out at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items = (chr(97 + number % 26) * length for number in range(count))
    buffer = client.start("echo", items, buffer_id="long")
    buffer.wait(120)
    for number, result in enumerate(buffer.results()):
        assert result.success and result.payload == chr(97 + number % 26) * length
    assert number == count - 1
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
PEAK_OF_COMMAND = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "durable_bus", *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def printed_kib(source: str, *arguments: object) -> int:
    command = [sys.executable, "-c", source, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "length", "few_mib", "formats"),
    [(150, MIB, 48, ["jsonl", "csv", "xml"]), (60, 4 * MIB, 160, ["xml"])],
)
def test_long_items_behind_short_ones_are_passed_on_a_few_at_a_time(
    journal: Path, count: int, length: int, few_mib: int, formats: list[str]
) -> None:
    with Service(journal, verbose=False) as service:
        before_kib = service.memory_kib()
        client_kib = printed_kib(START_AND_READ, journal, count, length)
        assert client_kib < few_mib * 1024
        assert service.memory_kib("VmHWM") - before_kib < (few_mib + 64) * 1024
        for format_name in formats:
            results = ("results", "long", "--format", format_name, "--journal", journal)
            assert printed_kib(PEAK_OF_COMMAND, *results) < (2 * few_mib + 64) * 1024


def test_a_range_too_long_for_one_text_is_said_to_be_so(journal: Path) -> None:
    length = 8 * MIB - 1
    opened = Journal.open(journal)
    try:
        with opened.commit(1):
            opened.start_run(1, "app", "0")
            table: BufferTable = opened.buffers
            items = ["x" * length] * (TEXT_BYTES_MAX // length + 1)
            for number, item in enumerate(items):
                table._add_items(1, number, f"{item}\0".encode(), "0")
        assert table.batch(1, 0, len(items)) is None
        few = table.batch(1, 0, 2)
        assert few is not None
        assert few.count == 2
    finally:
        opened.close()
