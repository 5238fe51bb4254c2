"""All of it by keyboard: links and fields in order, the keys that the foot of each page names, the slider."""

import itertools

import pytest
from browser import FOCUSED, Browser
from everything import Everything
from support import Facts, until

PAGES = ["/", "/buffers", "/workers", "/messages", "/questions", "/time"]


def keys() -> type:
    from selenium.webdriver.common.keys import Keys

    return Keys


@pytest.mark.parametrize("path", [*PAGES, "/buffers/failing", "/buffers/passing/items/0"])
def test_tab_reaches_all_that_can_be_used_and_skips_to_the_content_first(browser: Browser, path: str) -> None:
    browser.open(path)
    wanted = browser.run(
        "const kinds = 'a[href], button, input, select, textarea, summary, pre';"
        "const all = [...document.querySelectorAll(kinds)];"
        "return all.filter(e => e.type !== 'hidden' && e.tabIndex >= 0 && e.checkVisibility()).length"
    )
    # After each press: what has the focus, and whether that is something that has not had it yet.
    browser.run(
        "const seen = new Set([document.body]);"
        "window.order = [];"
        "document.addEventListener('keyup', () => {"
        f"  {FOCUSED} order.push([name, !seen.has(e)]); seen.add(e)"
        "}, true)"
    )
    browser.press(keys().TAB * (wanted + 3))
    pressed = [(name, is_new) for name, is_new in browser.run("return order")]
    order = [name for name, _ in itertools.takewhile(lambda one: one[1], pressed)]
    assert order[0] == "A To the content"
    assert order[1] == "A Overview"
    assert len(order) >= wanted, (order, wanted)


def test_the_first_link_leads_to_the_content(browser: Browser) -> None:
    browser.open("/buffers")
    browser.press(keys().TAB + keys().ENTER)
    assert browser.focused == "MAIN main"
    assert browser.one(".skip").get_attribute("href").endswith("#main")


def test_what_has_the_focus_is_seen_to_have_it(browser: Browser) -> None:
    browser.open("/")
    for _ in range(8):
        browser.press(keys().TAB)
        style = browser.run(
            "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]"
        )
        assert style != ["none", "0px"], browser.focused


def test_digits_open_pages(browser: Browser) -> None:
    browser.open("/")
    for digit, path in [*enumerate(PAGES, 1)][::-1]:
        browser.leads_on(lambda digit=digit: browser.press(str(digit)))  # type: ignore[misc]
        assert browser.path == path
    browser.open("/buffers?at=30")
    browser.leads_on(lambda: browser.press("3"))
    assert browser.path == "/workers?at=30", "it keeps the moment"


def test_a_slash_leads_to_the_search(browser: Browser) -> None:
    for path, focused in (
        ("/buffers", "INPUT search"),
        ("/messages", "INPUT search"),
        ("/questions", "TEXTAREA sql"),
    ):
        browser.open(path)
        browser.press("/")
        assert browser.focused == focused
        browser.press("p1")
        assert browser.run("return document.activeElement.value") == "p1", "keys are letters in a field"
        assert browser.path == path
    browser.open("/")
    browser.leads_on(lambda: browser.press("/"))
    assert browser.path == "/buffers"


def test_brackets_go_a_commit_back_and_on(browser: Browser, rows: Facts) -> None:
    browser.open("/buffers/plain")
    newest = rows.value("SELECT max(commit_id) FROM journal_commit")
    browser.leads_on(lambda: browser.press("["))
    assert browser.path == f"/buffers/plain?at={newest - 1}"
    browser.leads_on(lambda: browser.press("["))
    assert browser.path == f"/buffers/plain?at={newest - 2}"
    browser.leads_on(lambda: browser.press("]"))
    assert browser.path == f"/buffers/plain?at={newest - 1}"


def test_the_slider_leads_to_a_commit_which_all_pages_show_until_one_goes_back(
    browser: Browser, alive: Everything, rows: Facts
) -> None:
    browser.open("/buffers?state=open")
    newest = int(browser.one("#slider input[type=range]").get_attribute("max"))
    browser.run("document.querySelector('#slider input[type=range]').focus()")
    browser.leads_on(lambda: browser.press(keys().ARROW_LEFT))
    assert browser.path == f"/buffers?state=open&at={newest - 1}"
    browser.run("document.querySelector('#slider input[type=range]').focus()")
    browser.leads_on(lambda: browser.press(keys().HOME))
    first = rows.value("SELECT min(commit_id) FROM journal_commit")
    assert browser.path == f"/buffers?state=open&at={first}"
    for link in browser.all("nav a"):
        assert link.get_attribute("href").endswith(f"?at={first}")
    for number in range(1, 7):
        browser.leads_on(lambda number=number: browser.press(str(number)))  # type: ignore[misc]
        assert browser.all(".time-bar.past")
    browser.open(f"/buffers?state=open&at={first}")
    browser.click("a", "Back to now")
    assert browser.path == "/buffers?state=open"
    assert browser.all(".time-bar.past") == []


def test_the_end_of_the_slider_is_now(browser: Browser, alive: Everything) -> None:
    browser.open("/workers?at=20")
    browser.run("document.querySelector('#slider input[type=range]').focus()")
    browser.leads_on(lambda: browser.press(keys().END))
    assert browser.path == "/workers"


def test_a_commit_is_typed(browser: Browser, alive: Everything) -> None:
    browser.open("/buffers?at=20")
    browser.run("document.getElementById('at').select()")
    browser.leads_on(lambda: browser.press("31" + keys().ENTER))
    assert browser.path == "/buffers?at=31"


def test_a_crash_is_a_mark_and_a_link(browser: Browser, rows: Facts) -> None:
    crash = rows.value("SELECT max(commit_id) FROM journal_commit WHERE run_id = 1")
    browser.open(f"/buffers/held?at={crash + 3}")
    assert len(browser.all(".strip line.crash")) == 1
    assert f"run 1 crashed after commit {crash}" in browser.text(".strip")
    browser.click("a", "Crash before")
    assert browser.path == f"/buffers/held?at={crash}"
    browser.says("in flight")
    browser.open("/")
    browser.click("a", "Last crash")
    assert browser.path == f"/?at={crash}"
    browser.open("/time")
    assert len(browser.all(".timeline line.crash")) == 1
    until(lambda: not browser.log(), "nothing is complained of")
