"""Limits, budgets and terms, as `status`, `top` and `limit` show them: from the journal alone."""

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import durable_bus
from golden_journal import golden_journal
from paced_journal import Paced, served
from support import now_ms


@pytest.fixture
def paced(journal: Path) -> Iterator[Paced]:
    with served(journal) as paced:
        yield paced


def told(journal: Path, *arguments: str) -> dict[str, Any]:
    ran = durable_bus(*arguments, "--json", cwd=journal.parent)
    assert (ran.code, ran.err) == (0, "")
    facts = json.loads(ran.out)
    assert isinstance(facts, dict)
    return facts


def says(journal: Path, *arguments: str, **variables: str) -> str:
    ran = durable_bus(*arguments, cwd=journal.parent, **variables)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def waits_for(journal: Path, buffer_id: str = "b") -> str | None:
    why = told(journal, "status", buffer_id)["waits_for"]
    (row,) = [row for row in told(journal, "status")["open"] if row["buffer_id"] == buffer_id]
    assert row["waits_for"] is None if why is None else row["waits_for"][:20] == why[:20]
    assert why is None or isinstance(why, str)
    return why


# Why nothing runs


def test_a_limit_that_rests_is_what_a_buffer_waits_for(journal: Path, paced: Paced) -> None:
    paced.buffer("b")
    paced.limit("openai", rests_until=now_ms() + 3_600_000)
    paced.limit("other", rests_until=now_ms() + 7_200_000)
    assert re.fullmatch(r"waits for limit openai, (1 h 0 min|59 min \d+ s)", waits_for(journal) or "")
    assert re.search(
        r"  b to work: open, 0 of 10, waits for limit openai, (1 h|59 min)", says(journal, "status")
    )


def test_a_buffer_whose_every_item_is_in_hand_waits_for_no_limit(journal: Path, paced: Paced) -> None:
    seq = paced.buffer("b")
    paced.limit("openai", in_hand=10, running=10)
    assert waits_for(journal) == "waits for limit openai, as many are in hand as may be: 10"
    paced.hand_out(seq, 9)
    assert waits_for(journal) == "waits for limit openai, as many are in hand as may be: 10"
    paced.execute("DELETE FROM dispatch")
    paced.hand_out(seq, 10)
    assert waits_for(journal) is None


def test_of_an_adaptive_limit_as_many_as_it_allows_now_may_be_in_hand(journal: Path, paced: Paced) -> None:
    paced.buffer("b")
    paced.limit("openai", in_hand=3, adaptive=1, allowed=3.9)
    assert waits_for(journal) == "waits for limit openai, as many are in hand as may be: 3"
    paced.limit("openai", in_hand=3, adaptive=1, allowed=4.0)
    assert waits_for(journal) is None


def test_the_time_until_the_next_start_comes_from_rate_and_tokens(journal: Path, paced: Paced) -> None:
    paced.buffer("b")
    paced.limit("openai", rate="1/day", tokens=0.0)
    assert re.fullmatch(r"waits for limit openai, (24 h 0|23 h 59) min", waits_for(journal) or "")
    paced.limit("openai", rate="1/day", tokens=1.0, not_begun=1, in_hand=1)
    assert re.fullmatch(r"waits for limit openai, (24 h 0|23 h 59) min", waits_for(journal) or "")
    paced.limit("openai", rate="1/day", tokens=0.0, tokens_at=now_ms() - 86_400_000)
    assert waits_for(journal) is None


def test_a_limit_that_the_app_does_not_have_any_more_is_not_shown(journal: Path, paced: Paced) -> None:
    paced.buffer("b")
    paced.limit("openai", declared=0, rests_until=now_ms() + 3_600_000)
    assert waits_for(journal) is None
    assert told(journal, "status")["limits"] == []
    assert "limit" not in says(journal, "status")


def test_a_spent_budget_is_what_a_buffer_waits_for(journal: Path, paced: Paced) -> None:
    seq = paced.buffer("b")
    paced.budget(seq, "usd", 5)
    paced.budget(seq, "tokens", 1_000_000)
    nested = paced.buffer("nested", budget_of=seq)
    paced.spend(seq, 0, "usd", 4.02)
    paced.spend(nested, 1, "usd", 1.0, listener="other")
    paced.spend(seq, 0, "tokens", 812)
    assert waits_for(journal) is None
    paced.pause(seq, "budget")
    assert waits_for(journal) == "its budget is spent: 5.02 of 5 usd"
    text = says(journal, "status", "b")
    assert re.search(r"^budget +5\.02 of 5 usd spent$", text, re.MULTILINE)
    assert re.search(r"^budget +812 of 1,000,000 tokens spent$", text, re.MULTILINE)
    assert re.search(r"^spent +4\.02 usd, by work$", text, re.MULTILINE)
    line = "  b to work: paused, 0 of 10, waits: its budget is spent: 5.02 of 5 usd\n"
    assert line in says(journal, "status")


def test_a_buffer_that_somebody_has_paused_has_not_spent_its_budget(journal: Path, paced: Paced) -> None:
    seq = paced.buffer("b")
    paced.budget(seq, "usd", 5)
    paced.pause(seq, "asked")
    assert waits_for(journal) == "it is paused"


def test_a_buffer_that_is_to_start_later_says_when(journal: Path, paced: Paced) -> None:
    at = datetime.now().astimezone().replace(microsecond=0) + timedelta(days=2, hours=1)
    paced.buffer("b", not_before=round(at.timestamp() * 1000))
    paced.buffer("began", not_before=now_ms() - 1)
    why = waits_for(journal) or ""
    assert why.startswith(f"not before {at:%Y-%m-%d %H:%M:%S} (in 4")
    assert waits_for(journal, "began") is None


# status, top


def test_status_and_top_show_every_limit(journal: Path, paced: Paced) -> None:
    paced.limit("openai", in_hand=37, by_hand=1, rate="100/min", rests_until=now_ms() + 3_600_000)
    paced.limit("disk", rate=None, running=8, adaptive=1, allowed=4.5, in_hand=4)
    paced.limit("often", running=None)
    disk, often, openai = told(journal, "status")["limits"]
    assert (disk["name"], disk["rate"], disk["running"], disk["allowed"], disk["in_hand"]) == (
        "disk", None, 8, 4, 4,
    )  # fmt: skip
    assert (disk["adaptive"], disk["by_hand"], disk["rests_s"]) == (True, False, 0.0)
    assert (openai["rate"], openai["app_rate"], openai["by_hand"]) == ("100/min", "500/min", True)
    assert 3_500 < openai["rests_s"] <= 3_600
    assert often["allowed"] is None
    text = says(journal, "status")
    assert "limit       disk: any rate, 4 in hand of 8, 4 now\n" in text
    assert "limit       often: 500/min, 0 in hand\n" in text
    shown = r"^limit +openai: 100/min, 37 in hand of 40, rests (1 h 0 min|59 min \d+ s), set by hand$"
    assert re.search(shown, text, re.MULTILINE)
    top = says(journal, "top", COLUMNS="120")
    assert re.search(r"^openai +100/min +37 in hand of 40 +(1 h|59 min).* by hand *$", top, re.MULTILINE)
    assert re.search(r"^disk +any +4 in hand of 8, 4 now *$", top, re.MULTILINE)


def test_a_journal_of_an_older_version_has_no_limits(journal: Path) -> None:
    golden_journal(journal, 3)
    before = journal.read_bytes()
    assert told(journal, "status")["limits"] == []
    assert told(journal, "status", "halted")["budget"] == []
    assert says(journal, "limit") == "no limits\n"
    assert journal.read_bytes() == before


# limit


def test_limit_shows_all_or_one(journal: Path, paced: Paced) -> None:
    assert says(journal, "limit") == "no limits\n"
    paced.limit("openai", in_hand=1)
    paced.limit("disk", rate=None)
    assert says(journal, "limit") == "disk: any rate, 0 in hand of 40\nopenai: 500/min, 1 in hand of 40\n"
    assert says(journal, "limit", "disk") == "disk: any rate, 0 in hand of 40\n"
    assert told(journal, "limit", "openai")["in_hand"] == 1
    assert [limit["name"] for limit in told(journal, "limit")["limits"]] == ["disk", "openai"]
    ran = durable_bus("limit", "none", cwd=journal.parent)
    assert (ran.code, ran.out) == (3, "")
    assert ran.error.startswith("no limit 'none' in ")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("openai", "--rate", "often"), 2, "rate 'often' is not written as"),
        (("openai", "--rate", "0/s"), 2, "is not from one a year"),
        (("openai", "--running", "0"), 2, "--running"),
        (("--rate", "1/s"), 2, "which limit?"),
        (("openai", "--reset", "--running", "3"), 2, "reset goes by what the app says"),
        (("openai", "--reset"), 5, "durable-bus serve APP"),
    ],
)
def test_a_change_needs_a_limit_a_rate_and_a_daemon(
    journal: Path, arguments: tuple[str, ...], code: int, why: str
) -> None:
    with served(journal) as paced:
        paced.limit("openai")
    ran = durable_bus("limit", *arguments, cwd=journal.parent)
    assert (ran.code, ran.out) == (code, "")
    assert why in ran.error
