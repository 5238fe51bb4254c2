"""Terms, budgets and limits from the command line, with a supervisor that goes by them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Ran, durable_bus, write_items
from services import Service
from support import Facts

from durable_bus.cli.facts import journal_facts
from durable_bus.journal.reader import JournalReader


@pytest.fixture
def service(journal: Path) -> Iterator[Service]:
    with Service(journal, "apps.paced:bus", workers=1) as service:
        service.until_ready()
        yield service


def run(folder: Path, target: str, items: Path, *options: object) -> Ran:
    """`run`, of one worker."""
    command = ("run", "apps.paced:bus", target, "--items", items, "--buffer-id", "b", "--workers", 1)
    return durable_bus(*command, "--format", "jsonl", *options, cwd=folder)


# run


@pytest.mark.slow
def test_run_stops_when_its_budget_is_spent_and_the_same_command_goes_on(
    tmp_path: Path, facts: Facts
) -> None:
    items = write_items(tmp_path, *[1] * 40)
    for _ in range(40):
        ran = run(tmp_path, "pay", items, "--budget", "usd=15")
        if ran.code == 0:
            break
        assert (ran.code, ran.out) == (1, "")
        spent, granted, recorded = re.search(
            r"b: stopped: its budget is spent: (\d+) of (\d+) usd; (\d+) of 40 are recorded, the same command"
            r" grants as much again and goes on\n",
            ran.err,
        ).groups()  # type: ignore[union-attr]
        assert int(granted) % 15 == 0
        assert int(spent) >= int(granted)
        assert int(recorded) == facts.recorded("b") == int(spent)
    assert len(ran.out.splitlines()) == 40
    assert facts.value("SELECT sum(amount) FROM spending") == 40
    assert facts.value("SELECT count(*) FROM runs") >= 2


@pytest.mark.slow
def test_an_early_end_is_the_end_of_run_which_prints_it_again(tmp_path: Path, facts: Facts) -> None:
    items = write_items(tmp_path, *range(30_000))
    ran = run(tmp_path, "check", items, "--enough", 100)
    assert ran.code == 1
    (row,) = facts.dicts("SELECT * FROM buffers")
    assert (row["state"], row["ended_how"], row["failed"]) == ("complete", "enough", 0)
    total, succeeded = row["total"], row["successful"]
    assert succeeded >= 100
    how = f"ended: enough ({succeeded:,} succeeded), {total - succeeded:,} missing"
    summary = f"{total:,} items, 0 failed, {how}"
    assert f"b: {summary} (" in ran.err
    again = run(tmp_path, "check", items, "--enough", 100)
    assert (again.code, again.out) == (1, ran.out)
    assert f"b: {succeeded:,} of {total:,} items were recorded before; nothing is run\n" in again.err
    assert again.err.endswith(f"b: {summary}\n")
    assert facts.value("SELECT count(*) FROM runs") == 1
    other = run(tmp_path, "check", write_items(tmp_path, *range(1, 30_001)), "--enough", 100)
    assert other.code == 2
    assert "with other items" in other.error


@pytest.mark.slow
def test_terms_of_run_are_those_of_its_first_start(tmp_path: Path, facts: Facts) -> None:
    items = write_items(tmp_path, "x")
    ran = run(tmp_path, "check", items, "--priority", -3, "--deadline", 3600, "--not-before", "2020-01-01")
    assert ran.code == 0
    assert run(tmp_path, "check", items, "--priority", 5).code == 0
    (row,) = facts.dicts("SELECT * FROM buffers")
    assert (row["priority"], row["ended_how"]) == (-3, "all")
    assert row["not_before"].startswith("20")
    assert row["deadline"] > row["created_at"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--priority", "11"), "--priority"),
        (("--not-before", "soon"), "'soon' is no time such as 2027-01-31T03:00 or +2h"),
        (("--not-before", "99999999d"), "not_before="),
        (("--deadline", "0"), "deadline=0.0 is not a number of seconds above 0"),
        (("--deadline", "inf"), "deadline=inf"),
        (("--enough", "0"), "--enough"),
        (("--budget", "5"), "'5' is no UNIT=AMOUNT such as usd=5"),
        (("--budget", "usd=x"), "'usd=x' is no UNIT=AMOUNT"),
        (("--budget", "usd=-1"), "budget: -1.0 usd is no number above 0"),
        (("--budget", "us-d=1"), "budget: 'us-d' is no unit"),
        (("--budget", "usd=1", "--budget", "usd=2"), "a unit is given twice"),
    ],
)
def test_terms_that_cannot_be_are_refused_before_anything_is_done(
    tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    items = write_items(tmp_path, "x")
    for command in (("run", "apps.paced:bus", "check"), ("submit", "check")):
        ran = durable_bus(*command, "--items", items, *options, cwd=tmp_path)
        assert (ran.code, ran.out) == (2, "")
        assert why in ran.error
    assert not (tmp_path / "journal.db").exists()


# submit, resume


@pytest.mark.slow
@pytest.mark.parametrize("stream", [(), ("--stream",)])
def test_submit_says_the_terms(service: Service, tmp_path: Path, facts: Facts, stream: tuple[str]) -> None:
    items = write_items(tmp_path, *["bad"] * 50, *["good"] * 50)
    command = ("submit", "check", "--items", items, "--buffer-id", "b", "--max-failures", 3, "--priority", 7)
    ran = durable_bus(*command, *stream, "--wait", cwd=tmp_path)
    assert (ran.code, ran.out) == (1, "b\n")
    assert ", ended: max_failures (" in ran.err
    (row,) = facts.dicts("SELECT * FROM buffers")
    assert (row["priority"], row["ended_how"], row["state"]) == (7, "max_failures", "complete")
    again = durable_bus(*command, *stream, "--wait", cwd=tmp_path)
    assert (again.code, again.out) == (1, "b\n")


@pytest.mark.slow
def test_a_buffer_that_is_to_begin_later_says_so(service: Service, tmp_path: Path) -> None:
    items = write_items(tmp_path, "x")
    command = ("submit", "check", "--items", items, "--buffer-id", "b")
    assert durable_bus(*command, "--not-before", "+2h", cwd=tmp_path).code == 0
    why = json.loads(durable_bus("status", "b", "--json", cwd=tmp_path).out)["waits_for"]
    assert re.fullmatch(r"not before .*\d\d:\d\d:\d\d \(in 1 h 59 min\)|.* \(in 2 h 0 min\)", why)
    with service.client() as client:
        client.cancel("b")


@pytest.mark.slow
def test_resume_grants_what_it_is_told_or_as_much_again(
    service: Service, tmp_path: Path, facts: Facts
) -> None:
    items = write_items(tmp_path, *[1] * 30)
    command = ("submit", "pay", "--items", items, "--buffer-id", "b", "--budget", "usd=5")
    assert durable_bus(*command, cwd=tmp_path).code == 0
    facts.until("SELECT paused_why = 'budget' FROM buffers")
    status = json.loads(durable_bus("status", "b", "--json", cwd=tmp_path).out)
    spent = facts.value("SELECT sum(amount) FROM spending")
    assert status["waits_for"] == f"its budget is spent: {spent:.0f} of 5 usd"
    assert durable_bus("resume", "b", "--budget", "usd=1000", cwd=tmp_path).out == "open\n"
    facts.until("SELECT state = 'complete' FROM buffers")
    (row,) = json.loads(durable_bus("status", "b", "--json", cwd=tmp_path).out)["budget"]
    assert (row["amount"], row["spent"], row["unit"]) == (1005.0, 30.0, "usd")


# limit, status


def test_limit_changes_a_limit_of_a_daemon_until_it_is_reset(service: Service, tmp_path: Path) -> None:
    def limit(*arguments: str) -> Ran:
        return durable_bus("limit", *arguments, cwd=tmp_path)

    assert limit("service", "--rate", "5/min").out == "service: 5/min, 40 at once, set by hand\n"
    assert limit("service", "--running", "3").out == "service: 5/min, 3 at once, set by hand\n"
    assert "service: 5/min, 0 in hand of 3, set by hand\n" in limit().out
    assert (
        "limit       service: 5/min, 0 in hand of 3, set by hand\n" in durable_bus("status", cwd=tmp_path).out
    )
    assert json.loads(limit("service", "--reset", "--json").out) == {
        "name": "service",
        "rate": "1000/s",
        "running": 40,
        "by_hand": False,
    }
    assert limit("service").out == "service: 1000/s, 0 in hand of 40\n"
    unknown = limit("nobody", "--reset")
    assert unknown.code == 2
    assert "nobody" in unknown.error
    with service.client() as client:
        assert client.set_limit("service", running=7) == ("service", "1000/s", 7, True)
        assert client.limits()["service"].running == 7
        assert client.set_limit("service", reset=True).by_hand is False


@pytest.mark.slow
def test_status_says_for_which_limit_a_buffer_waits(service: Service, tmp_path: Path, facts: Facts) -> None:
    with service.client() as client:
        client.start("seldom", ["a", "b", "c"], buffer_id="slow")
        facts.until_recorded("slow", 1)
        client.start("serve", ["later"], buffer_id="resting")
        facts.until("SELECT rests_until IS NOT NULL FROM limits WHERE name = 'service'")
        with JournalReader(service.journal) as reader:
            waits = {row["buffer_id"]: row["waits_for"] for row in journal_facts(reader)["open"]}
        assert re.fullmatch(r"waits for limit seldom, 2[34] h \d+ min", waits["slow"])
        assert re.fullmatch(r"waits for limit service, (1 h 0|59) min.*", waits["resting"])
        for buffer_id in waits:
            client.cancel(buffer_id)
