"""Every page, as a browser has it: nothing is complained of, and everybody can use it."""

import pytest
from browser import Browser, violations

NARROW = 360
BRIGHT = 200
"""Of a colour's 255; what is dark has less than a fourth of it."""


def test_no_page_makes_the_browser_complain(browser: Browser, addresses: list[str]) -> None:
    for address in addresses:
        browser.open(address)
        log = [line for line in browser.log() if not (address == "/nothing" and "404" in line)]
        assert log == [], address
        assert browser.run("return typeof htmx") == ("undefined" if address == "/nothing" else "object")


def test_no_page_scrolls_sideways_on_a_small_screen(browser: Browser, addresses: list[str]) -> None:
    browser.wide(NARROW, 740)
    too_wide = []
    for address in addresses:
        browser.open(address)
        width = browser.run("return document.scrollingElement.scrollWidth")
        if width > NARROW:
            widest = browser.run(
                "return [...document.querySelectorAll('body *')]"
                ".filter(e => e.getBoundingClientRect().right > window.innerWidth)"
                ".filter(e => !e.closest('.scroll')).slice(0, 3).map(e => e.outerHTML.slice(0, 120))"
            )
            too_wide.append((address, width, widest))
    assert too_wide == []


def test_pages_are_dark_for_who_likes_that(browser: Browser, addresses: list[str]) -> None:
    for is_dark in (True, False):
        browser.dark(is_dark)
        for address in ("/", "/nothing", "/buffers/held"):
            browser.open(address)
            colours = browser.run(
                "const style = getComputedStyle(document.documentElement);"
                "return [style.backgroundColor, style.color]"
            )
            ground, text = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in colours)
            assert (ground < BRIGHT / 4, text > BRIGHT) == (is_dark, is_dark), colours


@pytest.mark.parametrize("is_dark", [False, True])
def test_nothing_stands_in_anybodys_way(browser: Browser, addresses: list[str], is_dark: bool) -> None:
    browser.dark(is_dark)
    found = {}
    # In the dark only colours differ, and a look takes a second.
    for address in addresses[:22] if is_dark else addresses:
        browser.open(address)
        if told := violations(browser):
            found[address] = told
    assert found == {}
